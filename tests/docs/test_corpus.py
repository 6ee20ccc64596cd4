"""docs/corpus.md: its commands, run as printed, and its tables, against the code."""

import re
from pathlib import Path

import pytest

from embeddinggemma.corpus.embedding import schema
from embeddinggemma.corpus.options import Options
from tests.support.corpora import read_output, write_jsonl
from tests.support.documents import PAGES, first_column, printed, run, section
from tools import SCRIPTS
from tools.reference_model import warm_cache

COMMANDS = printed("docs/corpus.md", "bash", "scripts/embed_corpus")
ARTICLES = [
    {"title": "Venus", "text": "Venus is often called Earth's twin because of its similar size and proximity."},
    {"title": "Mars", "text": "Mars, known for its reddish appearance, is often referred to as the Red Planet."},
    {"title": "Jupiter", "text": "Jupiter, the largest planet in our solar system, has a prominent red spot."},
]


@pytest.mark.slow
def test_the_commands_run_as_printed(small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "scripts").symlink_to(SCRIPTS)
    write_jsonl(tmp_path / "articles.jsonl", ARTICLES)
    output = run("bash", "-ec", COMMANDS, folder=tmp_path, changes=warm_cache(small_model, tmp_path / "cache"))
    assert "rows: 3 = 3 embedded + 0 rejected" in output
    assert all(article["text"] in output for article in ARTICLES)
    assert read_output(tmp_path / "articles-embedded").num_rows == 3


def test_the_table_names_every_column() -> None:
    assert first_column(section("docs/corpus.md", "What comes out")) == schema(Options(chunk=512)).names


def test_the_options_that_the_page_names_exist() -> None:
    scripts = (SCRIPTS / "embed_corpus").read_text() + (SCRIPTS / "search").read_text()
    options = set(re.findall(r"`(--?[a-z][\w-]*)", PAGES["docs/corpus.md"]))
    assert len(options) > 10
    for option in options:
        assert f'"{option}"' in scripts, option
