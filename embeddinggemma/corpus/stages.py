"""The stages of the work, each in processes of its own, which Ray creates: tokenizing on CPU cores, vectors on GPUs.

Without a GPU one process does both: tokenizing is a thousandth of the work there.
"""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from embeddinggemma.corpus.embedding import Embedded, RowTokenizer, Tokenized, describe_error, with_vectors
from embeddinggemma.corpus.options import Options
from embeddinggemma.corpus.rows import Slice
from embeddinggemma.embedder import Embedder
from embeddinggemma.settings import Settings
from embeddinggemma.threads import set_threads
from embeddinggemma.tokenizer import Tokenizer
from embeddinggemma.weights.cache import ensure_weights
from embeddinggemma.weights.manifest import Manifest


@dataclass(frozen=True)
class Task:
    """What the processes need; the driver sends the manifest, as another machine does not have the driver's files."""

    manifest: Manifest
    settings: Settings
    options: Options


Load = Callable[[Task, int], Callable[[Any], Any]]
"""Returns the work of a stage, given how many threads it may keep busy."""


def tokenizing(task: Task, threads: int) -> Callable[[Sequence[Slice]], Tokenized]:
    """Load the tokenizer."""
    set_threads(threads)
    return RowTokenizer(Tokenizer(ensure_weights(task.manifest, task.settings.store)), task.options).tokenize


def encoding(task: Task, threads: int) -> Callable[[Tokenized], Embedded]:
    """Load the model."""
    embedder = _embedder(task, threads)
    return lambda tokenized: with_vectors(tokenized, embedder.encode, task.options)


def embedding(task: Task, threads: int) -> Callable[[Sequence[Slice]], Embedded]:
    """Load the model, for both stages in one process."""
    embedder = _embedder(task, threads)
    rows = RowTokenizer(embedder.tokenizer, task.options)
    return lambda slices: with_vectors(rows.tokenize(slices), embedder.encode, task.options)


def _embedder(task: Task, threads: int) -> Embedder:
    return Embedder.load(replace(task.settings, threads=threads), task.manifest)


class Worker:
    """A process of a stage, with its own CPU cores or GPU.

    Slices, results and errors travel as bytes. Of objects that Ray cannot convert, and of errors that it gets to see,
    it writes parts, texts and all, into logs that every user of the machine can read.
    """

    def __init__(self, load: Load, task: Task, threads: int) -> None:
        """Load what the stage works with."""
        self._work: Callable[[Any], Any] | None = None
        try:
            self._work = load(task, threads)
        except Exception as error:
            self._error = describe_error(error)

    def __call__(self, units: pa.Table) -> pa.Table:
        """Do the stage's work on one work unit, in the form in which Ray Data hands it over; see `result_of`."""
        [packed] = units["unit"].to_pylist()
        answer: Any
        try:
            unit = pickle.loads(packed)  # noqa: S301 - our driver's, or the stage's before
            failed = isinstance(unit, str)  # in the stage before: its error goes on to the driver
            answer = unit if failed else self._work(unit) if self._work else self._error
        except Exception as error:
            answer = describe_error(error)
        return packed_unit(answer)


def packed_unit(unit: Any) -> pa.Table:
    """Return a work unit in the form in which Ray Data hands it over."""
    return pa.table({"unit": pa.array([pickle.dumps(unit, protocol=5)], pa.large_binary())})


def result_of(answer: bytes) -> Embedded:
    """Return the result of a work unit.

    Raises:
        RuntimeError: a worker could not do its work; the message says why.

    """
    embedded: Embedded | str = pickle.loads(answer)  # noqa: S301 - our own worker's
    if isinstance(embedded, str):
        raise RuntimeError(embedded)
    return embedded
