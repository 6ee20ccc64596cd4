"""docs/operations.md: its command, run as printed, and its settings, against the code that reads them."""

import re
from pathlib import Path

import pytest

from tests.support.documents import first_column, printed, run, section
from tools import PROJECT
from tools.reference_model import warm_cache

CHECK = printed("docs/operations.md", "bash", "python -m embeddinggemma.check")


@pytest.mark.slow
def test_the_check_runs_as_printed(small_model: Path, tmp_path: Path) -> None:
    output = run("bash", "-c", CHECK, changes=warm_cache(small_model, tmp_path))
    assert output.startswith("running: {")
    assert "sentence-transformers in float32 on the CPU" in output
    assert "| one text of 2,048 tokens |" in output


def _read_by(*paths: Path) -> set[str]:
    """Return the environment variables that these files name."""
    code = "\n".join(path.read_text() for path in paths)
    return set(re.findall(r'"((?:EMBEDDINGGEMMA_|HF_)[A-Z_]+)"', code))


def test_the_tables_have_every_variable() -> None:
    settings = _read_by(PROJECT / "embeddinggemma" / "settings.py")
    others = _read_by(PROJECT / "scripts" / "environment.py", *(PROJECT / "examples").glob("*.py"))
    assert sorted(first_column(section("docs/operations.md", "Settings"))) == sorted(settings | others)
