"""Downloads with pget, Replicate's parallel downloader: fast, but it never notices a stall, so a watchdog runs with it.

It checks no digest, leaves partial files behind, and panics where a server ignores Range (seen with version 0.11.0).
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from embeddinggemma.weights.fetching import Download, DownloadError, arrived_bytes
from embeddinggemma.weights.store import without_token
from embeddinggemma.weights.urls import scrubbed

_MIN_PROGRESS = 1 << 16  # bytes; an idle process still reads a few, to wake its own threads
_MAX_REASON = 300  # characters of its message


class PgetFetcher:
    """The program `pget`. It is given no token, because it follows redirects by itself.

    Args:
        program: its path.
        stall_seconds: how long no byte may arrive before the process is ended.

    """

    name = "pget"

    def __init__(self, program: str, stall_seconds: float) -> None:
        self._program = program
        self._stall_seconds = stall_seconds

    def fetch(self, downloads: Sequence[Download]) -> Iterator[tuple[Download, str | None]]:
        """Fetch every file with one `pget multifile`; see Fetcher."""
        failure = self._run(downloads)
        for download in downloads:
            size = arrived_bytes([download])
            if size == download.size or (download.size is None and not failure):
                yield download, None
            elif not failure:
                failure = f"{download.path.name} has {size:,} bytes, not {download.size:,}"
        if failure:
            raise DownloadError(failure)

    def _run(self, downloads: Sequence[Download]) -> str | None:
        """Run the program until it ends or stalls; return what went wrong. URLs go in by stdin: they may be secret."""
        folder = Path(os.path.commonpath([download.path.parent for download in downloads]))
        listing = "".join(f"{download.url} {download.path.relative_to(folder)}\n" for download in downloads)
        environment = without_token(os.environ)
        environment["PGET_PID_FILE"] = str(folder / ".pget.pid")  # its default, in /run, is not writable for all
        with tempfile.TemporaryFile() as messages, tempfile.TemporaryFile() as urls:
            urls.write(listing.encode())
            urls.seek(0)
            try:
                process = subprocess.Popen(
                    [self._program, "multifile", "--force", "-"],
                    stdin=urls,
                    stdout=subprocess.DEVNULL,
                    stderr=messages,
                    cwd=folder,  # so that the listing, which has no quotes, holds no folder with a space in it
                    env=environment,
                )
            except OSError as error:
                return f"it cannot be started: {error.strerror}"
            try:
                if self._stalls(process, downloads):
                    return f"no new byte for {self._stall_seconds:g} s; ended"
            finally:
                process.kill()
                process.wait()
            return f"exit code {process.returncode}: {_reason(messages)}" if process.returncode else None

    def _stalls(self, process: subprocess.Popen[bytes], downloads: Sequence[Download]) -> bool:
        """Wait for the process to end; return early, and True, when it moves no more bytes."""
        watchdog = Watchdog(self._stall_seconds, time.monotonic())
        while not watchdog.stalled:
            try:
                process.wait(timeout=min(1.0, self._stall_seconds / 4))
            except subprocess.TimeoutExpired:
                watchdog.look(bytes_read(process.pid) + arrived_bytes(downloads), time.monotonic())
            else:
                return False
        return True


class Watchdog:
    """Notices when a transfer has moved no bytes for too long."""

    def __init__(self, stall_seconds: float, now: float) -> None:
        """Begin at the moment `now`, in seconds of any clock."""
        self._stall_seconds = stall_seconds
        self._moved, self._since = 0, now
        self.stalled = False

    def look(self, moved: int, now: float) -> None:
        """Take note that at the moment `now` the transfer has moved `moved` bytes in all."""
        if moved >= self._moved + _MIN_PROGRESS:
            self._moved, self._since = moved, now
        self.stalled = now - self._since >= self._stall_seconds


def bytes_read(pid: int) -> int:
    """Return how many bytes a process has read so far: pget holds up to 125 MB of a chunk before it writes any.

    Where the system does not report it (Linux does), return 0: then only the files' growth counts as progress.
    """
    try:
        counters = Path(f"/proc/{pid}/io").read_text()
    except OSError:
        return 0
    return int(dict(line.split(": ") for line in counters.splitlines())["rchar"])


def _reason(messages: BinaryIO) -> str:
    """Return the reason that a program gave for its end: the line of its panic, otherwise its last line."""
    messages.seek(0)
    lines = [line for line in messages.read().decode(errors="replace").splitlines() if line.strip()] or [
        "no reason given"
    ]
    reason = next((line for line in lines if line.startswith("panic:")), lines[-1])
    return scrubbed(reason)[-_MAX_REASON:]
