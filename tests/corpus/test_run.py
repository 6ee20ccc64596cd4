import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from embeddinggemma.corpus.output import parquet_files
from embeddinggemma.corpus.run import Placement, Workers, place
from tests.support.corpora import read_output, run_script, texts, write_jsonl
from tools import SCRIPTS
from tools.client import wait_until

TEXTS = texts(2500)
ROWS: list[dict[str, object]] = [{"text": text} for text in [*TEXTS, " ", 3]]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "rows.jsonl", ROWS)


@pytest.fixture(scope="module")
def whole(variables: dict[str, str], corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run without interruption."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    finished = run_script(variables, "embed_corpus", corpus, folder, "--rows-per-part", 100, "--workers", 2)
    assert finished.returncode == 0, finished.stderr
    assert f"rows: {len(ROWS):,} = {len(TEXTS):,} embedded + 2 rejected" in finished.stdout
    return folder


@pytest.mark.slow
def test_every_row_is_embedded_once_and_in_order(whole: Path) -> None:
    table = read_output(whole)
    assert table["text"].to_pylist() == TEXTS
    assert table["id"].to_pylist() == [f"rows.jsonl:{row}" for row in range(1, len(TEXTS) + 1)]
    lengths = np.linalg.norm(np.array(table["embedding"].to_pylist(), np.float32), axis=1)
    assert np.abs(lengths - 1).max() < 1e-5


@pytest.mark.slow
def test_a_killed_run_is_resumed_without_redoing_or_losing_anything(
    variables: dict[str, str], corpus: Path, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    command: list[str | Path] = [SCRIPTS / "embed_corpus", corpus, folder, "--rows-per-part", "100", "--workers", "2"]
    process = subprocess.Popen(command, env={**os.environ, **variables}, stderr=subprocess.DEVNULL)

    def has_a_finished_part() -> bool:
        assert process.poll() is None, "the run has ended"
        return len(parquet_files(folder)) >= 1

    wait_until(has_a_finished_part, timeout=1200)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in parquet_files(folder)}
    assert 1 <= len(before) < len(parquet_files(whole))

    refused = run_script(variables, "embed_corpus", corpus, folder, "--rows-per-part", 100, "--dtype", "int8")
    assert refused.returncode == 1
    assert "was begun with dtype 'float32', and now it is 'int8'" in refused.stderr

    resumed = run_script(variables, "embed_corpus", corpus, folder, "--rows-per-part", 100, "--workers", 2)
    assert resumed.returncode == 0, resumed.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    table, expected = read_output(folder), read_output(whole)
    assert table.drop_columns("embedding").equals(expected.drop_columns("embedding"))
    difference = np.array(table["embedding"].to_pylist()) - np.array(expected["embedding"].to_pylist())
    assert np.abs(difference).max() < 1e-5
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in whole.iterdir())


@pytest.mark.slow
def test_a_finished_corpus_is_not_embedded_again(variables: dict[str, str], corpus: Path, whole: Path) -> None:
    again = run_script(variables, "embed_corpus", corpus, whole, "--rows-per-part", 100)
    assert again.returncode == 0, again.stderr
    assert "this run" not in again.stdout
    assert f"rows: {len(ROWS):,} = {len(TEXTS):,} embedded + 2 rejected" in again.stdout


@pytest.mark.slow
def test_search_refuses_other_weights(variables: dict[str, str], whole: Path) -> None:
    genuine = {name: value for name, value in variables.items() if name != "EMBEDDINGGEMMA_MANIFEST"}
    refused = run_script(genuine, "search", whole, "a question")
    assert refused.returncode == 1
    assert "the vectors are of the weights embeddinggemma-small-" in refused.stderr


@pytest.mark.parametrize(
    ("workers", "cpus", "gpus", "expected"),
    [
        (Workers(), 1, 0, Placement(1, 1, 0)),
        (Workers(), 8, 0, Placement(8, 1, 0)),
        (Workers(count=2), 8, 0, Placement(2, 4, 0)),
        (Workers(threads=4), 8, 0, Placement(2, 4, 0)),
        (Workers(count=3, threads=1), 8, 0, Placement(3, 1, 0)),
        (Workers(count=2), 2, 0, Placement(2, 1, 0)),
        (Workers(), 16, 4, Placement(4, 4, 1)),
        (Workers(count=1), 16, 4, Placement(1, 16, 1)),
    ],
)
def test_each_worker_has_a_gpu_or_some_cores(workers: Workers, cpus: int, gpus: int, expected: Placement) -> None:
    assert place(workers, cpus, gpus) == expected


@pytest.mark.parametrize(
    ("workers", "cpus", "gpus", "message"),
    [
        (Workers(count=0), 2, 0, "--workers is 0; it must be at least 1"),
        (Workers(threads=0), 2, 0, "--threads is 0; it must be at least 1"),
        (Workers(count=3), 2, 0, "--workers 3 with --threads 1 need more than there is: 2 CPU cores"),
        (Workers(count=2), 16, 1, "--workers 2 with --threads 8 need more than there is: 16 CPU cores and 1 GPUs"),
    ],
)
def test_more_than_the_machines_have_is_refused(workers: Workers, cpus: int, gpus: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        place(workers, cpus, gpus)
