"""Rows to a table of vectors: chunks and token ids first, then the vectors in the chosen number type."""

import time
import traceback
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from embeddinggemma.corpus.chunking import chunk_spans
from embeddinggemma.corpus.options import JOINT_TOKENS, MIN_CHUNK, Options, text_room
from embeddinggemma.corpus.rows import Reject, Row, Slice, read_rows
from embeddinggemma.corpus.stores import reason
from embeddinggemma.engine.contract import Float32Array
from embeddinggemma.prompts import add_prompt
from embeddinggemma.tokenizer import MAX_TOKENS, TokenizedText, Tokenizer, describe_tokens
from embeddinggemma.vectors import finish

_NUMBERS = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8(), "ubinary": pa.uint8()}


Encode = Callable[[Sequence[Sequence[int]]], Float32Array]
"""Token ids to raw vectors, as `Embedder.encode`."""


@dataclass(frozen=True)
class Tokenized:
    """A work unit whose rows wait for their vectors."""

    table: pa.Table
    """See `schema`; without `embedding`."""
    ids: "list[array[int]]"
    """The token ids of each row of the table."""
    rejects: list[Reject]
    rows: int
    """As in Embedded."""


@dataclass(frozen=True)
class Embedded:
    """The result of one work unit."""

    table: pa.Table
    """See `schema`."""
    rejects: list[Reject]
    rows: int
    """Rows that are in the table; a row may be there as several chunks."""
    began: float
    """When the model was given it, in seconds since the epoch."""

    @property
    def tokens(self) -> int:
        """Return the tokens of all its vectors, prompts included."""
        return int(pc.sum(self.table["tokens"], min_count=0).as_py())


@dataclass(frozen=True)
class _Passage:
    """What one vector is made from: a row's text, or a chunk of it."""

    row: Row
    chunk: int
    start: int
    end: int

    @property
    def text(self) -> str:
        return self.row.text[self.start : self.end]


def schema(options: Options) -> pa.Schema:
    """Return the columns of the output files.

    With ubinary, each number holds eight signs. With chunks, `start` and `end` are characters of the row's text, end
    excluded, and `text` is what lies between them.
    """
    size = options.dimension // 8 if options.dtype == "ubinary" else options.dimension
    fields = [
        pa.field("id", pa.string()),
        *([pa.field("text", pa.string())] if options.text else []),
        pa.field("embedding", pa.list_(_NUMBERS[options.dtype], size)),
        pa.field("tokens", pa.int32()),
        pa.field("truncated", pa.bool_()),
    ]
    if options.chunk is not None:
        fields += [pa.field("chunk", pa.int32()), pa.field("start", pa.int64()), pa.field("end", pa.int64())]
    return pa.schema(fields)


def describe_error(error: Exception) -> str:
    """Return a line for people: the message of an error that this project or the system raised, else only its place."""
    if isinstance(error, OSError):
        return f"{error.filename}: {reason(error)}" if error.filename else reason(error)
    if isinstance(error, ValueError | RuntimeError):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {place.filename}, line {place.lineno}; please report it"


def _reject(row: Row, reason: str) -> Reject:
    return Reject(row.id, row.file, row.number, reason)


class RowTokenizer:
    """Turns slices of files into token ids, and all that is known of a vector before the model has seen them."""

    def __init__(self, tokenizer: Tokenizer, options: Options) -> None:
        self._tokenizer, self._options = tokenizer, options

    def tokenize(self, slices: Sequence[Slice]) -> Tokenized:
        """Tokenize the rows of all slices of a work unit together.

        Raises:
            ValueError: a file cannot be read any more, or has changed.

        """
        rows = [row for part_slice in slices for row in read_rows(part_slice, self._options)]
        outcomes = [self._cut(row) if isinstance(row, Row) else row for row in rows]
        rejects = [outcome for outcome in outcomes if isinstance(outcome, Reject)]
        passages = [passage for outcome in outcomes if not isinstance(outcome, Reject) for passage in outcome]
        prompted = [add_prompt(passage.text, self._options.task, passage.row.title) for passage in passages]
        kept: list[tuple[_Passage, TokenizedText]] = []
        for passage, tokens in zip(passages, self._tokenizer.tokenize(prompted), strict=True):
            if reason := self._why_not(tokens):
                rejects.append(_reject(passage.row, reason))
            else:
                kept.append((passage, tokens))
        ids = [tokens.ids for _, tokens in kept]
        return Tokenized(self._table(kept), ids, rejects, len(rows) - len(rejects))

    def _why_not(self, tokens: TokenizedText) -> str | None:
        """Return why a passage with so many tokens is not embedded; None: it is."""
        if self._options.truncate or not tokens.truncated:
            return None
        return f"the text has {describe_tokens(tokens)} tokens, prompt included; the limit is {MAX_TOKENS:,}"

    def _cut(self, row: Row) -> list[_Passage] | Reject:
        """Return the row's passages: its chunks, or its whole text. A long title leaves less room for each chunk."""
        options, tokenizer, length = self._options, self._tokenizer, len(row.text)
        if row.title:
            try:
                tokenizer.check_title(row.title, MIN_CHUNK + JOINT_TOKENS if options.chunk else 1)
            except ValueError as error:
                return _reject(row, str(error))
        if options.chunk is None:
            return [_Passage(row, 0, 0, length)]
        chunk = min(options.chunk, text_room(tokenizer, options.task, row.title))
        starts = tokenizer.token_starts(row.text)
        spans = chunk_spans(starts, length, chunk, min(options.overlap, chunk // 2))
        return [_Passage(row, number, start, end) for number, (start, end) in enumerate(spans)]

    def _table(self, kept: Sequence[tuple[_Passage, TokenizedText]]) -> pa.Table:
        columns = schema(self._options)
        values = {
            "id": [passage.row.id for passage, _ in kept],
            "text": [passage.text for passage, _ in kept],
            "tokens": [len(tokens.ids) for _, tokens in kept],
            "truncated": [tokens.truncated for _, tokens in kept],
            "chunk": [passage.chunk for passage, _ in kept],
            "start": [passage.start for passage, _ in kept],
            "end": [passage.end for passage, _ in kept],
        }
        without_vectors = columns.remove(columns.get_field_index("embedding"))
        return pa.table(
            [pa.array(values[name], without_vectors.field(name).type) for name in without_vectors.names],
            schema=without_vectors,
        )


def with_vectors(tokenized: Tokenized, encode: Encode, options: Options) -> Embedded:
    """Return the result of a work unit: its rows with the vectors of their token ids."""
    began, columns = time.time(), schema(options)
    position, type = columns.get_field_index("embedding"), columns.field("embedding").type
    vectors = finish(encode(tokenized.ids), options.dimension, True, options.dtype)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1), type.value_type), type.list_size)
    table = tokenized.table.add_column(position, columns.field(position), embedding)
    return Embedded(table, tokenized.rejects, tokenized.rows, began)
