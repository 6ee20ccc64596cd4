"""OUTPUT: a Parquet file for each part, written under another name and then renamed, so that each file is whole.

`_corpus.json` holds the settings, and `_rejects` the rows that could not be embedded; readers of Parquet folders skip
both. The metadata of each Parquet file says what the file was made from. So a run that continues a killed run knows
which parts are finished.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embeddinggemma.corpus.embedding import Embedded
from embeddinggemma.corpus.parts import Part
from embeddinggemma.corpus.stores import INCOMING, READERS, Location, NewFile
from embeddinggemma.validation import check_choice, check_string
from embeddinggemma.vectors import DIMENSIONS, OUTPUT_DTYPES

_METADATA_KEY = b"embeddinggemma"  # the key of a Parquet file's metadata
_GROUP_ROWS = 4096  # vectors in a row group: 12 MB of float32


@dataclass(frozen=True)
class PartSummary:
    """What the metadata of a part's file says."""

    source: str
    """`Part.source` of the part."""
    rows: int
    """Rows of the input."""
    embedded: int
    rejected: int
    vectors: int
    """More than `embedded` if texts were cut into chunks."""
    tokens: int
    truncated: int
    """Vectors of texts that lost their end."""


class OutputFolder:
    """The folder; see `open_output`."""

    def __init__(self, folder: Location, settings: Mapping[str, Any], parts: Sequence[Part]) -> None:
        """Begin the folder, or continue it."""
        self.folder = folder
        self._begin(settings)
        for stale in folder.glob(f"{INCOMING}*"):  # left by a run that was killed: a live run would hold the lock
            stale.unlink()
        self.finished = self._finished(parts)
        """The summaries of the finished parts, by part name."""

    def _begin(self, settings: Mapping[str, Any]) -> None:
        if not (self.folder / "_corpus.json").exists():
            if any(not path.name.startswith(INCOMING) for path in self.folder.iterdir()):
                raise ValueError(f"{self.folder} is not empty, and not the output of this program; choose another")
            self._write("_corpus.json", json.dumps(settings, indent=2) + "\n")
        begun = read_settings(self.folder)
        for name in settings:
            if begun.get(name) != settings[name]:
                raise ValueError(
                    f"{self.folder} was begun with {name} {begun.get(name)!r}, and now it is {settings[name]!r}; "
                    "continue with the same value, or choose another OUTPUT"
                )

    def _finished(self, parts: Sequence[Part]) -> dict[str, PartSummary]:
        by_name = {part.name: part for part in parts}
        finished = {}
        for path, (_, summary) in _summaries(self.folder).items():
            part = by_name.get(path.stem)
            if summary is None or part is None or part.source != summary.source:
                raise ValueError(
                    f"{path} was made from files of INPUT that have changed or are gone; choose another OUTPUT"
                )
            finished[part.name] = summary
        return finished

    def _write(self, name: str, text: str) -> None:
        new = NewFile(self.folder, name)
        new.file.write(text.encode())
        new.publish()

    def write_rejects(self, name: str, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write the rejects of a part; call it before the part's Parquet file gets its final name."""
        path = self.folder / "_rejects" / f"{name}.jsonl"
        if not lines:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(exist_ok=True)
        self._write(f"_rejects/{path.name}", "".join(f"{json.dumps(line)}\n" for line in lines))


@contextmanager
def open_output(folder: Location, settings: Mapping[str, Any], parts: Sequence[Part]) -> Iterator[OutputFolder]:
    """Begin a folder, or continue it, as the only process that writes to it.

    Args:
        folder: is made if it does not exist.
        settings: all that the vectors depend on.
        parts: the parts of the input.

    Raises:
        ValueError: the folder cannot be made, was begun with other settings or from other input, holds other files, or
            another process writes to it; the message says which.

    """
    make_folder(folder)
    with _exclusive(folder) if isinstance(folder, Path) else nullcontext():  # a store has no locks
        yield OutputFolder(folder, settings, parts)


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ValueError(f"another process writes to {folder}; wait until it has ended") from None
    finally:
        os.close(lock)


def make_folder(folder: Location) -> None:
    """Make OUTPUT, unless it exists.

    Raises:
        ValueError: it cannot be made.
        OSError: its store cannot be read.

    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if not isinstance(folder, Path):
            raise
        why = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        raise ValueError(f"OUTPUT {folder} cannot be made: {why}; choose another folder") from None


class PartWriter:
    """One part's file while it is written."""

    def __init__(self, output: OutputFolder, part: Part, schema: pa.Schema) -> None:
        """Begin the file under another name, which it keeps until the part is whole."""
        self._output, self._part = output, part
        self._new = NewFile(output.folder, f"{part.name}.parquet")
        self._writer = pq.ParquetWriter(self._new.file, schema, use_dictionary=False, compression="zstd")
        self._waiting: list[pa.Table] = []
        self._rejects: list[dict[str, Any]] = []
        self._counts = {"embedded": 0, "vectors": 0, "tokens": 0, "truncated": 0}

    def add(self, embedded: Embedded) -> None:
        """Add the result of the part's next work unit."""
        table = embedded.table
        self._waiting.append(table)
        self._rejects += [asdict(reject) for reject in embedded.rejects]
        self._counts["embedded"] += embedded.rows
        self._counts["vectors"] += table.num_rows
        self._counts["tokens"] += embedded.tokens
        self._counts["truncated"] += pc.sum(table["truncated"], min_count=0).as_py()
        if sum(waiting.num_rows for waiting in self._waiting) >= _GROUP_ROWS:
            self._flush()

    def finish(self) -> PartSummary:
        """Complete the file, give it its final name, and return its summary.

        Raises:
            ValueError: rows were lost or added on the way.

        """
        if self._waiting:
            self._flush()
        summary = PartSummary(self._part.source, self._part.rows, rejected=len(self._rejects), **self._counts)
        if summary.embedded + summary.rejected != summary.rows:
            raise ValueError(
                f"{self._part.file} had {summary.rows:,} rows in {self._part.name}, but {summary.embedded:,} were "
                f"embedded and {summary.rejected:,} rejected: it has changed; start again with another OUTPUT"
            )
        self._writer.add_key_value_metadata({_METADATA_KEY.decode(): json.dumps(asdict(summary))})
        self._writer.close()
        self._output.write_rejects(self._part.name, self._rejects)
        self._new.publish()
        return summary

    def _flush(self) -> None:
        table = pa.concat_tables(self._waiting)
        if table.num_rows:
            self._writer.write_table(table, row_group_size=_GROUP_ROWS)
        self._waiting = []


def parquet_files(folder: Location) -> list[Location]:
    """Return the finished files, in order."""
    return sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))


