"""The README's section on many texts: its commands, run as they are printed, and its table, against the code."""

import re
import subprocess
from pathlib import Path

from embeddinggemma.corpus.embedding import schema
from embeddinggemma.corpus.options import Options
from local_server import PROJECT
from tests.corpus import read_output, warm_cache, write_jsonl

SECTION = (PROJECT / "README.md").read_text().split("## Many texts\n")[1].split("\n## ")[0]
[COMMANDS] = re.findall(r"^```bash\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
ARTICLES = [
    {"title": "Venus", "text": "Venus is often called Earth's twin because of its similar size and proximity."},
    {"title": "Mars", "text": "Mars, known for its reddish appearance, is often referred to as the Red Planet."},
    {"title": "Jupiter", "text": "Jupiter, the largest planet in our solar system, has a prominent red spot."},
]


def test_the_commands_run_as_printed(small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "scripts").symlink_to(PROJECT / "scripts")
    write_jsonl(tmp_path / "articles.jsonl", ARTICLES)
    environment = warm_cache(small_model, tmp_path / "cache")
    finished = subprocess.run(
        ["bash", "-ec", COMMANDS],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert "rows: 3 = 3 embedded + 0 rejected" in finished.stdout
    assert all(article["text"] in finished.stdout for article in ARTICLES)
    assert read_output(tmp_path / "articles-embedded").num_rows == 3


def test_the_table_names_every_column() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", SECTION, re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert names == schema(Options(chunk=512)).names


def test_the_options_that_it_names_are_there() -> None:
    script = (PROJECT / "scripts" / "embed_corpus").read_text()
    for option in set(re.findall(r"--[a-z][\w-]*", SECTION)):
        assert f'"{option}"' in script, option
