"""INPUT to parts: which rows go into which output file, and which rows are read together."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import groupby
from urllib.parse import quote_from_bytes

from embeddinggemma.corpus.files import InputFile, find_files, naming, shown, size_and_digest
from embeddinggemma.corpus.options import Options
from embeddinggemma.corpus.records import (
    CsvFormat,
    csv_header,
    csv_records,
    json_array_start,
    json_elements,
    lines,
)
from embeddinggemma.corpus.rows import Slice, csv_format, raw_rows
from embeddinggemma.corpus.stores import READERS, Location
from embeddinggemma.corpus.streams import ByteStream, likely_encoding
from embeddinggemma.corpus.tables import column_names, row_groups

# About 8,000 tokens of text, five seconds on two cores: long enough that handing it over costs nothing, short enough
# that no worker waits long for another at the end of a run.
_SLICE_BYTES = 32 * 1024
_SLICE_ROWS = 512

_MAX_NAME = 150  # characters of a part's name that come from the file's, so that a file system takes it
_MAX_NAMES = 20  # of columns, in a message
_DELIMITERS = (",", ";", "\t", "|")  # that a message can suggest


@dataclass(frozen=True)
class Part:
    """The rows of one output file."""

    name: str
    """Name of the output file, without .parquet."""
    rows: int
    source: str
    """Digest of its row numbers, and of the names and contents of the files that hold its rows."""
    slices: tuple[Slice, ...]

    @property
    def file(self) -> str:
        """Return the name of the file that has its rows; for text files, of their folder."""
        return self.slices[0].name


def plan_parts(path: Location, options: Options, format: str | None = None) -> list[Part]:
    """Return the parts of a file or folder; the same input gives the same parts.

    Args:
        path: a file of rows or a text file, or a folder of files of one format.
        options: which columns, and how many rows make a part.
        format: one of files.FORMATS; None: chosen by the suffixes of the files' names.

    Raises:
        ValueError: there is nothing to embed, or it is not clear how to read it; the message says what to do.

    """
    files = find_files(path, format)
    kind = files[0].format
    _check_format(kind, options)
    if kind == "text":
        return list(_text_parts(path if path.is_dir() else path.parent, files, options.rows_per_part))
    parts = [part for file in files for part in _file_parts(file, options)]
    if kind in ("jsonl", "json"):
        _check_keys(path, parts, options)
    return parts


def _check_format(format: str, options: Options) -> None:
    """Refuse options that change nothing in files of this format.

    Raises:
        ValueError: the message names the option.

    """
    if format == "text" and (options.id_column or options.title_column):
        raise ValueError("--id-column and --title-column need rows with columns, which text files do not have")
    if format not in ("csv", "tsv") and (options.delimiter or not options.quotes):
        raise ValueError(f"--delimiter and --no-quotes are for csv and tsv, and INPUT is {format}")
    if format in ("parquet", "arrow") and options.encoding != Options.encoding:
        raise ValueError(f"--encoding is for files of text, and INPUT is {format}, which is always UTF-8")


def _text_parts(root: Location, files: Sequence[InputFile], rows_per_part: int) -> Iterator[Part]:
    with ThreadPoolExecutor(READERS) as readers:
        identities = list(readers.map(_identity, files))
    sizes = [size for _, size, _ in identities]
    paths = [file.relative for file in files]
    slices = [
        Slice("text", root, shown(root.name), before + 1, rows, files=tuple(paths[before : before + rows]))
        for before, rows, _ in _cut(sizes, rows_per_part)
    ]
    for number, members in _by_part(slices, rows_per_part):
        first, rows = members[0].first_row - 1, sum(member.rows for member in members)
        yield _part(f"texts-{number:05}", members, identities[first : first + rows])


def _file_parts(file: InputFile, options: Options) -> Iterator[Part]:
    identity = _identity(file)
    with naming(file.path, file.format):
        slices = list(_slices(file, options))
    for number, members in _by_part(slices, options.rows_per_part):
        yield _part(f"{_stem(file)}-{number:05}", members, [identity])


def _stem(file: InputFile) -> str:
    """Return the file's name as it is in its parts' names: ASCII, and not too long for a file system."""
    stem = quote_from_bytes(os.fsencode(file.relative), safe="")
    if stem.startswith(("_", ".")):  # readers of Parquet folders skip such names
        stem = f"%{ord(stem[0]):02X}{stem[1:]}"
    if len(stem) <= _MAX_NAME:
        return stem
    return f"{stem[: _MAX_NAME - 17]}-{hashlib.sha256(stem.encode()).hexdigest()[:16]}"


def _slices(file: InputFile, options: Options) -> Iterator[Slice]:
    if file.format in ("parquet", "arrow"):
        _check_columns(column_names(file.path, file.format), options)
        yield from _table_slices(file, options)
        return
    with closing(ByteStream(file.path, options.encoding)) as stream:
        if likely := likely_encoding(stream.peek()[:4]):
            raise ValueError(f"it is not UTF-8, but {likely}; give --encoding {likely}")
        yield from _byte_slices(stream, file, options)


def _byte_slices(stream: ByteStream, file: InputFile, options: Options) -> Iterator[Slice]:
    format = file.format
    if format in ("csv", "tsv"):
        columns = _csv_header(stream, file, options)
        sizes: Iterator[int] = (size for _, size in csv_records(stream, csv_format(format, options), len(columns)))
    elif format == "json" and (array := json_array_start(stream)):
        stream.skip_to(array)
        sizes = map(len, json_elements(stream))
    else:
        if format == "json" and not _begins_with_an_object(file, options):
            raise ValueError("it is neither an array of objects nor an object per line")
        format = "jsonl"
        sizes = map(len, lines(stream))
    start = stream.position
    for before, rows, length in _cut(sizes, options.rows_per_part):
        yield Slice(format, file.path, file.name, before + 1, rows, start)
        start += length


def _csv_header(stream: ByteStream, file: InputFile, options: Options) -> list[str]:
    format = csv_format(file.format, options)
    try:
        columns = csv_header(stream, format)
        _check_columns(columns, options)
    except ValueError as error:
        for delimiter in _DELIMITERS:
            if _has_columns(file, replace(format, delimiter=delimiter), options):
                raise ValueError(f"{error}; with --delimiter {delimiter!r} it has its columns") from None
        raise
    return columns


def _has_columns(file: InputFile, format: CsvFormat, options: Options) -> bool:
    with suppress(ValueError), closing(ByteStream(file.path, options.encoding)) as stream:
        return options.columns.keys() <= set(csv_header(stream, format))
    return False


def _begins_with_an_object(file: InputFile, options: Options) -> bool:
    return all(isinstance(row, Mapping) for row in raw_rows(Slice("jsonl", file.path, file.name, 1, 1), options))


def _table_slices(file: InputFile, options: Options) -> Iterator[Slice]:
    before = 0
    for number, group in enumerate(row_groups(file.path, file.format, options.text_column)):
        max_rows = min(_SLICE_ROWS, max(1, _SLICE_BYTES * group.rows // max(1, group.text_bytes)))
        start = 0
        while start < group.rows:
            rows = min(max_rows, group.rows - start, options.rows_per_part - before % options.rows_per_part)
            yield Slice(file.format, file.path, file.name, before + 1, rows, start, number)
            start, before = start + rows, before + rows


def _check_columns(names: Sequence[str], options: Options) -> None:
    for column, option in options.columns.items():
        if column not in names:
            raise ValueError(f"it has no column {column!r}, only {_listed(names)}; choose with {option}")
        if names.count(column) > 1:
            raise ValueError(f"it has {names.count(column)} columns {column!r}; each needs a name of its own")


def _check_keys(path: Location, parts: Sequence[Part], options: Options) -> None:
    """Refuse columns that no JSON object of INPUT has; a key that only some have is fine.

    Raises:
        ValueError: the message names the columns that there are.

    """
    missing, names = set(options.columns), dict[str, None]()
    for part_slice in (part_slice for part in parts for part_slice in part.slices):
        for row in raw_rows(part_slice, options):
            if isinstance(row, Mapping):
                missing -= row.keys()
                names |= dict.fromkeys(list(row)[: _MAX_NAMES - len(names)])
            if not missing:
                return
    for column in missing if names else ():
        raise ValueError(
            f"no row of {path} has {column!r}, only {_listed(list(names))}; choose with {options.columns[column]}"
        )


def _listed(names: Sequence[str]) -> str:
    shown_names = [name if name.isprintable() else repr(name) for name in names[:_MAX_NAMES]]
    return ", ".join([*shown_names, *(["..."] if len(names) > _MAX_NAMES else [])])


def _cut(sizes: Iterable[int], rows_per_part: int) -> Iterator[tuple[int, int, int]]:
    """Cut rows of these sizes in bytes into slices; yield the rows before each slice, its rows and its bytes."""
    before = rows = length = 0
    for size in sizes:
        full = rows == _SLICE_ROWS or length + size > _SLICE_BYTES or (before + rows) % rows_per_part == 0
        if rows and full:
            yield before, rows, length
            before, rows, length = before + rows, 0, 0
        rows += 1
        length += size
    if rows:
        yield before, rows, length


def _by_part(slices: list[Slice], rows_per_part: int) -> Iterator[tuple[int, tuple[Slice, ...]]]:
    for number, members in groupby(slices, lambda member: (member.first_row - 1) // rows_per_part):
        yield number, tuple(members)


def _part(name: str, slices: tuple[Slice, ...], identities: Sequence[tuple[str, int, str]]) -> Part:
    rows = sum(part_slice.rows for part_slice in slices)
    identity = json.dumps([identities, slices[0].first_row, rows])
    return Part(name, rows, hashlib.sha256(identity.encode()).hexdigest(), slices)


def _identity(file: InputFile) -> tuple[str, int, str]:
    """Return the name, size and digest of a file; a time stamp says nothing about its content."""
    with naming(file.path, file.format):
        return file.relative, *size_and_digest(file.path)
