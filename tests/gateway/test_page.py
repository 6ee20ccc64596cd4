"""The build of the playground's page: from its sources, once."""

import shutil
from pathlib import Path

import pytest

from gateway import page
from gateway.page import built_page


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the page's sources; the page is built next to it."""
    copied = tmp_path / "playground"
    shutil.copytree(page.SOURCES, copied, ignore=shutil.ignore_patterns("node_modules"))
    monkeypatch.setattr(page, "SOURCES", copied)
    monkeypatch.setattr(page, "BUILT", tmp_path / ".cache" / "playground")
    return copied


def test_a_page_is_built_once_and_again_when_a_source_changes(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = built_page()
    assert (built / "index.html").is_file()
    assert "field-sizing" in (built / "style.css").read_text()
    with monkeypatch.context() as without_npm:
        without_npm.setenv("PATH", "")
        assert built_page() == built
    (sources / "style.css").write_text("body { color: teal }")
    assert (built_page() / "style.css").read_text() == "body{color:teal}\n"


@pytest.mark.usefixtures("sources")
def test_a_missing_npm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="npm is not installed"):
        built_page()


def test_a_source_that_cannot_be_built_is_an_error(sources: Path) -> None:
    (sources / "main.js").write_text("const = 1")
    with pytest.raises(RuntimeError, match="npm run failed"):
        built_page()
    assert not (page.BUILT / "sources.sha256").exists()
