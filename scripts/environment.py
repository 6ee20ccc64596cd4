"""The Python that the scripts run in: `enter()` makes .venv from the requirements and runs the script in it.

With EMBEDDINGGEMMA_ENVIRONMENT=none the running Python is used as it is, and nothing is installed.
"""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import PROJECT
from tools.command import begin
from tools.imports import missing_packages

_PYTHONS = ((3, 11), (3, 12), (3, 13))
_ENVIRONMENT = PROJECT / ".venv"
_PYTHON = _ENVIRONMENT / "bin" / "python"
_WITHOUT = "or set EMBEDDINGGEMMA_ENVIRONMENT=none to use a Python that has the packages"


def enter(*extras: str, runs: tuple[str, ...] = ()) -> None:
    """Return if the running Python has what the script needs; else prepare .venv and start the script again in it.

    What .venv holds is judged by .venv's own Python alone: the one that a command is started with may be another.

    extras: requirements files that the script needs besides requirements-dev.txt.
    runs: packages that it starts by `python -m`, or imports only within functions.
    """
    begin()
    if os.environ.get("EMBEDDINGGEMMA_ENVIRONMENT") == "none":
        _check_version()
        _check_running_python(runs)
        return
    is_own = Path(sys.prefix) == _ENVIRONMENT
    if not (_is_of_this_python() if is_own else _is_made()):
        _make()
        _start_again()
    if not is_own:
        _start_again()
    installed = [_install(PROJECT / requirements) for requirements in ("requirements-dev.txt", *extras)]
    if any(installed):
        _start_again()


def _check_version() -> None:
    if sys.version_info[:2] not in _PYTHONS:
        supported = ", ".join(".".join(map(str, version)) for version in _PYTHONS)
        sys.exit(f"Python {supported} are supported; {sys.executable} is {sys.version.split()[0]}")


def _check_running_python(runs: tuple[str, ...]) -> None:
    script = Path(sys.argv[0]).resolve()
    if missing := missing_packages(script, runs):
        sys.exit(
            f"scripts/{script.name} needs {', '.join(missing)}, which {sys.executable} does not have; install them, or "
            "leave EMBEDDINGGEMMA_ENVIRONMENT unset: .venv is then made with all of them"
        )


def _is_made() -> bool:
    """Return whether .venv has a Python, and was not left half made."""
    return _PYTHON.exists() and any(_ENVIRONMENT.glob("*.sha256"))


def _is_of_this_python() -> bool:
    """Return whether .venv was made by this version of Python, 3.11, 3.12 ...; the one that it links to may change."""
    made = (_ENVIRONMENT / "pyvenv.cfg").read_text()
    return f"version = {sys.version_info.major}.{sys.version_info.minor}." in made


def _make() -> None:
    _check_version()
    print(f"making {_ENVIRONMENT} ...", file=sys.stderr, flush=True)
    try:
        venv.create(_ENVIRONMENT, with_pip=True, clear=True)
    except subprocess.CalledProcessError as error:
        reason = error.output.decode(errors="replace").strip().rpartition("\n")[2]
        sys.exit(
            f"{sys.executable} cannot put pip into {_ENVIRONMENT}: {reason}; if it has no ensurepip, install that (on "
            "Debian: apt-get install python3-venv)"
        )
    except (OSError, ValueError) as error:
        sys.exit(f"{_ENVIRONMENT} cannot be made: {error}; change that, {_WITHOUT}")


def _start_again() -> None:
    os.execv(_PYTHON, [str(_PYTHON), *sys.argv])  # noqa: S606


def _install(requirements: Path) -> bool:
    """Install the packages of a requirements file; return False if this version of the file is installed already."""
    name = "-".join(requirements.relative_to(PROJECT).with_suffix("").parts)
    stamp = _ENVIRONMENT / f"{name}.sha256"
    wanted = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return False
    print(f"installing {requirements.name} (a few minutes the first time) ...", file=sys.stderr, flush=True)
    install = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "-r", str(requirements)]
    if subprocess.run(install, stdout=sys.stderr, check=False).returncode != 0:
        sys.exit(f"the packages of {requirements.name} could not be installed; pip's message is above")
    try:
        stamp.write_text(wanted)
    except OSError as error:
        sys.exit(f"{stamp} cannot be written: {error.strerror}; change that, {_WITHOUT}")
    return True