def read_settings(folder: Location) -> dict[str, Any]:
    """Return the settings that the folder was begun with.

    Raises:
        ValueError: it is not the output of this program.
        OSError: it cannot be read.

    """
    try:
        settings: dict[str, Any] = json.loads((folder / "_corpus.json").read_text())
        check_string("model", settings["model"])
        check_choice("dtype", settings["dtype"], OUTPUT_DTYPES)
        check_choice("dimension", settings["dimension"], DIMENSIONS)
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError, RecursionError):
        raise ValueError(f"{folder} has no readable _corpus.json, so scripts/embed_corpus did not make it") from None
    return settings


def check_counts(folder: Location, parts: Sequence[Part]) -> list[str]:
    """Count the vectors and rejects in the folder; return a line for each part whose counts do not add up."""
    wrong = []
    summaries, rejects = _summaries(folder), set((folder / "_rejects").glob("*.jsonl"))
    for part in parts:
        path = folder / f"{part.name}.parquet"
        vectors, summary = summaries.get(path, (0, None))
        if summary is None:
            wrong.append(f"{path} is missing")
            continue
        reasons = folder / "_rejects" / f"{part.name}.jsonl"
        rejected = len(reasons.read_text().splitlines()) if reasons in rejects else 0
        if vectors != summary.vectors or rejected != summary.rejected or summary.embedded + rejected != part.rows:
            wrong.append(
                f"{path} holds {vectors:,} vectors of {summary.vectors:,}; of {part.rows:,} rows "
                f"{summary.embedded:,} are embedded and {rejected:,} rejected"
            )
    return wrong


def repeated_ids(folder: Location) -> int:
    """Return how many rows have the id of an earlier row (needs 8 bytes of memory per row)."""
    hashes = [np.zeros(0, np.int64)]
    for path in parquet_files(folder):
        with path.open("rb") as opened:
            file = pq.ParquetFile(opened)
            chunked = "chunk" in file.schema_arrow.names
            for batch in file.iter_batches(columns=["id", *(["chunk"] if chunked else [])]):
                first = batch.filter(pc.equal(batch["chunk"], 0)) if chunked else batch
                hashes.append(np.fromiter(map(hash, first["id"].to_pylist()), np.int64, len(first)))
    all_hashes = np.concatenate(hashes)
    return len(all_hashes) - len(np.unique(all_hashes))


def _summaries(folder: Location) -> dict[Location, tuple[int, PartSummary | None]]:
    """Return how many vectors each finished file holds, and its summary; None: it is damaged, or not of this program.

    Raises:
        OSError: a file cannot be read.

    """
    paths = parquet_files(folder)
    with ThreadPoolExecutor(READERS) as readers:
        return dict(zip(paths, readers.map(_vectors_and_summary, paths), strict=True))


def _vectors_and_summary(path: Location) -> tuple[int, PartSummary | None]:
    with path.open("rb") as file, suppress(OSError, pa.ArrowInvalid, TypeError, ValueError, KeyError):
        metadata = pq.read_metadata(file)
        return metadata.num_rows, PartSummary(**json.loads((metadata.metadata or {})[_METADATA_KEY]))
    return 0, None
