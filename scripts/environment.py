"""The local Python environment: `enter()` makes .venv from requirements-dev.txt and runs the script in it."""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
_ENVIRONMENT = PROJECT / ".venv"
_PYTHON = _ENVIRONMENT / "bin" / "python"
_REQUIREMENTS = PROJECT / "requirements-dev.txt"


def enter() -> None:
    """Return when the running Python is the project's; else prepare that and start the script again in it."""
    if Path(sys.prefix) == _ENVIRONMENT:
        sys.path.insert(0, str(PROJECT))
        return
    _prepare()
    os.execv(_PYTHON, [str(_PYTHON), *sys.argv])  # noqa: S606


def _prepare() -> None:
    stamp = _ENVIRONMENT / "requirements.sha256"
    wanted = hashlib.sha256(_REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    if sys.version_info[:2] != (3, 11):
        sys.exit(f"Python 3.11 is needed, as in the container; {sys.executable} is {sys.version.split()[0]}")
    print(f"preparing {_ENVIRONMENT} (a few minutes the first time) ...", file=sys.stderr, flush=True)
    venv.create(_ENVIRONMENT, with_pip=True, clear=not stamp.exists())
    install = [str(_PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "-r", str(_REQUIREMENTS)]
    if subprocess.run(install, stdout=sys.stderr, check=False).returncode != 0:
        sys.exit("the packages could not be installed; pip says why above")
    stamp.write_text(wanted)
