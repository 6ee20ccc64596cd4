"""A file through the predictor, with stand-ins for tokenizer and encoder that a test can hold or break."""

import asyncio
import base64
import io
import json
import tempfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from embeddinggemma.batching import Batcher
from embeddinggemma.engine.contract import BatchTooLargeError, BrokenEncoderError, Float32Array
from embeddinggemma.leftovers import Leftovers
from embeddinggemma.prompts import add_prompt
from embeddinggemma.texts_file import embedding, sending
from embeddinggemma.tokenizer import TokenizedText
from embeddinggemma.traffic_log import TrafficLog
from predict import Output, Predictor
from tests.support.inputs import DEFAULTS

TOKENS_PER_BATCH = 100


class LengthTokenizer:
    """Gives a text three tokens, the second of which is its length; a text of x has too many tokens."""

    def tokenize(self, texts: Sequence[str]) -> list[TokenizedText]:
        return [TokenizedText(array("i", [2, len(text), 1]), 2300 if text.endswith("xx") else 3) for text in texts]

    def check_title(self, title: str) -> None:
        raise ValueError(f"title has {len(title):,} characters")


class HeldEncoder:
    """Keeps every pass until a test releases it."""

    def __init__(self) -> None:
        self.passes: list[tuple[Future[Float32Array], int]] = []
        self.texts = 0

    def __call__(self, token_ids: Sequence[Sequence[int]]) -> Future[Float32Array]:
        future: Future[Float32Array] = Future()
        self.passes.append((future, len(token_ids)))
        self.texts += len(token_ids)
        return future

    def release(self) -> None:
        future, texts = self.passes.pop(0)
        future.set_result(np.ones((texts, 768), np.float32))


def _encode(token_ids: Sequence[Sequence[int]]) -> Future[Float32Array]:
    """Return vectors that begin with the length of their text."""
    future: Future[Float32Array] = Future()
    vectors = np.ones((len(token_ids), 768), np.float32)
    vectors[:, 0] = [ids[1] for ids in token_ids]
    future.set_result(vectors)
    return future


def _failing(error: Exception) -> Callable[[Sequence[Sequence[int]]], Future[Float32Array]]:
    def fail(token_ids: Sequence[Sequence[int]]) -> Future[Float32Array]:
        future: Future[Float32Array] = Future()
        if any(ids[1] == len(add_prompt("bad", "none")) for ids in token_ids):
            future.set_exception(error)
            return future
        return _encode(token_ids)

    return fail


def _predictor(submit: Any = _encode) -> Predictor:
    predictor: Any = Predictor()
    predictor.tokenizer, predictor.batcher = LengthTokenizer(), Batcher(submit, TOKENS_PER_BATCH)
    predictor.traffic_log, predictor.leftovers = TrafficLog(0), Leftovers()
    return predictor  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files, which must be empty in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def file(tmp_path: Path) -> Callable[[Sequence[object]], Path]:
    """Make a file of these rows."""

    def make(rows: Sequence[object]) -> Path:
        (tmp_path / "file").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return tmp_path / "file"

    return make


Make = Callable[[Sequence[object]], Path]


def _inputs(path: Path, **inputs: Any) -> dict[str, Any]:
    return DEFAULTS | {"texts_file": path, "task": "none", "normalize": False} | inputs


def _run(path: Path, submit: Any = _encode, **inputs: Any) -> Output:
    output: Output = asyncio.run(_predictor(submit).predict(**_inputs(path, **inputs)))
    return output


def _content(output: Output) -> bytes:
    head, _, encoded = str(output.file).partition(",")
    assert head == "data:application/octet-stream;base64"
    return base64.b64decode(encoded)


def _array(output: Output) -> npt.NDArray[Any]:
    return np.load(io.BytesIO(_content(output)))  # type: ignore[no-any-return]


def test_every_row_has_its_own_vector_in_order(file: Make) -> None:
    lengths = [1 + (number * 37) % 90 for number in range(3000)]
    output = _run(file(["a" * length for length in lengths]))
    vectors = _array(output)
    assert (vectors.dtype, vectors.shape) == (np.dtype("<f4"), (3000, 768))
    assert vectors[:, 0].tolist() == lengths
    assert (output.embedding, output.output_format, output.shape) == (None, "npy", [3000, 768])
    assert (output.tokens, output.truncated) == (9000, 0)


