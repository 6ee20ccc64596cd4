"""INPUT to files: which of them are read, in which format, under which name, and the digest of each."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath

import pyarrow as pa

from embeddinggemma.corpus.stores import NO_BUCKET, Location, ObjectPath, reason

FORMATS = ("jsonl", "json", "csv", "tsv", "parquet", "arrow", "text")
_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    **dict.fromkeys(("", ".txt", ".text", ".md", ".markdown", ".rst"), "text"),
}
_COMPRESSED = (".gz", ".zst", ".bz2")
_READ_BYTES = 8 * 2**20  # at once: each is a request to a store

# A data set that the library `datasets` has saved: the lists of its files, its columns, its splits.
_FILE_LIST, _COLUMNS, _SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"


@dataclass(frozen=True)
class InputFile:
    """A file of INPUT."""

    path: Location
    relative: str
    """Its path below INPUT."""
    format: str
    """One of FORMATS."""

    @property
    def name(self) -> str:
        """Return its path below INPUT as ids and rejects have it, see `shown`."""
        return shown(self.relative)


def find_files(path: Location, format: str | None = None) -> list[InputFile]:
    """Return the file, or all files below a folder, sorted; hidden files and folders are left out.

    Args:
        path: INPUT.
        format: one of FORMATS: in a folder, files of other formats are left out; None: what the files' names say.

    Raises:
        ValueError: there is no file to embed, a file or folder cannot be read, or it is not clear how to read it.

    """
    if path.is_file():
        return [InputFile(path, path.name, format or _known_format(path))]
    if not path.is_dir():
        raise ValueError(f"{path} {_what_is_missing(path)}")
    found = sorted(_walk(path))
    if format == "text":
        files = [_file(path, file, "text") for file in found]
    elif format:
        files = [_file(path, file, format) for file in found if _format(file) == format]
    else:
        files = [_file(path, file, _known_format(file)) for file in found]
    if not files:
        raise ValueError(f"{path} holds no file to embed{f' of format {format}' if format else ''}")
    formats = Counter(file.format for file in files)
    if len(formats) > 1:
        counted = ", ".join(f"{kind}: {count:,}" for kind, count in formats.items())
        raise ValueError(f"{path} holds files of several formats ({counted}); choose one with --format")
    return files


def shown(name: str) -> str:
    r"""Return a file's name in Unicode; bytes of it that are not UTF-8 are written as \xe9."""
    return os.fsencode(name).decode(errors="backslashreplace")


def size_and_digest(file: Location) -> tuple[int, str]:
    """Return the size of a file, and its SHA-256.

    Raises:
        OSError: it cannot be read.

    """
    size, sha256 = 0, hashlib.sha256()
    with file.open("rb") as opened:
        while data := opened.read(_READ_BYTES):
            size += len(data)
            sha256.update(data)
    return size, sha256.hexdigest()


@contextmanager
def naming(path: Location, format: str) -> Iterator[None]:
    """Give each error that a file can cause within the context its name.

    Raises:
        ValueError: instead of any other error.

    """
    try:
        yield
    except UnicodeError:
        raise ValueError(f"{path} is not in the encoding that --encoding gives") from None
    except OSError as error:
        raise ValueError(f"{error.filename or path} cannot be read: {reason(error)}") from None
    except (ValueError, pa.ArrowException) as error:  # ArrowInvalid is a ValueError too, but not every one is
        raise ValueError(f"{path} cannot be read as {format}: {' '.join(str(error).split())}") from None


def _file(root: Location, path: Location, format: str) -> InputFile:
    relative = path.relative_to(root)  # type: ignore[arg-type]  # both are of one kind
    return InputFile(path, str(relative), format)


def _format(path: Location) -> str | None:
    name = PurePath(path.name)
    uncompressed = name.with_suffix("") if name.suffix.lower() in _COMPRESSED else name
    return _SUFFIXES.get(uncompressed.suffix.lower())


def _known_format(path: Location) -> str:
    format = _format(path)
    if format is None:
        suffix, known = PurePath(path.name).suffix, " ".join(filter(None, _SUFFIXES))
        raise ValueError(
            f"{path} ends in {suffix}, which is none of {known} (each also with "
            f"{' '.join(_COMPRESSED)}); --format says how to read it: with text every file is one text, and other "
            "formats leave out files of another name"
        )
    return format


def _what_is_missing(path: Location) -> str:
    if path.exists():
        return "is neither a file nor a folder"
    if isinstance(path, ObjectPath) and not path.bucket.exists():
        return f"does not exist: {NO_BUCKET}"
    return "does not exist"


def _walk(root: Location) -> Iterator[Location]:
    """Yield the files of a folder and of the folders below it, but no hidden ones."""
    for folder, names in root.folders() if isinstance(root, ObjectPath) else _folders(root):
        yield from (folder / name for name in _saved_files(folder, names) if not name.startswith("."))


def _folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder, the folders below it, and linked ones, but none twice, with the names of the files in each."""
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    for top in waiting:  # it grows: a linked folder comes after the real ones, whose names are better
        for parent, folders, files in os.walk(top, onerror=_raise):
            status = Path(parent).stat()
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            waiting += [path for name in folders if (path := Path(parent, name)).is_symlink()]
            paths = [Path(parent, name) for name in files]
            yield Path(parent), [path.name for path in paths if path.is_file() or path.is_symlink()]


def _raise(error: OSError) -> None:
    raise ValueError(f"{error.filename} cannot be read: {error.strerror}")


def _saved_files(folder: Location, names: list[str]) -> list[str]:
    """Return the names without those that describe a saved data set, or keep its intermediate results."""
    if _SPLITS in names:
        return [name for name in names if name != _SPLITS]
    if not {_FILE_LIST, _COLUMNS} <= set(names):
        return names
    try:
        return [file["filename"] for file in json.loads((folder / _FILE_LIST).read_bytes())["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return names
