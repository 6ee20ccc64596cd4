"""docs/code.md: the files, functions and folders that it names exist, and no file is left out."""

import re
from pathlib import Path

import pytest

from tests.support.documents import PAGES, first_column
from tools import PROJECT

PAGE = PAGES["docs/code.md"]
PACKAGE = PROJECT / "embeddinggemma"
TABLES = dict(re.findall(r"^`([\w/]+)/`, [^\n]*:\n\n((?:\|.*\n)+)", PAGE, re.MULTILINE))


def _file(name: str) -> Path:
    """Return the file of a path, which begins at the project's folder, the package or embeddinggemma/weights."""
    roots = [PROJECT, PACKAGE, PACKAGE / "weights"]
    [file] = {root / name for root in roots if (root / name).is_file()}
    return file


def test_the_page_has_a_table_for_every_package() -> None:
    packages = [*PACKAGE.rglob("__init__.py"), *(PROJECT / "gateway").rglob("__init__.py")]
    assert set(TABLES) == {str(path.parent.relative_to(PROJECT)) for path in packages}


@pytest.mark.parametrize("folder", TABLES)
def test_a_table_has_every_file(folder: str) -> None:
    files = {path.name for path in (PROJECT / folder).glob("*.py")} - {"__init__.py"}
    names = first_column(TABLES[folder])
    assert len(names) == len(set(names))
    assert set(names) == files


@pytest.mark.parametrize(("name", "file"), re.findall(r"`([A-Z_a-z][\w.]+)`(?:, | in | \()`([\w/]+\.\w+)`", PAGE))
def test_a_name_is_in_its_file(name: str, file: str) -> None:
    assert re.search(rf"\b{name.rpartition('.')[2]}\b", _file(file).read_text())


def test_every_path_exists() -> None:
    for path in re.findall(r"`([\w/]+/)`", PAGE):
        assert (PROJECT / path).is_dir(), path
    for file in re.findall(r"`((?:\w+/)+\w+\.\w+)`", PAGE):
        assert _file(file)
