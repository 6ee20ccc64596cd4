"""Corpora for the tests: rows written as files, and runs of the scripts that read them."""

import json
import os
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tools import SCRIPTS

WORDS = ["vectors", "carry", "meaning", "across", "languages", "and", "machines", "compare", "them", "quickly", "when"]


def texts(count: int, *, words: int = 30) -> list[str]:
    """Return different texts, the same in every run."""
    chosen = random.Random(300)  # noqa: S311
    return [" ".join(chosen.choices(WORDS, k=chosen.randint(1, words))) + f" {number}" for number in range(count)]


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    """Write one row per line."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def run_script(variables: dict[str, str], name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script to its end, whether it succeeds or fails; `variables` change its environment."""
    command = [str(SCRIPTS / name), *map(str, arguments)]
    return subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=1200, check=False
    )


def read_output(folder: Path) -> pa.Table:
    """Read an output folder as a user would."""
    return pq.read_table(folder)
