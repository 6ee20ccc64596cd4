"""A proxy that refuses everything and counts: what asks it for this machine's own servers has taken the wrong way."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tools import PROJECT

_VARIABLES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


class RefusingProxy:
    """The proxy, running."""

    def __init__(self, url: str, log: Path) -> None:
        self.environment = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
        self.environment |= dict.fromkeys(_VARIABLES, url)
        """The environment of a program that is told to use it for everything."""
        self._log = log

    def asked_for(self) -> list[str]:
        """Return the host with its port, or the URL, of each request so far."""
        return self._log.read_text().splitlines()[1:]


@contextmanager
def refusing_proxy(folder: Path) -> Iterator[RefusingProxy]:
    """Run the proxy in a process of its own; its log is in the folder."""
    log = folder / "proxy"
    command = [sys.executable, "-m", "tests.support.refusing_proxy", str(log)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield RefusingProxy(process.stdout.readline().strip(), log)
        finally:
            process.terminate()


class _Handler(BaseHTTPRequestHandler):
    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline()
        if self.raw_requestline and self.parse_request():
            with Path(sys.argv[1]).open("a") as log:
                log.write(f"{self.path}\n")
            self.send_error(403)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def main() -> None:
    """Print the URL, and write what is asked for to the file that is named on the command line."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        Path(sys.argv[1]).write_text(f"{url}\n")
        print(url, flush=True)  # noqa: T201
        server.serve_forever()


if __name__ == "__main__":
    main()