@pytest.mark.parametrize(("dtype", "width"), [("float32", 256), ("float16", 256), ("int8", 256), ("ubinary", 32)])
def test_rows_that_are_skipped_are_nan_or_zero(
    file: Make, dtype: str, width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    output = _run(file(["a", "", "marzipan", 5]), skip_invalid=True, output_dtype=dtype, embedding_dim=256)
    vectors = _array(output)
    assert list(vectors.shape) == output.shape == [4, width]
    missing = np.isnan if vectors.dtype.kind == "f" else np.logical_not
    assert missing(vectors).all(axis=1).tolist() == [False, True, False, True]
    assert not missing(vectors[[0, 2]]).any()
    assert output.tokens == 6
    log = capsys.readouterr().out
    assert "texts_file: skipped row 2: text is empty" in log
    assert "texts_file: skipped row 4: the line is an int; it must be a string" in log
    assert "marzipan" not in log


def test_a_file_of_bad_rows_alone_computes_nothing(file: Make) -> None:
    output = _run(file([""] * 1500), lambda _: pytest.fail("something was computed"), skip_invalid=True)
    assert np.isnan(_array(output)).all()
    assert (output.shape, output.tokens, output.truncated) == ([1500, 768], 0, 0)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "ubinary"])
def test_ids_or_titles_make_it_parquet_with_nulls(tmp_path: Path, file: Make, dtype: str) -> None:
    rows: list[object] = [{"text": "a", "id": "x"}, {"text": "", "id": 7}, "bbb", {"text": "xx", "id": "y"}]
    output = _run(file(rows), skip_invalid=True, output_dtype=dtype, embedding_dim=128)
    assert output.output_format == "parquet"
    (tmp_path / "vectors.parquet").write_bytes(_content(output))
    table = pq.read_table(tmp_path / "vectors.parquet").to_pydict()
    assert table["id"] == ["x", "7", None, "y"]
    assert table["tokens"] == [3, None, 3, 3]
    assert table["truncated"] == [False, None, False, True]
    assert [vector and len(vector) for vector in table["vector"]] == [output.shape[1], None, *[output.shape[1]] * 2]
    if dtype == "float32":
        assert [vector and vector[0] for vector in table["vector"]] == [1, None, 3, 2]
    assert (output.tokens, output.truncated) == (9, 1)


def test_a_title_alone_makes_it_parquet_and_overrules_that_of_the_request(file: Make) -> None:
    rows: list[object] = [{"text": "a", "title": "Mars"}, "a"]
    seen: list[int] = []

    def note(token_ids: Sequence[Sequence[int]]) -> Future[Float32Array]:
        seen.extend(ids[1] for ids in token_ids)
        return _encode(token_ids)

    assert _run(file(rows), note, task="retrieval_document").output_format == "parquet"
    assert seen == [len(add_prompt("a", "retrieval_document", "Mars")), len(add_prompt("a", "retrieval_document"))]


def test_bad_rows_fail_the_request_before_anything_is_computed(file: Make) -> None:
    rows: list[object] = ["marzipan", *[""] * 12, {"text": "a", "title": "T"}]
    with pytest.raises(ValueError, match=r"^texts_file: 13 of 14 rows cannot be embedded") as refused:
        _run(file(rows), lambda _: pytest.fail("something was computed"))
    message = str(refused.value)
    assert "skip_invalid is false; the first 10: row 2: text is empty" in message
    assert "row 11:" in message
    assert "row 12:" not in message
    assert "marzipan" not in message


def test_a_few_bad_rows_are_all_named(file: Make) -> None:
    with pytest.raises(ValueError, match=r"1 of 2 rows .* skip_invalid is false: row 2: title goes with task"):
        _run(file(["a", {"text": "a", "title": "T"}]))


def test_a_long_title_is_checked_by_the_tokenizer(file: Make) -> None:
    rows: list[object] = [{"text": "a", "title": "T" * 501}, {"text": "a", "title": "T" * 500}]
    with pytest.raises(ValueError, match=r"1 of 2 rows .*: row 1: title has 501 characters$"):
        _run(file(rows), task="retrieval_document")


def test_a_long_text_is_cut_or_a_bad_row(file: Make, capsys: pytest.CaptureFixture[str]) -> None:
    path = file(["a", "xx", "a"])
    assert _run(path).truncated == 1
    assert "texts_file: of 1 texts the first 2,048 tokens were kept" in capsys.readouterr().out
    with pytest.raises(ValueError, match="row 2: text has 2,300 tokens, prompt included; the limit is 2,048"):
        _run(path, lambda _: pytest.fail("something was computed"), truncate=False)
    vectors = _array(_run(path, truncate=False, skip_invalid=True))
    assert np.isnan(vectors[:, 0]).tolist() == [False, True, False]


