"""The playground's page, built from playground/ with the packages that its lock file pins."""

import hashlib
import subprocess
import sys
from pathlib import Path

from tools import PROJECT

SOURCES = PROJECT / "playground"
BUILT = PROJECT / ".cache" / "playground"  # as the build command in package.json says


def built_page() -> Path:
    """Return the folder of the built page; if the sources changed, install its packages and build it again.

    Raises:
        RuntimeError: npm is missing, or could not install or build; its output, on stderr, says why.

    """
    stamp = BUILT / "sources.sha256"
    wanted = _digest()
    if stamp.exists() and stamp.read_text() == wanted:
        return BUILT
    print("building the page ...", file=sys.stderr, flush=True)
    stamp.unlink(missing_ok=True)
    _npm("ci", "--no-audit", "--no-fund")
    _npm("run", "build")
    stamp.write_text(wanted)
    return BUILT


def _digest() -> str:
    files = sorted(path for path in SOURCES.iterdir() if path.is_file())
    return hashlib.sha256(b"\0".join(path.name.encode() + b"\0" + path.read_bytes() for path in files)).hexdigest()


def _npm(*arguments: str) -> None:
    try:
        finished = subprocess.run(["npm", *arguments, "--silent"], cwd=SOURCES, stdout=sys.stderr, check=False)
    except FileNotFoundError:
        raise RuntimeError("npm is not installed; the page needs Node.js 20 with npm to be built") from None
    if finished.returncode != 0:
        raise RuntimeError(f"npm {arguments[0]} failed in {SOURCES}")
