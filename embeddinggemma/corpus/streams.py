"""A file as a stream of UTF-8: unpacked, converted from its encoding, and read forward only."""

import codecs
import io
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar, cast

import pyarrow as pa

from embeddinggemma.corpus.stores import Location

MAX_ROW_BYTES = 64 * 2**20
"""Of a row in UTF-8: a file whose end of line or last quote is missing would otherwise be read as one row."""

_BUFFER = 2**20
_MAGIC = {
    b"\x1f\x8b\x08": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x50\x2a\x4d\x18": "zstd",  # of pzstd
    **{b"BZh%d1AY&SY" % level: "bz2" for level in range(1, 10)},
}
_BYTE_ORDER_MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_ZEROS = {  # which of four bytes are not zero, where two letters of ASCII stand without a mark, or one
    b"\1\0": "utf-16-le",
    b"\0\1": "utf-16-be",
    b"\1\0\1\0": "utf-16-le",
    b"\0\1\0\1": "utf-16-be",
    b"\1\0\0\0": "utf-32-le",
    b"\0\0\0\1": "utf-32-be",
}


class ByteStream:
    """The bytes of a file in UTF-8; positions count these bytes."""

    def __init__(self, path: Location, encoding: str) -> None:
        """Open a file.

        Raises:
            OSError: it cannot be read.

        """
        self.position = 0
        """Where the next byte is."""
        self.lines = 0
        """How many lines have been read."""
        self._buffer = io.BufferedReader(_utf8(path, encoding), _BUFFER)

    def peek(self) -> bytes:
        """Return some of the next bytes, and stay before them; at the end of the file nothing."""
        return self._buffer.peek(1)

    def read(self, size: int) -> bytes:
        """Return so many bytes, or those that are left."""
        data = self._buffer.read(size)
        self.position += len(data)
        return data

    def read_line(self) -> bytes:
        """Return the next line with its end, or nothing at the end of the file.

        Raises:
            ValueError: it is too long.

        """
        line = self._buffer.readline(MAX_ROW_BYTES + 1)
        if len(line) > MAX_ROW_BYTES:
            raise ValueError(f"a line of it has more than {MAX_ROW_BYTES:,} bytes")
        self.position += len(line)
        self.lines += bool(line)
        return line

    def skip_to(self, position: int) -> None:
        """Go to a position, which is not before the present one."""
        if self._buffer.seekable():
            self._buffer.seek(position)
            self.position = position
        while self.position < position and self.read(min(_BUFFER, position - self.position)):
            pass

    def close(self) -> None:
        """Close the file."""
        self._buffer.close()


def likely_encoding(data: bytes) -> str | None:
    """Return the encoding that the first four bytes of a file show, if it is not UTF-8; None: they show none."""
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            return encoding
    return _ZEROS.get(bytes(map(bool, data)))


def opened(path: Location) -> pa.NativeFile:
    """Open a file for Arrow, and unpack it on the way; if it is not packed, it can be read at any place.

    Raises:
        OSError: it cannot be read.

    """
    file = path.open("rb")  # by Python, as Arrow opens no names that are not UTF-8
    head = file.read(10)
    file.seek(0)
    compression = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
    native = file if isinstance(file, pa.NativeFile) else pa.PythonFile(file, "r")
    if compression:  # it reads 64 KiB at a time, which would each be a request to a store
        return pa.CompressedInputStream(pa.BufferedInputStream(native, _BUFFER), compression)
    return native


def _utf8(path: Location, encoding: str) -> pa.NativeFile:
    stream = opened(path)
    if codecs.lookup(encoding).name in ("utf-8", "utf-8-sig"):  # a row that is not UTF-8 is rejected alone
        return stream
    return pa.transcoding_input_stream(stream, encoding, "utf-8")


class ForwardReader(Protocol):
    """What can be read forward only."""

    position: int

    def skip_to(self, position: int) -> None:
        """Go to a position, which is not before the present one."""


R = TypeVar("R", bound=ForwardReader)
_idle: deque[tuple[Hashable, ForwardReader]] = deque(maxlen=4)
_idle_lock = threading.Lock()


@contextmanager
def reader_at(key: Hashable, position: int, open_reader: Callable[[], R]) -> Iterator[R]:
    """Lend a reader that stands at a position.

    The slices of a file come in order, so a packed file is unpacked once by each process: readers are kept, and go on.

    Args:
        key: what the reader reads.
        position: where it must stand.
        open_reader: called if no reader of this key is left that stands there or before.

    """
    reader = cast(R | None, _take(key, position)) or open_reader()
    reader.skip_to(position)
    yield reader
    with _idle_lock:
        _idle.append((key, reader))


def _take(key: Hashable, position: int) -> ForwardReader | None:
    with _idle_lock:
        fitting = [entry for entry in _idle if entry[0] == key and entry[1].position <= position]
        if not fitting:
            return None
        nearest = max(fitting, key=lambda entry: entry[1].position)
        _idle.remove(nearest)
        return nearest[1]
