"""docs/operations.md: its command, run as printed, and its settings, against the code that reads them."""

import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.documents import PAGES, first_column, printed, readers, run, section
from tools import PROJECT
from tools.processes import end
from tools.reference_model import warm_cache
from tools.server import free_port, wait_until_ready

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


def test_the_command_for_ipv6_listens_on_both(tmp_path: Path) -> None:
    [command] = re.findall(r"`(python -m cog\.server\.http .*?)`", PAGES["docs/operations.md"])
    port = free_port()
    variables = {"PORT": str(port), "COG_PREDICT_TYPE_STUB": "benchmarks/trivial.py:Predictor"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *shlex.split(command)[1:]], cwd=PROJECT, env=readers(variables), stdout=log, stderr=log
        )
    try:
        wait_until_ready(process, f"http://127.0.0.1:{port}")
        socket.create_connection(("::1", port), timeout=60).close()
    finally:
        end(process)
