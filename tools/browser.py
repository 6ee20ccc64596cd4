"""Chromium, driven by browser.mjs. A visit runs a few lines of playwright's JavaScript in a page."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools import PROJECT

_DRIVER = Path(__file__).with_name("browser.mjs")
_PACKAGE, _LOCK = (Path(__file__).with_name(name) for name in ("package.json", "package-lock.json"))


def node_modules() -> Path:
    """Return a folder in which Node.js finds the packages of tools/package.json; install them if they are missing."""
    folder = PROJECT / ".cache" / "node"
    folder.mkdir(parents=True, exist_ok=True)
    installed = folder / "node_modules" / _LOCK.name
    if not installed.exists() or installed.read_bytes() != _LOCK.read_bytes():
        for file in (_PACKAGE, _LOCK):
            shutil.copy(file, folder)
        command = ["npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
        subprocess.run(command, cwd=folder, check=True)
        shutil.copy(_LOCK, installed)
    return folder


@dataclass(frozen=True)
class Visit:
    """The result of a visit."""

    value: Any
    """The value that the script returned."""
    requests: list[str]
    """The URLs that the page requested."""


class Browser:
    """A headless Chromium, started for every visit."""

    def __init__(self, node_modules: Path) -> None:
        """Use the playwright-core that is installed in this folder."""
        self._folder = node_modules
        shutil.copy(_DRIVER, node_modules)

    def visit(
        self,
        url: str,
        script: str,
        *,
        given: object = None,
        width: int = 1280,
        scheme: str = "light",
        replaced: Mapping[str, object] | None = None,
    ) -> Visit:
        """Open a page and run a script, the body of an async function of `page` (playwright's) and `given`.

        width: of the window, in pixels, which is 900 high. scheme: light or dark.
        replaced: the JSON that the page gets for a path instead of the server's answer.
        """
        asked = {"url": url, "script": script, "given": given, "width": width, "scheme": scheme}
        finished = subprocess.run(
            ["node", _DRIVER.name],
            cwd=self._folder,
            input=json.dumps({**asked, "replaced": replaced or {}}),
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        visited = json.loads(finished.stdout)
        assert visited["errors"] == []
        return Visit(visited["value"], visited["requests"])
