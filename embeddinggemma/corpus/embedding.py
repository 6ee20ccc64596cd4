"""Rows to a table of vectors: chunks, token ids, batches of like length, the chosen number type."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embeddinggemma.corpus.chunking import chunk_spans
from embeddinggemma.corpus.options import LEAST_CHUNK, Options, text_room
from embeddinggemma.corpus.rows import Reject, Row, Slice, read_rows
from embeddinggemma.manifest import Manifest
from embeddinggemma.prompts import add_prompt
from embeddinggemma.settings import Settings
from embeddinggemma.tokenizer import TokenizedText, Tokenizer
from embeddinggemma.vectors import DIMENSIONS, Float32Array, finish
from embeddinggemma.weights import ensure_weights

if TYPE_CHECKING:
    from embeddinggemma.encoder import Encoder  # imports torch, which must not come before its thread count is set

_NUMBERS = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8(), "ubinary": pa.uint8()}


@dataclass(frozen=True)
class Embedded:
    """What became of the rows of some slices."""

    table: pa.Table
    """See `schema`."""
    rejects: list[Reject]
    rows: int
    """Rows that are in the table, be it in several chunks."""
    began: float
    """When the work on it began, in seconds since the epoch."""

    @property
    def tokens(self) -> int:
        """Of all its vectors, prompts included."""
        return int(pc.sum(self.table["tokens"], min_count=0).as_py())


@dataclass(frozen=True)
class _Piece:
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

    Of ubinary, each number holds eight signs. With chunks, `start` and `end` are characters of the row's text, end
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


class Embedder:
    """A worker's loaded model; Ray makes one in a process of its own, with its CPU cores or its GPU."""

    def __init__(self, manifest: Manifest, settings: Settings, options: Options, threads: int) -> None:
        """Verify the weights, on another machine download them if need be, and load them.

        Raises:
            WeightsError, ManifestError, ValueError: as for ensure_weights and load_encoder.

        """
        for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
            os.environ[variable] = str(threads)
        import torch

        from embeddinggemma.encoder import load_encoder

        torch.set_num_threads(threads)
        folder = ensure_weights(manifest, settings.store)
        self._tokenizer = Tokenizer(folder)
        self._encoder = load_encoder(folder, settings.engine, settings.dtype)
        self._tokens_per_batch = settings.tokens_per_batch or self._encoder.tokens_per_batch
        self._options = options

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Embedded]]:
        """Embed a batch of one item, as Ray Data hands it over."""
        [slices] = batch["slices"]
        return {"embedded": [self.embed(slices)]}

    def embed(self, slices: Sequence[Slice]) -> Embedded:
        """Embed the rows of some slices together.

        Raises:
            OSError: a file cannot be read any more.

        """
        began = time.time()
        read = [one for section in slices for one in read_rows(section, self._options)]
        cut = [self._cut(one) if isinstance(one, Row) else one for one in read]
        rejects = [one for one in cut if isinstance(one, Reject)]
        pieces = [piece for one in cut if not isinstance(one, Reject) for piece in one]
        prompted = [add_prompt(piece.text, self._options.task, piece.row.title) for piece in pieces]
        return Embedded(self._table(pieces, self._tokenizer.encode(prompted)), rejects, len(cut) - len(rejects), began)

    def _cut(self, row: Row) -> list[_Piece] | Reject:
        """Return the row's chunks, or its text as a whole; a long title leaves less room for each chunk."""
        options, length = self._options, len(row.text)
        if options.chunk is None:
            return [_Piece(row, 0, 0, length)]
        chunk = min(options.chunk, text_room(self._tokenizer, options.task, row.title))
        if chunk < LEAST_CHUNK:
            return Reject(row.id, row.file, row.number, "the title is so long that no room is left for the text")
        starts = self._tokenizer.token_starts(row.text)
        spans = chunk_spans(starts, length, chunk, min(options.overlap, chunk // 2))
        return [_Piece(row, number, start, end) for number, (start, end) in enumerate(spans)]

    def _table(self, pieces: Sequence[_Piece], tokenized: Sequence[TokenizedText]) -> pa.Table:
        options, columns = self._options, schema(self._options)
        raw = encode(self._encoder, [one.ids for one in tokenized], self._tokens_per_batch)
        vectors = finish(raw, options.dimension, True, options.dtype)
        embedding = columns.field("embedding").type
        values = {
            "id": [piece.row.id for piece in pieces],
            "text": [piece.text for piece in pieces],
            "embedding": pa.FixedSizeListArray.from_arrays(
                pa.array(vectors.reshape(-1), embedding.value_type), embedding.list_size
            ),
            "tokens": [len(one.ids) for one in tokenized],
            "truncated": [one.truncated for one in tokenized],
            "chunk": [piece.chunk for piece in pieces],
            "start": [piece.start for piece in pieces],
            "end": [piece.end for piece in pieces],
        }
        return pa.table([pa.array(values[name], columns.field(name).type) for name in columns.names], schema=columns)


def encode(encoder: "Encoder", token_ids: Sequence[Sequence[int]], tokens_per_batch: int) -> Float32Array:
    """Return the raw vector of each text, float32 [texts, 768], texts of like length sharing a forward pass."""
    batches = token_batches([len(ids) for ids in token_ids], tokens_per_batch)
    running = [encoder.submit([token_ids[position] for position in batch]) for batch in batches]
    raw = np.empty((len(token_ids), DIMENSIONS[0]), np.float32)
    for batch, vectors in zip(batches, running, strict=True):
        raw[batch] = vectors.result()
    return raw


def token_batches(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Return the positions of all texts, the shortest first, in batches of at most so many tokens or one text."""
    batches: list[list[int]] = []
    room = 0
    for position in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not batches or lengths[position] > room:
            batches.append([])
            room = tokens_per_batch
        batches[-1].append(position)
        room -= lengths[position]
    return batches
