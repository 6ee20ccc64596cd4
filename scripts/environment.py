"""The local Python environment: `enter()` makes .venv from the requirements and runs the script in it."""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
_ENVIRONMENT = PROJECT / ".venv"
_PYTHON = _ENVIRONMENT / "bin" / "python"


def enter(*extras: str) -> None:
    """Return when the running Python is the project's; else prepare that and start the script again in it.

    extras: requirements files that the script needs beside requirements-dev.txt.
    """
    for requirements in ("requirements-dev.txt", *extras):
        _install(PROJECT / requirements)
    if Path(sys.prefix) != _ENVIRONMENT:
        os.execv(_PYTHON, [str(_PYTHON), *sys.argv])  # noqa: S606
    sys.path.insert(0, str(PROJECT))


def _install(requirements: Path) -> None:
    """Install what a requirements file lists, unless it was installed as it stands."""
    name = "-".join(requirements.relative_to(PROJECT).with_suffix("").parts)
    stamp = _ENVIRONMENT / f"{name}.sha256"
    wanted = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    if sys.version_info[:2] != (3, 11):
        sys.exit(f"Python 3.11 is needed, as in the container; {sys.executable} is {sys.version.split()[0]}")
    print(f"preparing {_ENVIRONMENT} (a few minutes the first time) ...", file=sys.stderr, flush=True)
    if not any(_ENVIRONMENT.glob("*.sha256")):  # nothing was ever installed to its end
        venv.create(_ENVIRONMENT, with_pip=True, clear=True)
    install = [str(_PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "-r", str(requirements)]
    if subprocess.run(install, stdout=sys.stderr, check=False).returncode != 0:
        sys.exit(f"the packages of {requirements.name} could not be installed; pip says why above")
    stamp.write_text(wanted)
