"""A large file in parts that arrive side by side, and its digest, which needs the bytes in their order."""

import hashlib
import os
import threading
import time
from pathlib import Path
from typing import BinaryIO

_READ = 1 << 22  # bytes hashed at a time


class Parts:
    """The parts of a file: each connection claims the next, so that the file fills from its start."""

    def __init__(self, size: int, part_size: int) -> None:
        self._size, self._part_size = size, part_size
        self._arrived = [0] * -(-size // part_size)
        self._claimed = 0
        self._changed = threading.Condition()
        self._last_arrival = time.monotonic()
        self.stopped = False
        """Whether the rest is not fetched in parts."""

    def claim(self) -> int | None:
        """Return the number of a part that nobody fetches yet, or None."""
        with self._changed:
            if self.stopped or self._claimed == len(self._arrived):
                return None
            self._claimed += 1
            return self._claimed - 1

    def missing(self, part: int) -> tuple[int, int]:
        """Return the first byte of a part that has not arrived, and the end of the part."""
        begin = part * self._part_size
        return begin + self._arrived[part], min(begin + self._part_size, self._size)

    def append(self, part: int, size: int) -> None:
        """Take note that this many bytes of a part were written."""
        with self._changed:
            self._arrived[part] += size
            self._last_arrival = time.monotonic()
            self._changed.notify_all()

    def silent_seconds(self) -> float:
        """Return how long no connection has brought a byte."""
        return time.monotonic() - self._last_arrival

    def stop(self) -> None:
        """Let nobody claim a part any more."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()

    def frontier(self) -> int:
        """Return how many bytes have arrived without a gap."""
        for part in range(len(self._arrived)):
            first, end = self.missing(part)
            if first < end:
                return first
        return self._size

    def pause(self, seconds: float) -> bool:
        """Wait this long, or until `stop`; return whether it was stopped."""
        with self._changed:
            return self._changed.wait_for(lambda: self.stopped, seconds)

    def wait(self, seconds: float) -> None:
        """Wait until something has arrived, at most this long."""
        with self._changed:
            self._changed.wait(seconds)


def write_all(file: BinaryIO, data: bytes, at: int) -> None:
    """Write all of the data at this place: the system may write less at a time, on a disk that is nearly full."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(file.fileno(), rest, at)
        rest, at = rest[written:], at + written


class Digest:
    """The sha256 of a file, computed as it grows: by reading back what was just written, which memory still holds."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.begin()

    def begin(self) -> None:
        """Hash the file from its start."""
        self.size = 0
        """Bytes that are hashed."""
        self.sha256 = hashlib.sha256()

    def read_on(self, end: int) -> None:
        """Hash the file up to this byte."""
        while self.size < end:
            piece = os.pread(self.file.fileno(), min(_READ, end - self.size), self.size)
            if not piece:
                raise OSError(f"{self.file.name} ended after {self.size:,} of {end:,} bytes")
            self.sha256.update(piece)
            self.size += len(piece)


class Follower:
    """Hashes a file that another program writes from its start to its end, while it does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest: Digest | None = None

    def look(self) -> None:
        """Hash what is new; begin again if the file has become shorter."""
        try:
            size = self._path.stat().st_size
            if self._digest is None:
                self._digest = Digest(self._path.open("rb"))
            elif size < self._digest.size:
                self._digest.begin()
            self._digest.read_on(size)
        except OSError:  # it is not there yet, or became shorter just now
            return

    def finish(self, size: int) -> str | None:
        """Return the sha256 of the file if it has this size, else None."""
        self.look()
        if self._digest is None:
            return None
        self._digest.file.close()
        return self._digest.sha256.hexdigest() if self._digest.size == size else None
