import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from embeddinggemma import Embedder
from embeddinggemma.corpus.embedding import Embedded, RowTokenizer, describe_error, schema, with_vectors
from embeddinggemma.corpus.options import Options
from embeddinggemma.corpus.parts import plan_parts
from embeddinggemma.prompts import add_prompt
from embeddinggemma.tokenizer import MAX_TOKENS
from embeddinggemma.vectors import OUTPUT_DTYPES
from tests.support.corpora import texts, write_jsonl

NO_ROOM = (
    r"title has (\d,\d{3}|over 2,048) tokens, prompt included; the limit is 2,0\d\d, so that there is room for the text"
)
TEXTS = [*texts(40), "a much longer text " * 300, "x", "👩‍🚀🚀🪐"]


Embed = Callable[[list[dict[str, str]], Options], Embedded]


@pytest.fixture
def embed(embedder: Embedder, tmp_path: Path) -> Embed:
    """Embed rows as a worker does, in this process."""

    def embed(rows: list[dict[str, str]], options: Options) -> Embedded:
        [part] = plan_parts(write_jsonl(tmp_path / "rows.jsonl", rows), options)
        return with_vectors(RowTokenizer(embedder.tokenizer, options).tokenize(part.slices), embedder.encode, options)

    return embed


def _alone(embedder: Embedder, texts: Sequence[str], **arguments: Any) -> npt.NDArray[Any]:
    """Return the vectors of texts that never shared a forward pass."""
    return np.concatenate([embedder.embed([text], **arguments) for text in texts])


@pytest.mark.parametrize("dtype", OUTPUT_DTYPES)
@pytest.mark.parametrize("dimension", [768, 128])
def test_the_vectors_are_those_of_the_library(embed: Embed, embedder: Embedder, dtype: str, dimension: int) -> None:
    options = Options(dtype=dtype, dimension=dimension)
    table = embed([{"text": text} for text in TEXTS], options).table
    expected = _alone(embedder, TEXTS, dtype=dtype, dimension=dimension)
    vectors = np.array(table["embedding"].to_pylist()).astype(expected.dtype)
    assert vectors.shape == expected.shape
    assert table.schema == schema(options)
    if dtype == "ubinary":
        assert np.mean(np.unpackbits(vectors) == np.unpackbits(expected)) > 0.999
    else:
        step = {"float32": 1e-5, "float16": 1e-3, "int8": 1}[dtype]
        assert np.abs(vectors.astype(np.float64) - expected).max() <= step


def test_tokens_and_truncation_are_written(embed: Embed, embedder: Embedder) -> None:
    rows = ["short", "word " * 3000]
    table = embed([{"text": text} for text in rows], Options()).table
    expected = embedder.tokenizer.tokenize([add_prompt(text, "retrieval_document") for text in rows])
    assert table["tokens"].to_pylist() == [len(text.ids) for text in expected]
    assert table["tokens"][1].as_py() == MAX_TOKENS
    assert table["truncated"].to_pylist() == [False, True]


def test_texts_that_would_be_truncated_can_be_rejected(embed: Embed) -> None:
    embedded = embed([{"text": text} for text in ("first", "word " * 3000, "last")], Options(truncate=False))
    assert embedded.table["text"].to_pylist() == ["first", "last"]
    assert embedded.rows == 2
    [reject] = embedded.rejects
    assert reject.row == 2
    assert re.fullmatch(r"the text has 3,00\d tokens, prompt included; the limit is 2,048", reject.reason)


def test_titles_and_tasks_are_in_the_prompt(embed: Embed, embedder: Embedder) -> None:
    rows = [{"text": "same text", "title": "A title"}, {"text": "same text"}]
    titled = np.array(embed(rows, Options(title_column="title")).table["embedding"].to_pylist())
    assert np.abs(titled[0] - embedder.embed(["same text"], title="A title")[0]).max() < 1e-5
    assert np.abs(titled[1] - embedder.embed(["same text"])[0]).max() < 1e-5
    clustered = np.array(embed(rows, Options(task="clustering")).table["embedding"].to_pylist())
    assert np.abs(clustered - embedder.embed(["same text"], task="clustering")).max() < 1e-5


def test_a_chunks_vector_is_that_of_its_span(embed: Embed, embedder: Embedder) -> None:
    text = " ".join(texts(200)) + " 👩‍👩‍👧‍👦\n\n"
    table = embed([{"text": "one chunk"}, {"text": text}], Options(chunk=100, overlap=10)).table
    chunks = table.to_pylist()[1:]
    assert table["chunk"].to_pylist() == [0, *range(len(chunks))]
    assert [chunk["text"] for chunk in chunks] == [text[chunk["start"] : chunk["end"]] for chunk in chunks]
    assert (chunks[0]["start"], chunks[-1]["end"]) == (0, len(text))
    assert table["id"].to_pylist() == ["rows.jsonl:1", *["rows.jsonl:2"] * len(chunks)]
    expected = _alone(embedder, [chunk["text"] for chunk in chunks])
    assert np.abs(np.array([chunk["embedding"] for chunk in chunks]) - expected).max() < 1e-5


def test_a_long_title_makes_chunks_smaller_and_an_endless_one_is_a_reject(embed: Embed) -> None:
    text = "word " * 3000
    rows = [{"text": text, "title": "title " * count} for count in (1500, 3000)]
    embedded = embed(rows, Options(title_column="title", chunk=1000))
    assert not any(embedded.table["truncated"].to_pylist())
    assert embedded.table["end"].to_pylist()[-1] == len(text)
    [reject] = embedded.rejects
    assert reject.row == 2
    assert re.fullmatch(NO_ROOM, reject.reason)


@pytest.mark.parametrize("truncate", [True, False])
def test_a_title_that_leaves_nothing_of_the_text_is_a_reject(embed: Embed, embedder: Embedder, truncate: bool) -> None:
    """Otherwise all texts of that title would have one and the same vector."""

    def fits(title: str) -> bool:
        [prompt] = embedder.tokenizer.tokenize([add_prompt("", "retrieval_document", title)])
        return len(prompt.ids) < MAX_TOKENS

    title = "title " * 2030
    while fits(title + " x"):
        title += " x"
    rows = [
        {"text": text, "title": longer} for longer in (title, title + " x", "x " * 90_000) for text in ("one", "two")
    ]
    embedded = embed(rows, Options(title_column="title", truncate=truncate))
    assert [reject.row for reject in embedded.rejects] == [3, 4, 5, 6]
    assert all(re.fullmatch(NO_ROOM, reject.reason) for reject in embedded.rejects)
    first, second = np.array(embedded.table["embedding"].to_pylist())
    assert np.abs(first - second).max() > 1e-6


def test_without_text_the_column_is_not_there(embed: Embed) -> None:
    table = embed([{"text": "one"}], Options(text=False)).table
    assert table.schema.names == ["id", "embedding", "tokens", "truncated"]


def test_of_an_unexpected_error_only_its_place_is_told() -> None:
    try:
        {}["a text of a user's"]  # type: ignore[index]
    except KeyError as error:
        line = describe_error(error)
    assert re.fullmatch(r"KeyError in \S+/test_embedding\.py, line \d+; please report it", line)
