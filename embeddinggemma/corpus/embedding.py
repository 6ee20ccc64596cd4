"""Rows to a table of vectors: chunks, token ids, batches of similar length, the chosen number type."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from embeddinggemma.corpus.chunking import chunk_spans
from embeddinggemma.corpus.options import MIN_CHUNK, Options, text_room
from embeddinggemma.corpus.rows import Reject, Row, Slice, read_rows
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
    """A loaded model in its own process, with its own CPU cores or GPU; Ray creates it."""

    def __init__(self, manifest: Manifest, settings: Settings, options: Options, threads: int) -> None:
        """Load the model; the driver sends the manifest, because another machine does not have the driver's files.

        Raises:
            WeightsError, ManifestError, ValueError: as for Embedder.load.

        """
        self._rows = RowEmbedder(Embedder.load(replace(settings, threads=threads), manifest), options)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Embedded]]:
        """Embed one work unit, in the form in which Ray Data hands it over."""
        [slices] = batch["slices"]
        return {"embedded": [self._rows.embed(slices)]}


def _too_long(passage: _Passage, text: TokenizedText) -> Reject:
    row, tokens = passage.row, describe_tokens(text)
    return Reject(
        row.id, row.file, row.number, f"the text has {tokens} tokens, prompt included; the limit is {MAX_TOKENS:,}"
    )


class RowEmbedder:
    """Turns slices of files into a table of vectors."""

    def __init__(self, embedder: Embedder, options: Options) -> None:
        self._embedder, self._options = embedder, options

    def embed(self, slices: Sequence[Slice]) -> Embedded:
        """Embed the rows of all slices of a work unit together.

        Raises:
            OSError: a file cannot be read any more.

        """
        began = time.time()
        rows = [row for part_slice in slices for row in read_rows(part_slice, self._options)]
        outcomes = [self._cut(row) if isinstance(row, Row) else row for row in rows]
        rejects = [outcome for outcome in outcomes if isinstance(outcome, Reject)]
        passages = [passage for outcome in outcomes if not isinstance(outcome, Reject) for passage in outcome]
        prompted = [add_prompt(passage.text, self._options.task, passage.row.title) for passage in passages]
        tokenized = self._embedder.tokenizer.tokenize(prompted)
        if not self._options.truncate:
            rejects += [_too_long(*pair) for pair in zip(passages, tokenized, strict=True) if pair[1].truncated]
            kept = [pair for pair in zip(passages, tokenized, strict=True) if not pair[1].truncated]
            passages, tokenized = [passage for passage, _ in kept], [text for _, text in kept]
        return Embedded(self._table(passages, tokenized), rejects, len(rows) - len(rejects), began)

    def _cut(self, row: Row) -> list[_Passage] | Reject:
        """Return the row's passages: its chunks, or its whole text. A long title leaves less room for each chunk."""
        options, length = self._options, len(row.text)
        if options.chunk is None:
            return [_Passage(row, 0, 0, length)]
        chunk = min(options.chunk, text_room(self._embedder.tokenizer, options.task, row.title))
        if chunk < MIN_CHUNK:
            return Reject(row.id, row.file, row.number, "the title is so long that no room is left for the text")
        starts = self._embedder.tokenizer.token_starts(row.text)
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
