"""EMBEDDINGGEMMA_ENVIRONMENT=none: the scripts run in the current Python, or list the packages that it lacks."""

import os
import subprocess
import sys

import pytest

from tools import PROJECT, SCRIPTS

NAMES = sorted(path.name for path in SCRIPTS.iterdir() if path.suffix == "" and path.is_file())


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "EMBEDDINGGEMMA_ENVIRONMENT": "none"}
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)


def test_a_script_runs_in_this_python_from_any_folder() -> None:
    ran = _run(sys.executable, str(SCRIPTS / "openapi"), "--check")
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_script_lists_what_a_bare_python_lacks(name: str) -> None:
    bare = _run(sys.executable, "-S", str(SCRIPTS / name))
    assert bare.returncode == 1
    assert f"scripts/{name} needs " in bare.stderr
    assert "Traceback" not in bare.stderr


def test_an_unsupported_python_is_named() -> None:
    program = (
        "import sys; sys.version_info = (3, 10, 0)\n"
        f"sys.path.insert(0, {str(SCRIPTS)!r}); sys.path.insert(0, {str(PROJECT)!r})\n"
        "import environment; environment.enter()"
    )
    ran = _run(sys.executable, "-c", program)
    assert ran.returncode == 1
    assert "Python 3.11, 3.12, 3.13 are supported" in ran.stderr
