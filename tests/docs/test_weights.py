"""docs/weights.md: its command, run as printed."""

from pathlib import Path

from tests.support.documents import printed, run
from tools import SCRIPTS

REFERENCE_MODEL = printed("docs/weights.md", "bash", "scripts/reference_model")


def test_the_reference_models_command_runs_as_printed(small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "scripts").symlink_to(SCRIPTS)
    run("bash", "-c", REFERENCE_MODEL, folder=tmp_path)
    made = (tmp_path / "reference" / "weights_manifest.json").read_bytes()
    assert made == (small_model / "weights_manifest.json").read_bytes()
