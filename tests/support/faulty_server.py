"""A file server on loopback, with Range, that fails on purpose: each request for a path gets the path's next fault."""

import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

CERTIFICATE = Path(__file__).with_name("loopback.pem")  # of 127.0.0.1, localhost and cdn.example; with its key

Fault = Callable[["Answer"], None]


@dataclass(frozen=True)
class Request:
    """A request that the server got."""

    path: str
    """Without its query."""
    query: str
    """What follows the question mark."""
    headers: dict[str, str]
    """By name."""
    moment: float
    """When it came, in seconds of the clock that never goes back."""


@dataclass
class Answer:
    """An answer, and the fault in it; by default there is none."""

    body: bytes
    """The whole file, or the text of an error."""
    server: "FaultyServer"
    """The server that sends it."""
    status: int | None = None
    """The status, if it is neither 200 nor 206."""
    headers: dict[str, str] = field(default_factory=dict)
    """Besides Content-Length and Content-Range."""
    ignores_range: bool = False
    """Whether it sends the whole file even if a range was requested."""
    stop_after: float | None = None
    """The part of the bytes after which `stop` is called instead of sending the rest."""
    stop: Callable[[BaseHTTPRequestHandler], None] = lambda _: None
    """Called after `stop_after`."""


def status(code: int, **headers: str) -> Fault:
    """Answer with this code and these headers (Retry_After is sent as Retry-After), and no file."""

    def fault(answer: Answer) -> None:
        answer.status, answer.body = code, b"an error page\n"
        answer.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    return fault


def redirect(location: str) -> Fault:
    """Send the client elsewhere."""

    def fault(answer: Answer) -> None:
        answer.status, answer.body = 302, b""
        answer.headers = {"Location": location.encode().decode("latin-1")}  # as the bytes of UTF-8

    return fault


def cut(part: float) -> Fault:
    """Close the connection after a part of the bytes."""
    return _stops(part, lambda _: None)


def reset(part: float) -> Fault:
    """Reset the connection after a part of the bytes."""

    def stop(handler: BaseHTTPRequestHandler) -> None:
        at_once = struct.pack("ii", 1, 0)  # linger on, for 0 seconds: RST instead of FIN
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        os.close(handler.connection.detach())

    return _stops(part, stop)


def silence(part: float) -> Fault:
    """Send a part of the bytes, set `server.silent`, and send nothing more during the test."""

    def fault(answer: Answer) -> None:
        def stop(_: BaseHTTPRequestHandler) -> None:
            answer.server.silent.set()
            answer.server.released.wait()

        _stops(part, stop)(answer)

    return fault


def pause(part: float) -> Fault:
    """Send a part of the bytes, set `server.silent`, and send the rest once `server.released` is set."""

    def fault(answer: Answer) -> None:
        def stop(handler: BaseHTTPRequestHandler) -> None:
            answer.server.silent.set()
            answer.server.released.wait()
            handler.wfile.write(answer.body[int(len(answer.body) * part) :])

        _stops(part, stop)(answer)

    return fault


def ignore_range(answer: Answer) -> None:
    """Send the whole file even if a range was requested."""
    answer.ignores_range = True


def longer(answer: Answer) -> None:
    """Send a byte too many."""
    answer.body += b"\0"


def shorter(answer: Answer) -> None:
    """Send a byte too few."""
    answer.body = answer.body[:-1]


def flip(answer: Answer) -> None:
    """Change one bit in the middle."""
    middle = len(answer.body) // 2
    answer.body = answer.body[:middle] + bytes([answer.body[middle] ^ 1]) + answer.body[middle + 1 :]


def both(first: Fault, second: Fault) -> Fault:
    """Two faults at once."""

    def fault(answer: Answer) -> None:
        first(answer)
        second(answer)

    return fault


def _stops(part: float, stop: Callable[[BaseHTTPRequestHandler], None]) -> Fault:
    def fault(answer: Answer) -> None:
        answer.stop_after, answer.stop = part, stop

    return fault


class FaultyServer:
    """Serves `files` (path to bytes); a context manager. `fail` sets the faults of the next requests for a path."""

    def __init__(self, *, tls: bool = False) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.silent = threading.Event()
        self.released = threading.Event()
        self._faults: dict[str, Iterator[Fault]] = {}
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERTIFICATE)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def publish(self, prefix: str, files: dict[str, bytes]) -> None:
        """Serve a folder's files below a prefix."""
        self.files |= {f"/{prefix}/{path}": body for path, body in files.items()}

    def fail(self, path: str, faults: Iterable[Fault]) -> None:
        """Let the next requests for a path go wrong, one fault for each; the requests after them are answered well."""
        self._faults[path] = iter(faults)

    def asked_for(self, path: str) -> list[Request]:
        """Return the requests for a path so far."""
        return [request for request in self.requests if request.path == path]

    def answer(self, path: str) -> Answer:
        """Return the next answer for a path."""
        known = path in self.files
        answer = Answer(self.files.get(path, b"no such file\n"), self, status=None if known else 404)
        for fault in self._faults.get(path, iter(())):
            fault(answer)
            break
        return answer

    def __enter__(self) -> "FaultyServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: in half of the tests a client hangs up on purpose."""


def _handler(server: FaultyServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            server.requests.append(Request(path, query, dict(self.headers), time.monotonic()))
            _send(self, server.answer(path))

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    return Handler


def _send(handler: BaseHTTPRequestHandler, answer: Answer) -> None:
    total = len(answer.body)
    asked = handler.headers.get("Range")
    if asked and answer.status is None and not answer.ignores_range:
        first, _, last = asked.removeprefix("bytes=").partition("-")
        answer.body = answer.body[int(first) : int(last) + 1 if last else None]
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {first}-{int(first) + len(answer.body) - 1}/{total}")
    else:
        handler.send_response(answer.status or 200)
    handler.send_header("Content-Length", str(len(answer.body)))
    for name, value in answer.headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    if answer.stop_after is None:
        handler.wfile.write(answer.body)
        return
    handler.wfile.write(answer.body[: int(len(answer.body) * answer.stop_after)])
    handler.wfile.flush()
    handler.close_connection = True
    answer.stop(handler)
