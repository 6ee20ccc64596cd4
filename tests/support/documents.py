"""The project's pages, the code that is printed in them, and how a reader would run it."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tools import PROJECT

RUN_LANGUAGES = ("python", "javascript", "bash")
"""Languages whose blocks the tests run as printed. Code that cannot run here is fenced as another language."""
_TIMEOUT = 600  # seconds; for a program that hangs

PAGES = {
    str(path.relative_to(PROJECT)): path.read_text()
    for path in [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
}
README = PAGES["README.md"]


def blocks(page: str, language: str) -> list[str]:
    """Return the code of a page's text that is fenced as this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def printed(name: str, language: str, piece: str) -> str:
    """Return the only block with this piece of code on a page; `name` is the page's name in PAGES.

    tests/docs/test_pages.py looks for calls of this function, to see which blocks are tested: give it literals.
    """
    [block] = [block for block in blocks(PAGES[name], language) if piece in block]
    return block


def section(name: str, heading: str) -> str:
    """Return the text below a heading of the second level."""
    return PAGES[name].split(f"\n## {heading}\n")[1].split("\n## ")[0]


def first_column(table: str) -> list[str]:
    """Return the names in backticks that the rows of a table begin with."""
    return [name for row in re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE) for name in re.findall(r"`(.+?)`", row)]


def readers(changes: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables of a reader whose `python` is that of the tests, some of them changed."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **changes}


def run(*command: str | Path, folder: Path = PROJECT, changes: Mapping[str, str] | None = None) -> str:
    """Run a command as a reader would, in a folder and with some variables changed; return what it prints.

    Raises:
        AssertionError: it failed; the message is what it wrote to stderr.

    """
    finished = subprocess.run(
        command,
        cwd=folder,
        env=readers(changes or {}),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


JAVASCRIPT_DECODER = printed("docs/api.md", "javascript", "function decode(")
[LOCAL_CLIENT] = re.findall(r"`(new Replicate\(\{ baseUrl: .*? \}\))`", PAGES["docs/api.md"])
"""JavaScript: Replicate's client for your own container."""
