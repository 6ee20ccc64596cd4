"""Slices of files to rows: each is a text with its id and title, or the reason why it cannot be embedded."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from embeddinggemma.corpus.options import Options
from embeddinggemma.validation import a_type, check_string, check_text

csv.field_size_limit(sys.maxsize)  # a document may be longer than 131,072 characters


@dataclass(frozen=True)
class Slice:
    """Rows that are read together."""

    format: str
    """jsonl, csv, parquet or text."""
    path: Path
    """The file; for text files, their folder."""
    name: str
    """The name of the file in ids and rejects."""
    first_row: int
    """Number of the first row; a file's first row, after a header, is 1."""
    rows: int
    start: int = 0
    """Where the first row begins: the byte in the file, or for Parquet the row in the row group."""
    group: int = 0
    """Row group of a Parquet file."""
    files: tuple[str, ...] = ()
    """Text files, each a row; their paths in the folder."""


@dataclass(frozen=True)
class Row:
    """A text that can be embedded."""

    id: str
    file: str
    number: int
    text: str
    title: str | None


@dataclass(frozen=True)
class Reject:
    """A row that cannot be embedded, and why; the reason never quotes the text."""

    id: str
    file: str
    row: int
    reason: str


RawRow = Mapping[str, Any] | ValueError
"""The values of a row by column, or the reason why the row could not be read."""


def read_rows(part_slice: Slice, options: Options) -> Iterator[Row | Reject]:
    """Yield every row of a slice, in order.

    Raises:
        OSError: the file cannot be read any more.

    """
    if part_slice.format == "text":
        yield from (_checked(_read_text(part_slice.path / name), name, name, 1, Options()) for name in part_slice.files)
        return
    raw_rows = _READERS[part_slice.format](part_slice, options)
    for number, raw in enumerate(islice(raw_rows, part_slice.rows), part_slice.first_row):
        yield _checked(raw, f"{part_slice.name}:{number}", part_slice.name, number, options)


def _checked(raw: RawRow, default_id: str, file: str, number: int, options: Options) -> Row | Reject:
    row_id = default_id
    try:
        if isinstance(raw, ValueError):
            raise raw
        row_id = _id(raw, options.id_column) or default_id
        title = _title(raw, options.title_column)
        if options.text_column not in raw:
            raise ValueError(f"the row has no {options.text_column!r}")
        text = raw[options.text_column]
        check_text(options.text_column, text)
    except ValueError as error:
        return Reject(row_id, file, number, str(error))
    return Row(row_id, file, number, text, title)


def _id(raw: Mapping[str, Any], column: str | None) -> str | None:
    value = raw.get(column) if column else None
    if value is None:
        return None
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise ValueError(f"{column} is {a_type(value)}; an id must be a string or a whole number")
    check_string(str(column), str(value))
    return str(value)


def _title(raw: Mapping[str, Any], column: str | None) -> str | None:
    value = raw.get(column) if column else None
    if value is None:
        return None
    check_string(str(column), value)
    return str(value)


def _read_text(path: Path) -> RawRow:
    try:
        return {"text": path.read_bytes().decode("utf-8-sig")}
    except UnicodeDecodeError as error:
        return ValueError(f"the file is not UTF-8 at byte {error.start}")
    except OSError as error:
        return ValueError(f"the file cannot be read: {error.strerror}")


def _read_jsonl(part_slice: Slice, _options: Options) -> Iterator[RawRow]:
    with part_slice.path.open("rb") as file:
        file.seek(part_slice.start)
        for line in file:
            yield _parse_line(line)


def _parse_line(line: bytes) -> RawRow:
    try:
        text = line.decode("utf-8-sig")
        if not text or text.isspace():
            return ValueError("the line is empty")
        value = json.loads(text)
    except UnicodeDecodeError as error:
        return ValueError(f"the line is not UTF-8 at byte {error.start}")
    except json.JSONDecodeError as error:
        return ValueError(f"the line is not JSON: {error.msg} at character {error.pos}")
    except (RecursionError, ValueError):
        return ValueError("the line is JSON, but nested too deeply or with a number too long to be read")
    return value if isinstance(value, dict) else ValueError(f"the line is {a_type(value)}, not an object")


def csv_records(file: IO[bytes]) -> Iterator[tuple[list[str] | csv.Error, int]]:
    """Yield each record from the file's position on, or the error in it, and its length in bytes."""
    consumed = 0

    def lines() -> Iterator[str]:
        nonlocal consumed
        for line in file:
            consumed += len(line)
            yield line.decode("utf-8", "surrogateescape")

    reader = csv.reader(lines(), strict=True)
    while True:
        before = consumed
        try:
            record: list[str] | csv.Error = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            record = error
        yield record, consumed - before


def csv_header(file: IO[bytes]) -> tuple[list[str], int]:
    """Return the columns' names and the length of the header in bytes.

    Raises:
        ValueError: the file does not begin with the columns' names.

    """
    header, size = next(csv_records(file), ([], 0))
    if isinstance(header, csv.Error) or not header:
        raise ValueError("it does not begin with the names of its columns")
    return [header[0].removeprefix("\ufeff"), *header[1:]], size


def _read_csv(part_slice: Slice, _options: Options) -> Iterator[RawRow]:
    with part_slice.path.open("rb") as file:
        header, _ = csv_header(file)
        file.seek(part_slice.start)
        for record, _ in csv_records(file):
            yield _csv_row(header, record)


def _csv_row(header: list[str], record: list[str] | csv.Error) -> RawRow:
    if isinstance(record, csv.Error):
        return ValueError(f"the row is not CSV: {record}")
    if not record:
        return ValueError("the line is empty")
    if len(record) != len(header):
        return ValueError(f"the row has {len(record)} fields, the header has {len(header)}")
    try:
        "".join(record).encode()
    except UnicodeEncodeError:
        return ValueError("the row is not UTF-8")
    return dict(zip(header, record, strict=True))


def _read_parquet(part_slice: Slice, options: Options) -> Iterator[RawRow]:
    columns = [name for name in (options.text_column, options.id_column, options.title_column) if name]
    table = _row_group(part_slice.path, part_slice.group, tuple(columns)).slice(part_slice.start, part_slice.rows)
    for row in range(table.num_rows):
        yield _parquet_row({name: table[name][row] for name in columns})


@lru_cache(maxsize=1)  # the slices of a row group follow each other
def _row_group(path: Path, group: int, columns: tuple[str, ...]) -> pa.Table:
    return pq.ParquetFile(path).read_row_group(group, list(columns))


def _parquet_row(scalars: Mapping[str, Any]) -> RawRow:
    try:
        return {name: scalar.as_py() for name, scalar in scalars.items()}
    except UnicodeDecodeError:
        return ValueError("the row is not UTF-8")


_READERS: dict[str, Callable[[Slice, Options], Iterable[RawRow]]] = {
    "jsonl": _read_jsonl,
    "csv": _read_csv,
    "parquet": _read_parquet,
}
