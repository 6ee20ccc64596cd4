import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from embeddinggemma.corpus.embedding import Worker, schema
from embeddinggemma.corpus.options import Options
from embeddinggemma.corpus.parts import plan_parts
from embeddinggemma.engine.encoder import Encoder, load_encoder
from embeddinggemma.prompts import add_prompt
from embeddinggemma.settings import Settings
from embeddinggemma.tokenizer import MAX_TOKENS, Tokenizer
from embeddinggemma.vectors import OUTPUT_DTYPES, finish
from embeddinggemma.weights.manifest import read_manifest
from tests.support.corpora import texts, write_jsonl
from tools.reference_model import warm_cache

TEXTS = [*texts(40), "a much longer text " * 300, "x", "👩‍🚀🚀🪐"]


@pytest.fixture(scope="module")
def encoder(small_model: Path) -> Encoder:
    return load_encoder(small_model)


@pytest.fixture(scope="module")
def tokenizer(small_model: Path) -> Tokenizer:
    return Tokenizer(small_model)


Embed = Callable[[list[dict[str, str]], Options], pa.Table]


@pytest.fixture
def embed(small_model: Path, tmp_path: Path) -> Embed:
    """Embed rows as a worker does, in this process."""
    settings = Settings.from_environment(warm_cache(small_model, tmp_path / "cache"))

    def embed(rows: list[dict[str, str]], options: Options) -> pa.Table:
        file = write_jsonl(tmp_path / "rows.jsonl", rows)
        worker = Worker(read_manifest(settings.manifest), settings, options, len(os.sched_getaffinity(0)))
        [part] = plan_parts(file, options)
        return worker.embed(part.slices).table

    return embed


def _alone(encoder: Encoder, tokenizer: Tokenizer, prompted: list[str]) -> np.ndarray:
    """Return the raw vectors of texts that never shared a forward pass."""
    return np.concatenate([encoder.encode([one.ids]) for one in tokenizer.tokenize(prompted)])


@pytest.mark.parametrize("dtype", OUTPUT_DTYPES)
@pytest.mark.parametrize("dimension", [768, 128])
def test_the_vectors_are_those_of_the_package(
    embed: Embed,
    encoder: Encoder,
    tokenizer: Tokenizer,
    dtype: str,
    dimension: int,
) -> None:
    table = embed([{"text": text} for text in TEXTS], Options(dtype=dtype, dimension=dimension))
    raw = _alone(encoder, tokenizer, [add_prompt(text, "retrieval_document") for text in TEXTS])
    expected = finish(raw, dimension, True, dtype)
    vectors = np.array(table["embedding"].to_pylist()).astype(expected.dtype)
    assert vectors.shape == expected.shape
    assert table.schema == schema(Options(dtype=dtype, dimension=dimension))
    if dtype == "ubinary":
        assert np.mean(np.unpackbits(vectors) == np.unpackbits(expected)) > 0.999
    else:
        step = {"float32": 1e-5, "float16": 1e-3, "int8": 1}[dtype]
        assert np.abs(vectors.astype(np.float64) - expected).max() <= step


def test_tokens_and_truncation_are_written(embed: Embed, tokenizer: Tokenizer) -> None:
    rows = ["short", "word " * 3000]
    table = embed([{"text": text} for text in rows], Options())
    expected = tokenizer.tokenize([add_prompt(text, "retrieval_document") for text in rows])
    assert table["tokens"].to_pylist() == [len(one.ids) for one in expected] == [table["tokens"][0].as_py(), MAX_TOKENS]
    assert table["truncated"].to_pylist() == [False, True]


def test_titles_and_tasks_go_into_the_prompt(
    embed: Embed,
    encoder: Encoder,
    tokenizer: Tokenizer,
) -> None:
    rows = [{"text": "same text", "title": "A title"}, {"text": "same text"}]
    table = embed(rows, Options(title_column="title"))
    prompted = [add_prompt("same text", "retrieval_document", title) for title in ("A title", None)]
    raw = _alone(encoder, tokenizer, [*prompted, add_prompt("same text", "clustering")])
    expected = finish(raw, 768, True, "float32")
    assert np.abs(np.array(table["embedding"].to_pylist()) - expected[:2]).max() < 1e-5
    table = embed(rows, Options(task="clustering"))
    assert np.abs(np.array(table["embedding"].to_pylist()) - expected[2]).max() < 1e-5


def test_a_chunks_vector_is_that_of_its_span(
    embed: Embed,
    encoder: Encoder,
    tokenizer: Tokenizer,
) -> None:
    text = " ".join(texts(200)) + " 👩‍👩‍👧‍👦\n\n"
    table = embed([{"text": "one chunk"}, {"text": text}], Options(chunk=100, overlap=10))
    chunks = table.to_pylist()[1:]
    assert table["chunk"].to_pylist() == [0, *range(len(chunks))]
    assert [one["text"] for one in chunks] == [text[one["start"] : one["end"]] for one in chunks]
    assert (chunks[0]["start"], chunks[-1]["end"]) == (0, len(text))
    assert table["id"].to_pylist() == ["rows.jsonl:1", *["rows.jsonl:2"] * len(chunks)]
    raw = _alone(encoder, tokenizer, [add_prompt(one["text"], "retrieval_document") for one in chunks])
    expected = finish(raw, 768, True, "float32")
    assert np.abs(np.array([one["embedding"] for one in chunks]) - expected).max() < 1e-5


def test_a_long_title_makes_chunks_smaller_and_an_endless_one_is_a_reject(small_model: Path, tmp_path: Path) -> None:
    settings = Settings.from_environment(warm_cache(small_model, tmp_path / "cache"))
    text = "word " * 3000
    rows = [{"text": text, "title": "title " * count} for count in (1500, 3000)]
    options = Options(title_column="title", chunk=1000)
    [part] = plan_parts(write_jsonl(tmp_path / "rows.jsonl", rows), options)
    worker = Worker(read_manifest(settings.manifest), settings, options, len(os.sched_getaffinity(0)))
    embedded = worker.embed(part.slices)
    assert not any(embedded.table["truncated"].to_pylist())
    assert embedded.table["end"].to_pylist()[-1] == len(text)
    assert [(reject.row, reject.reason) for reject in embedded.rejects] == [
        (2, "the title is so long that no room is left for the text")
    ]


def test_without_text_the_column_is_not_there(embed: Embed) -> None:
    table = embed([{"text": "one"}], Options(text=False))
    assert table.schema.names == ["id", "embedding", "tokens", "truncated"]
