"""The Python that the scripts run in: .venv, made and filled once, or with EMBEDDINGGEMMA_ENVIRONMENT=none this one.

No test makes the project's own .venv: they make that of a copy, whose requirements are empty.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools import PROJECT, SCRIPTS

NAMES = sorted(path.name for path in SCRIPTS.iterdir() if path.suffix == "" and path.is_file())
HELLO = """#!/usr/bin/env python3
import environment

environment.enter()

import sys

print(*sys.argv[1:], sys.prefix)
"""
# Runs a script as another build of this Python would.
OTHER_BUILD = """
import runpy, sys
sys.version = "another build of " + sys.version
sys.path.insert(0, sys.argv[1])
sys.argv = [f"{sys.argv[1]}/hello", *sys.argv[2:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _run(*command: str | Path, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "EMBEDDINGGEMMA_ENVIRONMENT": "none", **changes}
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


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what makes .venv, with a script and without requirements."""
    project = tmp_path / "project"
    (project / "scripts").mkdir(parents=True)
    shutil.copy(SCRIPTS / "environment.py", project / "scripts")
    shutil.copytree(PROJECT / "tools", project / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    (project / "requirements-dev.txt").touch()
    (project / "scripts" / "hello").write_text(HELLO)
    return project


def _hello(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return _run(sys.executable, project / "scripts" / "hello", *arguments, EMBEDDINGGEMMA_ENVIRONMENT="")


def test_the_environment_is_made_once_whatever_python_a_command_is_started_with(project: Path) -> None:
    first = _hello(project, "one")
    assert first.stdout == f"one {project / '.venv'}\n", first.stderr
    assert "making" in first.stderr
    again = _hello(project, "two")
    assert (again.stdout, again.stderr) == (f"two {project / '.venv'}\n", "")
    other = _run(sys.executable, "-c", OTHER_BUILD, project / "scripts", "three", EMBEDDINGGEMMA_ENVIRONMENT="")
    assert (other.stdout, other.stderr) == (f"three {project / '.venv'}\n", "")
    (project / "requirements-dev.txt").write_text("# another version\n")
    changed = _hello(project, "four")
    assert "installing requirements-dev.txt" in changed.stderr
    assert "making" not in changed.stderr
    assert _hello(project, "five").stderr == ""


def test_an_environment_of_another_version_of_python_is_made_anew(project: Path) -> None:
    assert _hello(project, "one").returncode == 0
    made = project / ".venv" / "pyvenv.cfg"
    made.write_text(made.read_text().replace("version = 3.", "version = 2."))
    again = _hello(project, "two")
    assert again.stdout == f"two {project / '.venv'}\n", again.stderr
    assert "making" in again.stderr


def test_an_environment_that_cannot_be_made_is_an_error_in_one_sentence(project: Path) -> None:
    (project / ".venv").write_text("a file")
    ran = _hello(project)
    assert ran.returncode == 1
    assert f"{project}/.venv cannot be made: " in ran.stderr
    assert "EMBEDDINGGEMMA_ENVIRONMENT=none" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_pip_that_cannot_be_put_there_is_an_error_in_one_sentence(project: Path) -> None:
    command = 'ulimit -f 100; exec "$@"'  # as on a full disk
    ran = _run("bash", "-c", command, "-", sys.executable, project / "scripts" / "hello", EMBEDDINGGEMMA_ENVIRONMENT="")
    assert ran.returncode == 1
    assert f"cannot put pip into {project}/.venv: " in ran.stderr
    assert "apt-get install python3-venv" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_failed_installation_leaves_pips_message(project: Path) -> None:
    (project / "requirements-dev.txt").write_text("./no-such-folder\n")
    ran = _hello(project)
    assert ran.returncode == 1
    assert "the packages of requirements-dev.txt could not be installed; pip's message is above" in ran.stderr
    assert "Traceback" not in ran.stderr
