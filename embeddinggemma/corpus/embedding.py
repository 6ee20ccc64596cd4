"""Rows to a table of vectors: chunks, token ids, batches of similar length, the chosen number type."""

import pickle
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from embeddinggemma.corpus.chunking import chunk_spans
from embeddinggemma.corpus.options import JOINT_TOKENS, MIN_CHUNK, Options, text_room
from embeddinggemma.corpus.rows import Reject, Row, Slice, read_rows
from embeddinggemma.corpus.stores import reason
from embeddinggemma.embedder import Embedder
from embeddinggemma.prompts import add_prompt
from embeddinggemma.settings import Settings
from embeddinggemma.tokenizer import MAX_TOKENS, TokenizedText, describe_tokens
from embeddinggemma.vectors import finish
from embeddinggemma.weights.manifest import Manifest

_NUMBERS = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8(), "ubinary": pa.uint8()}


@dataclass(frozen=True)
class Embedded:
    """The result of one work unit."""

    table: pa.Table
    """See `schema`."""
    rejects: list[Reject]
    rows: int
    """Rows that are in the table; a row may be there as several chunks."""
    began: float
    """When the work on it began, in seconds since the epoch."""

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


class Worker:
    """A loaded model in its own process, with its own CPU cores or GPU; Ray creates it.

    Slices, results and errors travel as bytes. Of objects that Ray cannot convert, and of errors that it gets to see,
    it writes parts, texts and all, into logs that every user of the machine can read.
    """

    def __init__(self, manifest: Manifest, settings: Settings, options: Options, threads: int) -> None:
        """Load the model; the driver sends the manifest, because another machine does not have the driver's files."""
        self._rows: RowEmbedder | None = None
        try:
            self._rows = RowEmbedder(Embedder.load(replace(settings, threads=threads), manifest), options)
        except Exception as error:
            self._error = describe_error(error)

    def __call__(self, units: pa.Table) -> pa.Table:
        """Embed one work unit, in the form in which Ray Data hands it over; `result_of` reads the answer."""
        [slices] = units["unit"].to_pylist()
        embedded: Embedded | str
        try:
            embedded = self._rows.embed(pickle.loads(slices)) if self._rows else self._error  # noqa: S301 - our driver's
        except Exception as error:
            embedded = describe_error(error)
        return pa.table({"embedded": pa.array([pickle.dumps(embedded, protocol=5)], pa.large_binary())})


def result_of(answer: bytes) -> Embedded:
    """Return the result of a work unit.

    Raises:
        RuntimeError: the worker could not embed it; the message says why.

    """
    embedded: Embedded | str = pickle.loads(answer)  # noqa: S301 - our own worker's
    if isinstance(embedded, str):
        raise RuntimeError(embedded)
    return embedded


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


class RowEmbedder:
    """Turns slices of files into a table of vectors."""

    def __init__(self, embedder: Embedder, options: Options) -> None:
        self._embedder, self._options = embedder, options

    def embed(self, slices: Sequence[Slice]) -> Embedded:
        """Embed the rows of all slices of a work unit together.

        Raises:
            ValueError: a file cannot be read any more, or has changed.

        """
        began = time.time()
        rows = [row for part_slice in slices for row in read_rows(part_slice, self._options)]
        outcomes = [self._cut(row) if isinstance(row, Row) else row for row in rows]
        rejects = [outcome for outcome in outcomes if isinstance(outcome, Reject)]
        passages = [passage for outcome in outcomes if not isinstance(outcome, Reject) for passage in outcome]
        prompted = [add_prompt(passage.text, self._options.task, passage.row.title) for passage in passages]
        tokenized = self._embedder.tokenizer.tokenize(prompted)
        kept: list[tuple[_Passage, TokenizedText]] = []
        for passage, tokens in zip(passages, tokenized, strict=True):
            if reason := self._why_not(tokens):
                rejects.append(_reject(passage.row, reason))
            else:
                kept.append((passage, tokens))
        table = self._table([passage for passage, _ in kept], [tokens for _, tokens in kept])
        return Embedded(table, rejects, len(rows) - len(rejects), began)

    def _why_not(self, tokens: TokenizedText) -> str | None:
        """Return why a passage with so many tokens is not embedded; None: it is."""
        if self._options.truncate or not tokens.truncated:
            return None
        return f"the text has {describe_tokens(tokens)} tokens, prompt included; the limit is {MAX_TOKENS:,}"

    def _cut(self, row: Row) -> list[_Passage] | Reject:
        """Return the row's passages: its chunks, or its whole text. A long title leaves less room for each chunk."""
        options, tokenizer, length = self._options, self._embedder.tokenizer, len(row.text)
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

    def _table(self, passages: Sequence[_Passage], tokenized: Sequence[TokenizedText]) -> pa.Table:
        options, columns = self._options, schema(self._options)
        raw = self._embedder.encode([text.ids for text in tokenized])
        vectors = finish(raw, options.dimension, True, options.dtype)
        embedding = columns.field("embedding").type
        values = {
            "id": [passage.row.id for passage in passages],
            "text": [passage.text for passage in passages],
            "embedding": pa.FixedSizeListArray.from_arrays(
                pa.array(vectors.reshape(-1), embedding.value_type), embedding.list_size
            ),
            "tokens": [len(text.ids) for text in tokenized],
            "truncated": [text.truncated for text in tokenized],
            "chunk": [passage.chunk for passage in passages],
            "start": [passage.start for passage in passages],
            "end": [passage.end for passage in passages],
        }
        return pa.table([pa.array(values[name], columns.field(name).type) for name in columns.names], schema=columns)
