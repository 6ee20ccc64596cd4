"""Files that people have, in `cases`, and what comes out of each."""

from pathlib import Path

import pytest

from embeddinggemma import Embedder
from embeddinggemma.corpus.embedding import RowTokenizer, with_vectors
from embeddinggemma.corpus.options import Options
from embeddinggemma.corpus.parts import plan_parts
from tests.support.corpora import read_rows_of, texts_of

CASES = Path(__file__).parent / "cases"

READ = [
    ("rows.json", Options(id_column="id"), ["first row of a JSON array", "second row"]),
    ("rows.tsv", Options(id_column="id"), ["first row, with a comma", "second row"]),
    ("rows.jsonl.gz", Options(), ["first row", "second row"]),
    ("semicolons.csv", Options(delimiter=";"), ["first row", "second row"]),
    ("latin1.csv", Options(encoding="latin-1"), ["café au lait", "plain"]),
    ("utf16.csv", Options(encoding="utf-16"), ["hello", "world"]),
    ("misspelt_column.jsonl", Options(title_column="title", id_column="id"), ["hello", "world"]),
    (
        "unclosed_quote.csv",
        Options(quotes=False),
        [("" if row != 6 else '"') + f"row {row}" for row in range(1, 21)],
    ),
]


@pytest.mark.parametrize(("name", "options", "texts"), READ, ids=[name for name, *_ in READ])
def test_every_row_is_read(name: str, options: Options, texts: list[str]) -> None:
    assert texts_of(read_rows_of(CASES / name, options)) == texts


REFUSED = [
    ("misspelt_column.jsonl", Options(title_column="titel"), "has 'titel', only text, title, id; choose with --title"),
    ("misspelt_column.jsonl", Options(id_column="ID"), "has 'ID', only text, title, id; choose with --id-column"),
    ("misspelt_column.jsonl", Options(text_column="body"), "has 'body', only text, title, id; choose with --text"),
    ("unclosed_quote.csv", Options(), "the quote that opens in line 7 has no end; mend it, or give --no-quotes"),
    ("semicolons.csv", Options(), "no column 'text', only id;text; .* with --delimiter ';' it has its columns"),
    ("utf16.csv", Options(), "it is not UTF-8, but utf-16; give --encoding utf-16"),
    ("latin1.csv", Options(encoding="utf-16"), "is not in the encoding that --encoding gives"),
]


@pytest.mark.parametrize(("name", "options", "message"), REFUSED)
def test_what_is_not_clear_is_refused_before_work_begins(name: str, options: Options, message: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}.*{message}"):
        read_rows_of(CASES / name, options)


def test_a_row_in_another_encoding_is_rejected_alone_and_its_reason_names_the_option() -> None:
    rejected, read = texts_of(read_rows_of(CASES / "latin1.csv"))
    assert rejected == "the row is not UTF-8; --encoding says what it is: often cp1252 or latin-1"
    assert read == "plain"


def test_whole_floats_become_ids() -> None:
    assert [row.id for row in read_rows_of(CASES / "float_ids.jsonl", Options(id_column="id"))] == ["1", "2"]


def test_rows_that_name_the_images_token_are_embedded(embedder: Embedder) -> None:
    [part] = plan_parts(CASES / "image_soft_token.jsonl", Options())
    tokenized = RowTokenizer(embedder.tokenizer, Options()).tokenize(part.slices)
    embedded = with_vectors(tokenized, embedder.encode, Options())
    assert (embedded.rows, embedded.rejects) == (3, [])
