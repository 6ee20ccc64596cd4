"""Exact search in the output: the cosine of a question with every vector, a row group in memory at a time.

The question stays in float32. A float16 or int8 vector is compared by its direction, which its numbers keep; a ubinary
vector by the direction of its signs, +1 or -1. So the score is always a true cosine of the question and of the stored
vector.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from embeddinggemma.corpus.embedding import schema
from embeddinggemma.corpus.options import MIN_CHUNK, Options
from embeddinggemma.corpus.output import parquet_files
from embeddinggemma.corpus.stores import Location, reason
from embeddinggemma.engine.contract import Float32Array


@dataclass(frozen=True)
class Hit:
    """A vector that was found: its score and its row."""

    score: float
    """Cosine, -1 to 1."""
    row: dict[str, Any]
    """The columns of the vector's row, except `embedding`."""


def check_files(folder: Location, dimension: int, dtype: str) -> None:
    """Refuse an output that has nothing to search, or other files than scripts/embed_corpus writes there.

    Raises:
        ValueError: the message names the file, and what is wrong with it.

    """
    if not parquet_files(folder):
        raise ValueError(f"{folder} has no vectors yet; run scripts/embed_corpus to its end")
    expected = schema(Options(dimension=dimension, dtype=dtype, chunk=MIN_CHUNK))  # with all columns there can be
    for path in parquet_files(folder):
        with _opened(path) as file:
            types = dict(zip(file.schema_arrow.names, file.schema_arrow.types, strict=True))
        needed = {"id", "embedding", *({"start", "end"} if "chunk" in types else set())}
        for field in expected:
            if types.get(field.name, None if field.name in needed else field.type) != field.type:
                raise ValueError(f"{path} is not of this output: it has no column {field.name} of type {field.type}")


def search(folder: Location, question: Float32Array, dtype: str, count: int) -> list[Hit]:
    """Return the vectors nearest to a question, the best first; with equal scores, in the order of the output.

    Args:
        folder: the output of scripts/embed_corpus.
        question: [dimension], the same dimension as the vectors; any length but 0.
        dtype: number type of the vectors.
        count: how many vectors to return at most.

    Raises:
        ValueError: a file is damaged.

    """
    scores = np.zeros(0, np.float32)
    places: list[tuple[Location, int, int]] = []
    for path, group, vectors in _row_groups(folder):
        found = cosines(vectors, question, dtype)
        scores = np.concatenate([scores, found])
        best = np.argsort(-scores, kind="stable")[:count]
        places = [places[index] if index < len(places) else (path, group, int(index) - len(places)) for index in best]
        scores = scores[best]
    return [Hit(float(score), _row(*place)) for score, place in zip(scores, places, strict=True)]


def cosines(vectors: npt.NDArray[Any], question: Float32Array, dtype: str) -> Float32Array:
    """Return the cosine of a question, [dimension], with each of the stored vectors, [rows, numbers]."""
    if dtype == "ubinary":
        vectors = np.unpackbits(vectors, axis=1).astype(np.float32) * 2 - 1
    floats = vectors.astype(np.float32)
    lengths = np.linalg.norm(floats, axis=1) * np.linalg.norm(question)
    similarities: Float32Array = (floats @ question) / np.maximum(lengths, np.finfo(np.float32).tiny)
    return similarities


def _row_groups(folder: Location) -> Iterator[tuple[Location, int, npt.NDArray[Any]]]:
    for path in parquet_files(folder):
        with _opened(path) as file:
            for group in range(file.num_row_groups):
                array = pa.concat_arrays(file.read_row_group(group, ["embedding"])["embedding"].chunks)
                yield path, group, array.flatten().to_numpy().reshape(len(array), array.type.list_size)


@contextmanager
def _opened(path: Location) -> Iterator[pq.ParquetFile]:
    try:
        with path.open("rb") as opened, pq.ParquetFile(opened) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise ValueError(
            f"{path} is damaged, or no Parquet file: {reason(error)}; remove it, and run scripts/embed_corpus again"
        ) from None


def _row(path: Location, group: int, position: int) -> dict[str, Any]:
    with _opened(path) as file:
        columns = [name for name in file.schema_arrow.names if name != "embedding"]
        [row] = file.read_row_group(group, columns).slice(position, 1).to_pylist()
    return dict(row)
