"""Objects of S3 and Google Cloud Storage, with the methods of pathlib.Path that a corpus needs.

Files of this machine stay pathlib's: Arrow's own file system opens no names that are not UTF-8.
"""

import errno
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, cast

import pyarrow as pa
import pyarrow.fs

INCOMING = ".incoming-"
"""How the name of a file begins that is not whole yet."""

READERS = 16
"""Files that are read at once if there are many: each takes some requests to a store, one after the other."""

NO_BUCKET = "there is no such bucket; make it, or correct the URL or AWS_ENDPOINT_URL"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CONNECT_SECONDS, _GOOGLE_SECONDS = 5, 10  # a store that does not answer ends a run in three times as many at most
_AWS_ERROR = re.compile(r"AWS Error (\w+)(?: \(HTTP status (\d+)\))? during (\w+) operation")
_KEYS = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, for temporary keys, AWS_SESSION_TOKEN"
_REASONS = {
    "NO_SUCH_BUCKET": NO_BUCKET,
    "ACCESS_DENIED": f"access denied: the keys are missing, wrong, or may not read and write there; set {_KEYS}",
    "NETWORK_CONNECTION": "the store does not answer; check AWS_ENDPOINT_URL and the network",
    **dict.fromkeys(
        ("INVALID_ACCESS_KEY_ID", "INVALID_CLIENT_TOKEN_ID", "SIGNATURE_DOES_NOT_MATCH", "EXPIRED_TOKEN"),
        f"the store does not accept the keys; correct {_KEYS}",
    ),
}
_GOOGLE_REASONS = {
    "OAuth2 access token": "there are no credentials; set GOOGLE_APPLICATION_CREDENTIALS to a file of credentials, or "
    "run: gcloud auth application-default login",
    "PERMISSION_DENIED": "access denied; give credentials that may read and write there",
    "UNAVAILABLE": "the store does not answer; check the network",
}


@dataclass(frozen=True, order=True)
class ObjectPath:
    """An object, or what stands for a folder: the beginning that names of objects share.

    Every method that asks the store raises OSError with a reason for people.
    """

    scheme: str
    """s3 or gs."""
    parts: tuple[str, ...]
    """The bucket, and the parts of the name."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self._key}"

    def __truediv__(self, name: str | Path) -> "ObjectPath":
        return ObjectPath(self.scheme, (*self.parts, *filter(None, str(name).split("/"))))

    @property
    def _key(self) -> str:
        return "/".join(self.parts)

    @property
    def name(self) -> str:
        """Return the last part."""
        return self.parts[-1]

    @property
    def stem(self) -> str:
        """Return the last part without its suffix."""
        return Path(self.name).stem

    @property
    def parent(self) -> "ObjectPath":
        """Return the folder that it is in."""
        return ObjectPath(self.scheme, self.parts[:-1])

    @property
    def bucket(self) -> "ObjectPath":
        """Return the bucket that it is in."""
        return ObjectPath(self.scheme, self.parts[:1])

    def is_relative_to(self, folder: object) -> bool:
        """Return whether it is the folder, or below it."""
        return isinstance(folder, ObjectPath) and ObjectPath(self.scheme, self.parts[: len(folder.parts)]) == folder

    def relative_to(self, folder: "ObjectPath") -> str:
        """Return its name below a folder."""
        return "/".join(self.parts[len(folder.parts) :])

    def exists(self) -> bool:
        """Return whether there is an object of this name, or one below it."""
        return bool(self._type() != pa.fs.FileType.NotFound)

    def is_file(self) -> bool:
        """Return whether there is an object of this name."""
        return bool(self._type() == pa.fs.FileType.File)

    def is_dir(self) -> bool:
        """Return whether there are objects below it."""
        return bool(self._type() == pa.fs.FileType.Directory)

    def _type(self) -> pa.fs.FileType:
        with self._explained():
            return self._filesystem.get_file_info(self._key).type

    def iterdir(self) -> Iterator["ObjectPath"]:
        """Yield what is directly below it; nothing if there is nothing."""
        return (path for path, _ in self._below(recursive=False))

    def glob(self, pattern: str) -> Iterator["ObjectPath"]:
        """Yield what is directly below it with a name that fits."""
        return (path for path in self.iterdir() if fnmatchcase(path.name, pattern))

    def folders(self) -> Iterator[tuple["ObjectPath", list[str]]]:
        """Yield it and each folder below it, but no hidden one, with the names of the objects in it."""
        names: defaultdict[ObjectPath, list[str]] = defaultdict(list)
        for path, is_file in self._below(recursive=True):
            if is_file and not any(part.startswith(".") for part in path.parent.parts[len(self.parts) :]):
                names[path.parent].append(path.name)
        yield from names.items()

    def _below(self, *, recursive: bool) -> list[tuple["ObjectPath", bool]]:
        selector = pa.fs.FileSelector(self._key, recursive=recursive)
        with self._explained(), suppress(FileNotFoundError):
            return [
                (ObjectPath(self.scheme, tuple(found.path.split("/"))), found.is_file)
                for found in self._filesystem.get_file_info(selector)
            ]
        return []

    def open(self, mode: str = "rb") -> pa.NativeFile:  # noqa: ARG002 - as of pathlib; there is no other mode here
        """Open the object; it can be read at any place."""
        with self._explained():
            return self._filesystem.open_input_file(self._key)

    def read_bytes(self) -> bytes:
        """Return the whole object."""
        with self.open() as file, self._explained():
            return cast(bytes, file.read())

    def read_text(self) -> str:
        """Return the whole object, which is UTF-8."""
        return self.read_bytes().decode()

    def write(self, data: pa.Buffer) -> None:
        """Write the whole object.

        It appears when its stream is closed, and a stream that is given up is closed too. So all of it is written by
        one call: whatever interrupts this process, the object is never there in part.
        """
        with self._explained(), self._filesystem.open_output_stream(self._key) as stream:
            stream.write(data)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object."""
        with self._explained(), suppress(*([FileNotFoundError] if missing_ok else [])):
            self._filesystem.delete_file(self._key)

    def mkdir(self, **_: bool) -> None:
        """Do what can be done for a folder: see that its bucket is there, and can be read."""
        self._below(recursive=False)

    @property
    def _filesystem(self) -> pa.fs.FileSystem:
        return _google() if self.scheme == "gs" else _s3(self.parts[0])

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            if isinstance(error, FileNotFoundError):
                raise FileNotFoundError(errno.ENOENT, "No such object", str(self)) from None
            raise OSError(errno.EIO, reason(error), str(self)) from None


