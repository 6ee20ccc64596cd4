"""Slices of files to rows: each is a text with its id and title, or the reason why it cannot be embedded."""

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from functools import lru_cache, partial
from itertools import islice
from typing import Any
from uuid import UUID

from embeddinggemma.corpus.files import naming, shown
from embeddinggemma.corpus.options import Options
from embeddinggemma.corpus.records import CsvFormat, csv_header, csv_records, json_elements, lines
from embeddinggemma.corpus.stores import Location, reason
from embeddinggemma.corpus.streams import MAX_ROW_BYTES, ByteStream, likely_encoding, reader_at
from embeddinggemma.corpus.tables import table_rows
from embeddinggemma.validation import a_type, check_string, check_text

CHOOSE_ENCODING = "--encoding says what it is: often cp1252 or latin-1"


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows that are read together."""

    format: str
    """One of files.FORMATS."""
    path: Location
    """The file; for text files, their folder."""
    name: str
    """The name of the file in ids and rejects."""
    first_row: int
    """Number of the first row; a file's first row, after a header, is 1."""
    rows: int
    start: int = 0
    """Where the first row begins: the byte of the stream, or the row in the row group."""
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
        ValueError: the file cannot be read any more, or has changed.

    """
    if part_slice.format == "text":
        for name in part_slice.files:
            raw, file = _read_text(part_slice.path / name, options.encoding), shown(name)
            yield checked(raw, file, file, 1, Options())
        return
    with naming(part_slice.path, part_slice.format):
        for number, raw in enumerate(raw_rows(part_slice, options), part_slice.first_row):
            yield checked(raw, f"{part_slice.name}:{number}", part_slice.name, number, options)


def raw_rows(part_slice: Slice, options: Options) -> Iterator[RawRow]:
    """Yield every row of a slice of a file of rows, as it is there.

    Raises:
        OSError, ValueError, pa.ArrowException: the file cannot be read any more, or has changed.

    """
    if part_slice.format in ("parquet", "arrow"):
        return _table_rows(part_slice, options)
    return _byte_rows(part_slice, options)


def checked(raw: RawRow, default_id: str, file: str, number: int, options: Options) -> Row | Reject:
    """Return a row whose text can be embedded, or why it cannot; the default is the id of a row without one."""
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
    if value is None or (isinstance(value, float) and math.isnan(value)):  # pandas has no other missing number
        return None
    text = _id_text(value)
    if text is None:
        raise ValueError(f"{column} is {a_type(value)}; an id must be a string, a number, a date, a time or a UUID")
    check_string(str(column), text)
    return text


def _id_text(value: object) -> str | None:
    match value:
        case bool():
            return None
        case str() | int() | UUID():
            return str(value)
        case float() if math.isfinite(value):
            return str(int(value)) if value.is_integer() else str(value)
        case Decimal():
            return f"{value:f}"
        case date() | time():  # a datetime is a date
            return value.isoformat()
    return None


def _title(raw: Mapping[str, Any], column: str | None) -> str | None:
    value = raw.get(column) if column else None
    if value is None:
        return None
    check_string(str(column), value)
    return str(value)


def _read_text(path: Location, encoding: str) -> RawRow:
    try:
        with closing(ByteStream(path, encoding)) as stream:
            data = stream.read(MAX_ROW_BYTES + 1)
    except UnicodeError:
        return ValueError(f"the file is not in {encoding}, which --encoding gives")
    except OSError as error:
        return ValueError(f"the file cannot be read: {reason(error)}")
    if len(data) > MAX_ROW_BYTES:
        return ValueError(f"the file has more than {MAX_ROW_BYTES:,} bytes")
    if likely := likely_encoding(data[:4]):
        return ValueError(f"the file is not UTF-8, but {likely}; give --encoding {likely}")
    try:
        return {"text": data.decode("utf-8-sig")}
    except UnicodeDecodeError as error:
        return ValueError(f"the file is not UTF-8 at byte {error.start}; {CHOOSE_ENCODING}")


def _byte_rows(part_slice: Slice, options: Options) -> Iterator[RawRow]:
    path, encoding = part_slice.path, options.encoding
    parse = _PARSERS[part_slice.format]
    with reader_at((path, encoding), part_slice.start, partial(ByteStream, path, encoding)) as stream:
        yield from islice(parse(stream, part_slice, options), part_slice.rows)


def _jsonl_rows(stream: ByteStream, _slice: Slice, _options: Options) -> Iterator[RawRow]:
    return (_json_row("line", line) for line in lines(stream))


def _json_rows(stream: ByteStream, _slice: Slice, _options: Options) -> Iterator[RawRow]:
    return (_json_row("element", element[:-1]) for element in json_elements(stream))


def _json_row(name: str, data: bytes) -> RawRow:
    value = parse_json(name, data, f"; {CHOOSE_ENCODING}")
    if isinstance(value, dict | ValueError):
        return value
    return ValueError(f"the {name} is {a_type(value)}, not an object")


def parse_json(name: str, data: bytes, advice: str = "") -> Any:
    """Return the value of a line or an element, or, as a ValueError, the reason why it has none.

    Args:
        name: what it is.
        data: its bytes.
        advice: what to do if they are not UTF-8.

    """
    try:
        text = data.decode("utf-8-sig")
        if not text or text.isspace():
            return ValueError(f"the {name} is empty")
        return json.loads(text)
    except UnicodeDecodeError as error:
        return ValueError(f"the {name} is not UTF-8 at byte {error.start}{advice}")
    except json.JSONDecodeError as error:
        return ValueError(f"the {name} is not JSON: {error.msg} at character {error.pos}")
    except (RecursionError, ValueError):
        return ValueError(f"the {name} is JSON, but nested too deeply or with a number too long to be read")


def csv_format(format: str, options: Options) -> CsvFormat:
    """Return how the fields of a csv or tsv file are divided."""
    return CsvFormat(options.delimiter or {"csv": ",", "tsv": "\t"}[format], options.quotes)


def _csv_rows(stream: ByteStream, part_slice: Slice, options: Options) -> Iterator[RawRow]:
    columns = _csv_columns(part_slice.path, options.encoding, csv_format(part_slice.format, options))
    records = csv_records(stream, csv_format(part_slice.format, options))
    return (_csv_row(columns, record) for record, _ in records)


@lru_cache(maxsize=4)
def _csv_columns(path: Location, encoding: str, format: CsvFormat) -> list[str]:
    with closing(ByteStream(path, encoding)) as stream:
        return csv_header(stream, format)


def _csv_row(columns: list[str], record: list[str] | csv.Error) -> RawRow:
    if isinstance(record, csv.Error):
        return ValueError(f"the row is not CSV: {record}")
    if not record:
        return ValueError("the line is empty")
    if len(record) != len(columns):
        return ValueError(f"the row has {len(record)} fields, the header has {len(columns)}")
    try:
        "".join(record).encode()
    except UnicodeEncodeError:
        return ValueError(f"the row is not UTF-8; {CHOOSE_ENCODING}")
    return dict(zip(columns, record, strict=True))


_PARSERS: dict[str, Callable[[ByteStream, Slice, Options], Iterator[RawRow]]] = {
    "jsonl": _jsonl_rows,
    "json": _json_rows,
    "csv": _csv_rows,
    "tsv": _csv_rows,
}


def _table_rows(part_slice: Slice, options: Options) -> Iterator[RawRow]:
    path, group = part_slice.path, part_slice.group
    columns = list(dict.fromkeys(options.columns))
    open_rows = partial(table_rows, path, part_slice.format, group, columns)
    with reader_at((path, group, *columns), part_slice.start, open_rows) as reader:
        left = part_slice.rows
        while left:
            batch = reader.take(left)
            left -= len(batch)
            for row in range(len(batch)):
                yield _table_row({name: batch[name][row] for name in columns})


def _table_row(scalars: Mapping[str, Any]) -> RawRow:
    row = {}
    for name, scalar in scalars.items():
        try:
            row[name] = scalar.as_py()
        except UnicodeDecodeError:
            return ValueError("the row is not UTF-8")
        except (ValueError, OverflowError):
            return ValueError(f"{name} is a {scalar.type} that Python cannot hold")
    return row
