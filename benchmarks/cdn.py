"""A folder over HTTP on loopback, with Range, at little cost to the processor: `python -m benchmarks.cdn FOLDER`.

Prints its port. The kernel copies the bytes (sendfile), so that what downloads them has the cores to itself.
"""

import re
import sys
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(SimpleHTTPRequestHandler):
    """GET of whole files and of one range of bytes."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Send the file, or the part that is asked for."""
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
        if last >= first:
            with path.open("rb") as file:
                self.wfile.flush()
                self.connection.sendfile(file, first, last + 1 - first)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main() -> None:
    """Serve the folder until the process is ended."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=sys.argv[1]))
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
