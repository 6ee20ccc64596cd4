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

from embeddinggemma.corpus.options import Options
from embeddinggemma.corpus.parts import plan_parts
from embeddinggemma.corpus.rows import Reject, Row, read_rows
from embeddinggemma.corpus.stores import Location
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


def pack(data: bytes, compression: str) -> bytes:
    """Return the bytes of a packed file: gzip, zstd or bz2."""
    packed = pa.BufferOutputStream()
    with pa.CompressedOutputStream(packed, compression) as stream:
        stream.write(data)
    return packed.getvalue().to_pybytes()  # type: ignore[no-any-return]


def read_rows_of(path: Location, options: Options | None = None, format: str | None = None) -> list[Row | Reject]:
    """Return every row of INPUT as the workers read them."""
    options = options or Options()
    parts = plan_parts(path, options, format)
    rows = [row for part in parts for part_slice in part.slices for row in read_rows(part_slice, options)]
    assert sum(part.rows for part in parts) == len(rows)
    return rows


def texts_of(rows: Sequence[Row | Reject]) -> list[str]:
    """Return the texts of the rows, and the reasons of the rejects."""
    return [row.text if isinstance(row, Row) else row.reason for row in rows]


def run_script(variables: dict[str, str], name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script to its end, whether it succeeds or fails; `variables` change its environment."""
    command = [str(SCRIPTS / name), *map(str, arguments)]
    return subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=1200, check=False
    )


def read_output(folder: Path) -> pa.Table:
    """Read an output folder as a user would."""
    return pq.read_table(folder)
