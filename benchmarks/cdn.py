"""A folder over HTTP on loopback, with Range: `python -m benchmarks.cdn FOLDER [MB/s [MB/s]]`; prints its port.

It needs little processor time: the kernel copies the bytes (sendfile), so the cores are left to the program that
downloads them. Without a rate it sends as fast as it can; with a rate, all connections share it; with a second one,
each has at most that.
"""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_PIECE = 1 << 20  # bytes sent at a time if there is a rate


class Pace:
    """Limits the bytes that are sent per second."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._lock = threading.Lock()
        self._free_at = 0.0

    def wait(self, size: int) -> None:
        """Wait until this many bytes may be sent."""
        with self._lock:
            turn = max(self._free_at, time.monotonic())
            self._free_at = turn + size / self._rate
        time.sleep(max(0.0, turn - time.monotonic()))


class Handler(SimpleHTTPRequestHandler):
    """Answers GET with a whole file or one range of its bytes."""

    protocol_version = "HTTP/1.1"
    pace: Pace | None = None
    rate_of_each: float | None = None

    def do_GET(self) -> None:
        """Send the file, or the requested range."""
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        size = path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = (int(asked[1]), min(int(asked[2] or size), size - 1)) if asked else (0, size - 1)
        self.send_response(HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last + 1 - first))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        own_pace = Pace(self.rate_of_each) if self.rate_of_each else None
        piece = _PIECE if self.pace else size
        with path.open("rb") as file:
            self.wfile.flush()
            for start in range(first, last + 1, piece):
                count = min(piece, last + 1 - start)
                for pace in (self.pace, own_pace):
                    if pace:
                        pace.wait(count)
                self.connection.sendfile(file, start, count)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def serving(folder: Path, *rates: float) -> Iterator[str]:
    """Serve a folder in a process of its own, at these rates, for as long as the context lasts; return its URL."""
    command = [sys.executable, "-m", "benchmarks.cdn", str(folder), *map(str, rates)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


def main() -> None:
    """Serve the folder until the process is ended."""
    folder, *rate = sys.argv[1:]
    if rate:
        Handler.pace = Pace(float(rate[0]) * 1e6)
    if rate[1:]:
        Handler.rate_of_each = float(rate[1]) * 1e6
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
