from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from embeddinggemma.corpus.embedding import Embedded
from embeddinggemma.corpus.options import Options
from embeddinggemma.corpus.parts import plan_parts
from embeddinggemma.corpus.placement import Placement
from embeddinggemma.corpus.rows import Slice
from embeddinggemma.corpus.run import results_of, session_folder, work_units
from embeddinggemma.corpus.stages import Task, Worker, embedding, encoding, packed_unit, result_of, tokenizing
from embeddinggemma.embedder import Embedder, pinned_manifest
from embeddinggemma.settings import Settings
from tests.support.corpora import texts, write_jsonl
from tools import PROJECT


@pytest.fixture
def task(variables: dict[str, str]) -> Task:
    settings = Settings.from_environment(variables)
    return Task(pinned_manifest(settings), settings, Options())


def _answer(unit: object, *workers: Worker) -> Embedded:
    """Return what a driver gets for a work unit that goes through these workers."""
    answer = packed_unit(unit)
    for worker in workers:
        answer = worker(answer)
        assert answer.schema == pa.schema({"unit": pa.large_binary()})  # what Ray can convert
    return result_of(answer["unit"][0].as_py())


def test_two_stages_give_what_one_gives(task: Task, tmp_path: Path) -> None:
    rows = [{"text": "one"}, {"text": " "}, *({"text": text} for text in texts(100))]
    [part] = plan_parts(write_jsonl(tmp_path / "rows.jsonl", rows), task.options)
    one = _answer(part.slices, Worker(embedding, task, 1))
    two = _answer(part.slices, Worker(tokenizing, task, 1), Worker(encoding, task, 1))
    assert one.table["text"].to_pylist() == ["one", *texts(100)]
    assert [reject.row for reject in one.rejects] == [2]
    assert two.table.equals(one.table)
    assert (two.rejects, two.rows) == (one.rejects, 101)


def test_a_work_unit_of_which_every_row_is_rejected_goes_through_both_stages(task: Task, tmp_path: Path) -> None:
    [part] = plan_parts(write_jsonl(tmp_path / "rows.jsonl", [{"text": " "}]), task.options)
    embedded = _answer(part.slices, Worker(tokenizing, task, 1), Worker(encoding, task, 1))
    assert (embedded.table.num_rows, embedded.rows, len(embedded.rejects)) == (0, 0, 1)


def test_an_error_of_a_stage_reaches_the_driver_as_a_line_and_not_ray(task: Task, tmp_path: Path) -> None:
    """Ray writes errors and all that belongs to them into logs that every user can read."""
    gone = (Slice("jsonl", tmp_path / "gone.jsonl", "gone.jsonl", 1, 1),)
    encoder = Worker(encoding, task, 1)
    for workers in ([Worker(embedding, task, 1)], [Worker(tokenizing, task, 1), encoder]):
        with pytest.raises(RuntimeError, match=r"^\S+/gone\.jsonl cannot be read: No such file or directory$"):
            _answer(gone, *workers)
    wrong = replace(task, settings=replace(task.settings, dtype="float16"))
    [part] = plan_parts(write_jsonl(tmp_path / "rows.jsonl", [{"text": "one"}]), task.options)
    for workers in ([Worker(embedding, wrong, 1)], [Worker(tokenizing, wrong, 1), Worker(encoding, wrong, 1)]):
        with pytest.raises(RuntimeError, match=r"^dtype is float16, which is for GPUs without bfloat16"):
            _answer(part.slices, *workers)


@pytest.mark.slow
def test_gpu_workers_get_their_texts_from_processes_that_tokenize_and_all_comes_back_in_order(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray is told of GPUs, and the workers find none: they compute on the CPU."""
    import ray

    rows = [{"text": text} for text in [*texts(2000), " ", "x" * 300_000, "last"]]
    parts = plan_parts(write_jsonl(tmp_path / "rows.jsonl", rows), replace(task.options, rows_per_part=500))
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    placement = Placement(workers=2, threads=2, gpus=1)
    units = [unit for part in parts for unit in work_units(part, placement)]
    with session_folder() as session:
        ray.init(address="local", num_cpus=4, num_gpus=2, include_dashboard=False, _temp_dir=str(session))
        try:
            results = list(results_of(units, placement, task))
        finally:
            ray.shutdown()
    assert len(results) == len(units)
    table = pa.concat_tables([embedded.table for embedded in results])
    assert table["text"].to_pylist() == [*texts(2000), "x" * 300_000, "last"]
    assert [reject.row for embedded in results for reject in embedded.rejects] == [2001]
    embedder = Embedder.load(task.settings, task.manifest)
    expected = embedder.embed(texts(100))
    assert np.abs(np.array(table["embedding"][:100].to_pylist()) - expected).max() < 1e-5
