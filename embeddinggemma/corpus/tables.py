"""Parquet and Arrow files to rows, some hundred in memory at a time, whatever the size of a row group."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from embeddinggemma.corpus.stores import Location
from embeddinggemma.corpus.streams import opened

_BATCH_ROWS = 512
_BUFFER = 2**20  # bytes of a column that are read at once
_ARROW_FILE = b"ARROW1"  # an Arrow file that is no stream


@dataclass(frozen=True)
class RowGroup:
    """Rows that are found without reading those before them."""

    rows: int
    text_bytes: int


class TableRows:
    """The rows of a row group, read forward only; positions are rows."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self.position = 0
        self._batches = batches
        self._batch: pa.RecordBatch | None = None

    def skip_to(self, position: int) -> None:
        """Go to a row, which is not before the present one."""
        while self.position < position:
            self.take(position - self.position)

    def take(self, rows: int) -> pa.RecordBatch:
        """Return some of the next rows: at least one, at most so many.

        Raises:
            ValueError: there are no more rows.

        """
        while not self._batch:
            self._batch = next(self._batches, None)
            if self._batch is None:
                raise ValueError("it has fewer rows than it had when the run began")
        taken, self._batch = self._batch[:rows], self._batch[rows:]
        self.position += len(taken)
        return taken


def column_names(path: Location, format: str) -> list[str]:
    """Return the names of a file's columns.

    Raises:
        OSError, pa.ArrowInvalid: it cannot be read, or is no such file.

    """
    names: list[str] = _parquet(path).schema_arrow.names if format == "parquet" else _arrow(path)[0].names
    return names


def row_groups(path: Location, format: str, text_column: str) -> Iterator[RowGroup]:
    """Yield the row groups of a file; an Arrow file counts as one.

    Raises:
        OSError, pa.ArrowInvalid: as for column_names.

    """
    if format == "arrow":
        sizes = [(batch.num_rows, batch[text_column].nbytes) for batch in _arrow(path)[1]]
        yield RowGroup(sum(rows for rows, _ in sizes), sum(size for _, size in sizes))
        return
    metadata = _parquet(path).metadata
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = [group.column(index) for index in range(group.num_columns)]
        texts = [column for column in columns if column.path_in_schema.split(".")[0] == text_column]
        yield RowGroup(group.num_rows, sum(column.total_uncompressed_size for column in texts))


def table_rows(path: Location, format: str, group: int, columns: Sequence[str]) -> TableRows:
    """Return the rows of a row group, from its first row on.

    Raises:
        OSError, pa.ArrowInvalid: as for column_names.

    """
    if format == "arrow":
        return TableRows(batch.select(columns) for batch in _arrow(path)[1])
    return TableRows(_parquet(path).iter_batches(_BATCH_ROWS, [group], list(columns)))


def _parquet(path: Location) -> pq.ParquetFile:
    return pq.ParquetFile(_unpacked(path), buffer_size=_BUFFER)


def _arrow(path: Location) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    file = _unpacked(path)
    is_stream = file.read(len(_ARROW_FILE)) != _ARROW_FILE
    file.seek(0)
    if is_stream:
        stream = pa.ipc.open_stream(file)
        return stream.schema, iter(stream)
    reader = pa.ipc.open_file(file)
    return reader.schema, (reader.get_batch(number) for number in range(reader.num_record_batches))


def _unpacked(path: Location) -> IO[bytes]:
    """Open a file that can be read at any place: itself, or an unpacked copy."""
    if opened(path).seekable():
        return path.open("rb")
    return Path(f"/proc/self/fd/{_copy(path).fileno()}").open("rb")  # with a position of its own


@lru_cache(maxsize=1)
def _copy(path: Location) -> IO[bytes]:
    """Return an unpacked copy without a name, which is gone when this process is."""
    copy = TemporaryFile()  # noqa: SIM115 - it stays open for the next slices
    shutil.copyfileobj(opened(path), copy)
    copy.flush()
    return copy
