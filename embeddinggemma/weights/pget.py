"""Downloads with pget, Replicate's parallel downloader: fast, but it never gives up, so a watchdog runs with it.

Seen with version 0.11.0: it checks no digest, leaves partial files behind, panics where a server ignores Range, waits
for ever for a silent server, and asks again for ever, at once, where every answer breaks off.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from embeddinggemma.weights.fetching import Download, DownloadError, arrived_bytes
from embeddinggemma.weights.network import pget_certificates_fault, proxy_environment, proxy_of
from embeddinggemma.weights.parts import Follower
from embeddinggemma.weights.store import without_token
from embeddinggemma.weights.urls import scrubbed

# It writes a chunk when it has all of it, so small chunks show early that bytes arrive. (By default they have 125 MB.)
_CONNECTIONS, _CHUNK = 8, 4 << 20
# Bytes a second of the stall time that it may have read beyond those it wrote, and that still count as progress: first
# chunks that are on their way. Where every answer breaks off, it reads headers without end and writes nothing. So it
# has to bring about 1 MB/s; a slower network is left to plain HTTP.
_AHEAD = 64 << 10
_MIN_PROGRESS = 1 << 16  # bytes; an idle process still reads a few, to wake its own threads
_MAX_MEMORY = 900 << 20  # bytes; it needs connections × chunks, and grows without end where every answer breaks off
_MAX_MESSAGES = 1 << 20  # bytes
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
        """Fetch every file with one `pget multifile`, and hash it while it is written; see Fetcher."""
        followers = {download: Follower(download.path) for download in downloads if download.size}
        proxy = proxy_of(downloads[0].url)  # all are from one source
        failure = self._run(downloads, list(followers.values()))
        if failure and proxy:
            failure += f" (through {proxy})"
        for download in downloads:
            size = arrived_bytes([download])
            if size == download.size or (download.size is None and not failure):
                yield download, followers[download].finish(size) if download in followers else None
            elif not failure:
                failure = f"{download.path.name} has {size:,} bytes, not {download.size:,}"
        if failure:
            raise DownloadError(failure)

    def _run(self, downloads: Sequence[Download], followers: Sequence[Follower]) -> str | None:
        """Run the program until it ends or stalls; return what went wrong. URLs go in by stdin: they may be secret."""
        folder = Path(os.path.commonpath([download.path.parent for download in downloads]))
        listing = "".join(f"{download.url} {download.path.relative_to(folder)}\n" for download in downloads)
        environment = without_token(os.environ) | proxy_environment()
        environment["PGET_PID_FILE"] = str(folder / ".pget.pid")  # its default, in /run, is not writable for all
        environment |= {"PGET_CONCURRENCY": str(_CONNECTIONS), "PGET_CHUNK_SIZE": str(_CHUNK)}
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
                if reason := self._watch(process, downloads, followers, messages):
                    return f"{reason}; ended"
            finally:
                process.kill()
                process.wait()
            return f"exit code {process.returncode}: {_reason(messages)}" if process.returncode else None

    def _watch(
        self,
        process: subprocess.Popen[bytes],
        downloads: Sequence[Download],
        followers: Sequence[Follower],
        messages: BinaryIO,
    ) -> str | None:
        """Wait for the process to end, and hash what it writes; return early, with the reason, if it must be ended."""
        watchdog = Watchdog(self._stall_seconds, time.monotonic())
        while not watchdog.stalled:
            try:
                process.wait(timeout=min(1.0, self._stall_seconds / 4))
            except subprocess.TimeoutExpired:
                written = arrived_bytes(downloads)
                ahead = min(_AHEAD * self._stall_seconds, max(0, bytes_read(process.pid) - written))
                watchdog.look(int(written + ahead), time.monotonic())
                if memory_of(process.pid) > _MAX_MEMORY:
                    return f"it holds more than {_MAX_MEMORY >> 20} MB of memory"
                if os.fstat(messages.fileno()).st_size > _MAX_MESSAGES:
                    return "it writes one message after the other"
                for follower in followers:
                    follower.look()
            else:
                return None
        return f"no new byte for {self._stall_seconds:g} s"


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
    """Return how many bytes a process has read so far: pget holds a chunk before it writes any of it.

    Where the system does not report it (Linux does), return 0: then only the files' growth counts as progress.
    """
    try:
        counters = Path(f"/proc/{pid}/io").read_text()
    except OSError:
        return 0
    return int(dict(line.split(": ") for line in counters.splitlines())["rchar"])


def memory_of(pid: int) -> int:
    """Return the bytes of memory that a process holds; 0 where the system does not report it (Linux does)."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _reason(messages: BinaryIO) -> str:
    """Return the reason that a program gave for its end: the line of its panic, otherwise its last line."""
    messages.seek(max(0, os.fstat(messages.fileno()).st_size - _MAX_MESSAGES))
    lines = [line for line in messages.read(_MAX_MESSAGES).decode(errors="replace").splitlines() if line.strip()] or [
        "no reason given"
    ]
    reason = next((line for line in lines if line.startswith("panic:")), lines[-1])
    fault = pget_certificates_fault() if "x509" in reason else None
    return scrubbed(reason)[-_MAX_REASON:] + (f" ({fault})" if fault else "")
