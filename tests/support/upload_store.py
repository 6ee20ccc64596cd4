"""A server on loopback that takes files by PUT."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def upload_store(*statuses: int, location: str = "") -> Iterator[tuple[str, list[tuple[str, str, bytes]]]]:
    """Run a server; yield its URL, and the requests that it has had: method, path with query, and body.

    Args:
        statuses: of its answers; the last one is that of all that follow.
        location: the header of this name in its answers.

    """
    taken: list[tuple[str, str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taken.append((self.command, self.path, body))
            self.send_response(statuses[min(len(taken), len(statuses)) - 1])
            if location:
                self.send_header("Location", location)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", taken
        finally:
            server.shutdown()
            thread.join()
