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
from tools.imports import missing_packages

_PYTHONS = ((3, 11), (3, 12), (3, 13))
_ENVIRONMENT = PROJECT / ".venv"
_PYTHON = _ENVIRONMENT / "bin" / "python"


def enter(*extras: str, runs: tuple[str, ...] = ()) -> None:
    """Return if the running Python has what the script needs; else prepare .venv and start the script again in it.

    extras: requirements files that the script needs besides requirements-dev.txt.
    runs: packages that it starts by `python -m`, or imports only within functions.
    """
    if sys.version_info[:2] not in _PYTHONS:
        supported = ", ".join(".".join(map(str, version)) for version in _PYTHONS)
        sys.exit(f"Python {supported} are supported; {sys.executable} is {sys.version.split()[0]}")
    if os.environ.get("EMBEDDINGGEMMA_ENVIRONMENT") == "none":
        _check_running_python(runs)
        return
    for requirements in ("requirements-dev.txt", *extras):
        _install(PROJECT / requirements)
    if Path(sys.prefix) != _ENVIRONMENT:
        os.execv(_PYTHON, [str(_PYTHON), *sys.argv])  # noqa: S606


def _check_running_python(runs: tuple[str, ...]) -> None:
    script = Path(sys.argv[0]).resolve()
    if missing := missing_packages(script, runs):
        sys.exit(
            f"scripts/{script.name} needs {', '.join(missing)}, which {sys.executable} does not have; install them, or "
            "leave EMBEDDINGGEMMA_ENVIRONMENT unset: .venv is then made with all of them"
        )


def _is_of_this_python() -> bool:
    """Return whether .venv was made by this version of Python: 3.11, 3.12, ..."""
    made = (_ENVIRONMENT / "pyvenv.cfg").read_text() if _ENVIRONMENT.exists() else ""
    return f"version = {sys.version_info.major}.{sys.version_info.minor}." in made


def _install(requirements: Path) -> None:
    """Install the packages of a requirements file, unless this version of the file is installed already."""
    name = "-".join(requirements.relative_to(PROJECT).with_suffix("").parts)
    stamp = _ENVIRONMENT / f"{name}.sha256"
    wanted = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"preparing {_ENVIRONMENT} (a few minutes the first time) ...", file=sys.stderr, flush=True)
    unfinished = not any(_ENVIRONMENT.glob("*.sha256"))
    if unfinished or not _is_of_this_python():
        venv.create(_ENVIRONMENT, with_pip=True, clear=True)
    install = [str(_PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "-r", str(requirements)]
    if subprocess.run(install, stdout=sys.stderr, check=False).returncode != 0:
        sys.exit(f"the packages of {requirements.name} could not be installed; pip's message is above")
    stamp.write_text(wanted)
