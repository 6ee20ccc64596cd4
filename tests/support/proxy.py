"""An HTTP proxy on loopback: it connects every host to one server, or refuses, and remembers what it was asked."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType


class Proxy:
    """Answers CONNECT; a context manager.

    Args:
        server_port: of 127.0.0.1, to which it connects whoever asks.
        status: of its answers; None: it never answers.

    """

    def __init__(self, server_port: int, status: int | None = 200) -> None:
        self.asked: list[str] = []
        """The hosts and ports that it was asked for, as `cdn.example:443`."""
        self.credentials: list[str | None] = []
        """The Proxy-Authorization header of each request."""
        self.server_port = server_port
        self.status = status
        self.released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads, self._server.block_on_close = True, False
        self.address = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            proxy.asked.append(self.path)
            proxy.credentials.append(self.headers.get("Proxy-Authorization"))
            if proxy.status is None:
                proxy.released.wait()
                return
            self.send_response(proxy.status)
            self.end_headers()
            if proxy.status == 200:
                with socket.create_connection(("127.0.0.1", proxy.server_port)) as server:
                    threading.Thread(target=_pass_on, args=(server, self.connection), daemon=True).start()
                    _pass_on(self.connection, server)

        def do_GET(self) -> None:
            """Note a request that the proxy should answer itself: it was meant for this machine."""
            proxy.asked.append(self.path)
            self.send_error(502)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    return Handler


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:  # one side has gone
        pass
