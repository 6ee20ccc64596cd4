"""Chromium, driven by tests/browser.mjs; what a test does in the page is a few lines of playwright's JavaScript."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DRIVER = Path(__file__).with_name("browser.mjs")


@dataclass(frozen=True)
class Visit:
    """What came of a visit: what the script returned, and the URLs that the page asked for."""

    value: Any
    requests: list[str]


class Browser:
    """A headless Chromium, started for every visit."""

    def __init__(self, node_modules: Path) -> None:
        """Drive it with the playwright-core that is installed in a folder."""
        self._folder = node_modules
        shutil.copy(DRIVER, node_modules)

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
        replaced: the JSON that the page gets for a path in place of the server's.
        """
        asked = {"url": url, "script": script, "given": given, "width": width, "scheme": scheme}
        finished = subprocess.run(
            ["node", DRIVER.name],
            cwd=self._folder,
            input=json.dumps({**asked, "replaced": replaced or {}}),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        told = json.loads(finished.stdout)
        assert told["errors"] == []
        return Visit(told["value"], told["requests"])