def test_the_list_of_skipped_rows_is_bounded(file: Make, capsys: pytest.CaptureFixture[str]) -> None:
    _run(file([""] * 1500), skip_invalid=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 101
    assert lines[-1] == "texts_file: skipped 1,500 rows in all"


def test_an_empty_file_is_refused(file: Make) -> None:
    with pytest.raises(ValueError, match=r"^texts_file has no rows"):
        _run(file([]))


def test_vectors_that_do_not_fit_in_the_answer_are_refused_before_anything_is_computed(
    file: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "MAX_INLINE", 10_000)
    message = "texts_file has 4 rows, whose vectors take 12,288 bytes; the limit within an answer is 10,000: "
    with pytest.raises(ValueError, match=message):
        _run(file(["a"] * 4), lambda _: pytest.fail("something was computed"))
    assert _array(_run(file(["a"] * 4), output_dtype="int8")).shape == (4, 768)
    with pytest.raises(ValueError, match="take 10,055 bytes"):
        _run(file([{"text": "a", "id": "x" * 6975}]))


def test_the_form_says_the_limit_within_an_answer() -> None:
    assert f"{sending.MAX_INLINE:,} bytes" in Predictor.predict.__defaults__[-1].description


def test_a_text_that_is_too_large_is_named_by_its_row(file: Make) -> None:
    rows = ["a"] * 1500 + ["bad"]
    with pytest.raises(BatchTooLargeError, match=r"^texts_file row 1,501 has 3 tokens, for which memory is short"):
        _run(file(rows), _failing(BatchTooLargeError("out of memory")))


def test_a_broken_encoder_fails_the_request(file: Make) -> None:
    with pytest.raises(BrokenEncoderError, match="the card fell off the bus"):
        _run(file(["a"] * 5000 + ["bad"]), _failing(BrokenEncoderError("the card fell off the bus")))


def test_it_says_how_far_it_is(file: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(embedding, "_PROGRESS_SECONDS", 0.0)
    _run(file(["a"] * 2560))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [f"texts_file: {rows} rows checked" for rows in ("1,024", "2,048", "2,560")]
    assert [line.partition(";")[0] for line in lines[3:]] == [
        "texts_file: 1,024 of 2,560 rows, 40%",
        "texts_file: 2,048 of 2,560 rows, 80%",
        "texts_file: 2,560 of 2,560 rows, 100%",
    ]
    assert all(line.endswith(" s left") for line in lines[3:])


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_a_short_text_beside_a_large_file_is_answered_long_before_the_file(file: Make) -> None:
    async def test() -> None:
        encoder = HeldEncoder()
        predictor = _predictor(encoder)
        large = asyncio.create_task(predictor.predict(**_inputs(file(["a"] * 5000))))
        await _until(lambda: bool(encoder.passes))
        short = asyncio.create_task(predictor.predict(**DEFAULTS | {"text": "short"}))
        for _ in range(2):  # the pass that has begun, and the one after it
            await _until(lambda: bool(encoder.passes))
            encoder.release()
        assert (await short).shape == [768]
        assert encoder.texts < 200
        while not large.done():
            if encoder.passes:
                encoder.release()
            await asyncio.sleep(0)
        assert (await large).shape == [5000, 768]

    asyncio.run(test())


def test_a_cancel_ends_it_at_the_next_batch(file: Make, temporary: Path) -> None:
    async def test() -> None:
        encoder = HeldEncoder()
        predictor = _predictor(encoder)
        large = asyncio.create_task(predictor.predict(**_inputs(file(["a"] * 5000))))
        await _until(lambda: bool(encoder.passes))
        assert len(list(temporary.iterdir())) == 1
        large.cancel()
        with pytest.raises(asyncio.CancelledError):
            await large
        assert list(temporary.iterdir()) == []
        short = asyncio.create_task(predictor.predict(**DEFAULTS | {"text": "short"}))
        encoder.release()
        await _until(lambda: bool(encoder.passes))
        assert [texts for _, texts in encoder.passes] == [1]
        encoder.release()
        await short

    asyncio.run(test())
