"""INPUT to parts: which rows go into which output file, and which rows are read together."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from embeddinggemma.corpus.options import Options
from embeddinggemma.corpus.rows import Slice, csv_header, csv_records

FORMATS = ("jsonl", "csv", "parquet", "text")
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}

# About 8,000 tokens of text, five seconds on two cores: long enough that handing it over costs nothing, short enough
# that no worker waits long for another at the end of a run.
_SLICE_BYTES = 32 * 1024
_SLICE_ROWS = 512


@dataclass(frozen=True)
class Part:
    """The rows of one output file."""

    name: str
    """Name of the output file, without .parquet."""
    rows: int
    source: str
    """Digest of its row numbers, and of the names, sizes and modification times of the files that hold its rows."""
    slices: tuple[Slice, ...]


def plan_parts(path: Path, options: Options, format: str | None = None) -> list[Part]:
    """Return the parts of a file or folder; the same input gives the same parts.

    Args:
        path: a JSONL, CSV or Parquet file, a folder of such files, or a folder of text files, where each file is a row.
        options: which columns, and how many rows make a part.
        format: one of FORMATS; None: chosen by the suffixes of the files' names.

    Raises:
        ValueError: there is nothing to embed, or it is not clear how to read it; the message says what to do.

    """
    root = path if path.is_dir() else path.parent
    files = _find(path, format)
    if not files:
        raise ValueError(f"{path} holds no file to embed{f' of format {format}' if format else ''}")
    text_files = [file for file, kind in files if kind == "text"]
    if text_files and (options.id_column or options.title_column):
        raise ValueError("--id-column and --title-column need rows with columns, which text files do not have")
    parts = list(_text_parts(root, text_files, options.rows_per_part))
    for file, kind in files:
        if kind != "text":
            parts += _file_parts(root, file, kind, options)
    return parts


def _find(path: Path, format: str | None) -> list[tuple[Path, str]]:
    """Return the files below a path, sorted, each with its format."""
    if path.is_file():
        return [(path, format or _SUFFIXES.get(path.suffix.lower(), "text"))]
    if not path.is_dir():
        raise ValueError(f"{path} does not exist; INPUT is a file or a folder")
    found = [(file, _SUFFIXES.get(file.suffix.lower(), "text")) for file in sorted(_walk(path))]
    if format == "text":
        return [(file, "text") for file, _ in found]
    if format:
        return [(file, kind) for file, kind in found if kind == format]
    kinds = Counter(kind for _, kind in found)
    if len(kinds) > 1:
        counted = ", ".join(f"{kind}: {count:,}" for kind, count in kinds.items())
        raise ValueError(f"{path} holds files of several formats ({counted}); choose one with --format")
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and its subfolders, except hidden ones."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            file = Path(parent, name)
            if not name.startswith(".") and (file.is_file() or file.is_symlink()):
                yield file


def _text_parts(root: Path, files: list[Path], rows_per_part: int) -> Iterator[Part]:
    sizes = [file.stat().st_size if file.is_file() else 0 for file in files]
    names = [str(file.relative_to(root)) for file in files]
    slices = [
        Slice("text", root, root.name, before + 1, rows, files=tuple(names[before : before + rows]))
        for before, rows, _ in _cut(sizes, rows_per_part)
    ]
    for number, members in _by_part(slices, rows_per_part):
        part_files = [root / name for member in members for name in member.files]
        yield _part(f"texts-{number:05}", members, [_identity(root, file) for file in part_files])


def _file_parts(root: Path, file: Path, kind: str, options: Options) -> Iterator[Part]:
    name = str(file.relative_to(root))
    try:
        slices = list(_slices(file, name, kind, options))
    except (ValueError, pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{file} cannot be read as {kind}: {error}") from None
    stem = quote(name, safe="")
    if stem.startswith(("_", ".")):  # readers of Parquet folders skip such names
        stem = f"%{ord(stem[0]):02X}{stem[1:]}"
    for number, members in _by_part(slices, options.rows_per_part):
        yield _part(f"{stem}-{number:05}", members, [_identity(root, file)])


def _slices(file: Path, name: str, kind: str, options: Options) -> Iterator[Slice]:
    if kind == "parquet":
        yield from _parquet_slices(file, name, options)
        return
    with file.open("rb") as opened:
        start = 0
        if kind == "csv":
            header, start = csv_header(opened)
            _check_columns(header, options)
            opened.seek(start)
            sizes: Iterator[int] = (size for _, size in csv_records(opened))
        else:
            sizes = (len(line) for line in opened)
        for before, rows, length in _cut(sizes, options.rows_per_part):
            yield Slice(kind, file, name, before + 1, rows, start)
            start += length


def _parquet_slices(file: Path, name: str, options: Options) -> Iterator[Slice]:
    parquet = pq.ParquetFile(file)
    _check_columns(parquet.schema_arrow.names, options)
    before = 0
    for group in range(parquet.num_row_groups):
        metadata = parquet.metadata.row_group(group)
        columns = [metadata.column(index) for index in range(metadata.num_columns)]
        text_columns = [column for column in columns if column.path_in_schema.split(".")[0] == options.text_column]
        size = sum(column.total_uncompressed_size for column in text_columns)
        max_rows = min(_SLICE_ROWS, max(1, _SLICE_BYTES * metadata.num_rows // max(1, size)))
        start = 0
        while start < metadata.num_rows:
            rows = min(max_rows, metadata.num_rows - start, options.rows_per_part - before % options.rows_per_part)
            yield Slice("parquet", file, name, before + 1, rows, start, group)
            start, before = start + rows, before + rows


def _check_columns(names: list[str], options: Options) -> None:
    for option in ("text_column", "id_column", "title_column"):
        column = getattr(options, option)
        if column and column not in names:
            flag = option.replace("_", "-")
            raise ValueError(f"it has no column {column!r}, only {', '.join(names)}; choose with --{flag}")


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


def _part(name: str, slices: tuple[Slice, ...], identities: list[tuple[str, int, int]]) -> Part:
    rows = sum(part_slice.rows for part_slice in slices)
    identity = json.dumps([identities, slices[0].first_row, rows])
    return Part(name, rows, hashlib.sha256(identity.encode()).hexdigest(), slices)


def _identity(root: Path, file: Path) -> tuple[str, int, int]:
    """Return the name, size and modification time of a file: they change when the file does."""
    name = str(file.relative_to(root))
    if not file.is_file():
        return name, 0, 0
    status = file.stat()
    return name, status.st_size, status.st_mtime_ns