Location = Path | ObjectPath


@lru_cache
def _s3(bucket: str) -> pa.fs.FileSystem:
    """Return S3, or a store like it; its keys come from the environment, ~/.aws, or the machine's role."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region:
        region = "us-east-1" if endpoint else pa.fs.resolve_s3_region(bucket)
    return pa.fs.S3FileSystem(region=region, endpoint_override=endpoint, connect_timeout=_CONNECT_SECONDS)


@lru_cache
def _google() -> pa.fs.FileSystem:
    return pa.fs.GcsFileSystem(retry_time_limit=timedelta(seconds=_GOOGLE_SECONDS))


def location(name: str, word: str) -> Location:
    """Return the path or object that a word of the command line names.

    Raises:
        ValueError: it is a URL of another kind, or holds keys; the message does not repeat it.

    """
    scheme = _SCHEME.match(word)
    if scheme is None:
        return Path(word).absolute()
    if scheme[1] not in ("s3", "gs"):
        raise ValueError(
            f"{name} is a URL that begins with {scheme[0]}; it must be a path, or begin with s3:// or gs://"
        )
    bucket, *parts = word[scheme.end() :].split("/")
    if not bucket:
        raise ValueError(f"{name} {word} names no bucket; write {scheme[0]}BUCKET/FOLDER")
    if "@" in bucket or ":" in bucket:
        raise ValueError(
            f"{name} has keys or a port in its URL; write {scheme[0]}BUCKET/FOLDER: keys and the address of a store "
            "come from environment variables, which docs/corpus.md names"
        )
    return ObjectPath(scheme[1], (bucket, *filter(None, parts)))


def is_inside(path: Location, folder: Location) -> bool:
    """Return whether a path is the folder, or below it."""
    if isinstance(path, Path) and isinstance(folder, Path):
        return path.resolve().is_relative_to(folder.resolve())
    return isinstance(path, ObjectPath) and path.is_relative_to(folder)


def reason(error: Exception) -> str:
    """Return why a file or an object could not be read or written, in a line that says what to do about a store."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    if found := _AWS_ERROR.search(text):
        code, status, operation = found.groups()
        return _REASONS.get(code) or f"the store refused {operation}: {f'HTTP status {status}' if status else code}"
    if text.startswith("Bucket ") and text.endswith("not found"):
        return NO_BUCKET
    return next((told for part, told in _GOOGLE_REASONS.items() if part in text), text)


class NewFile:
    """A file that gets its name when it is whole."""

    def __init__(self, folder: Location, name: str) -> None:
        """Begin a file: under another name in its folder, or without a name on this machine if it is for a store.

        Raises:
            OSError: it cannot be written.

        """
        self._target = folder / name
        incoming = folder / f"{INCOMING}{self._target.name}"
        self.file: IO[bytes] = incoming.open("wb") if isinstance(incoming, Path) else TemporaryFile()  # noqa: SIM115

    def publish(self) -> None:
        """Complete the file, and give it its name.

        Raises:
            OSError: it cannot be written.

        """
        with self.file as file:
            file.flush()
            if isinstance(self._target, ObjectPath):
                self._target.write(pa.memory_map(f"/proc/self/fd/{file.fileno()}").read_buffer())
                return
            os.fsync(file.fileno())
            Path(file.name).replace(self._target)
