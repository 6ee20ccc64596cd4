"""Servers and gateways that a test starts, and that end with it."""

import re
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools.client import Client, readable, wait_until
from tools.observed_server import ObservedServer
from tools.server import free_port, start_server, wait_until_ready

_LOG_BYTES = 2**20  # of a gateway: some 6,000 requests, then it would wait until somebody reads its log
TOKEN = "hf_quaggaQuaggaQUAGGA"  # noqa: S105 - opens nothing; no server may show it


class RunningServer(Client):
    """A client of a running server, with the file of the server's log."""

    def __init__(self, url: str, log: Path) -> None:
        super().__init__(url)
        self.log = log


@contextmanager
def running_server(
    changes: Mapping[str, str], log: Path, *, slots: int, predictor: str = "predict.py:Predictor"
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run the image's server on a free port, with its output in `log`; yield its process and URL before it is ready."""
    port = free_port()
    with log.open("wb") as output:
        process = start_server(port, changes, slots=slots, predictor=predictor, log=output)
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


class HeldServer(ObservedServer):
    """The real server with tests/support/held_predictor.py: a test can hold its encoder."""

    def __init__(self, url: str, pid: int, log: Path, folder: Path) -> None:
        self._gate, self.events, self.temporary = folder / "gate", folder / "events", folder / "temporary"
        super().__init__(url, pid, log)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold every forward pass until the context ends, or `release`."""
        self._gate.touch()
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """Hold no more."""
        self._gate.unlink(missing_ok=True)

    def kill(self) -> None:
        """End the server at once, and its worker with it."""
        self.server.kill()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop all its processes until the context ends: connections stay open, and nothing is answered."""
        stopped = [self.server, self.worker]
        for process in stopped:
            process.suspend()
        try:
            yield
        finally:
            for process in stopped:
                process.resume()

    def begun(self) -> int:
        """Return how many requests have begun to wait for their vectors so far."""
        return self._lines().count("begun")

    def waiting(self) -> int:
        """Return how many requests wait for their vectors now."""
        lines = self._lines()
        return lines.count("begun") - lines.count("ended")

    def passes(self) -> int:
        """Return how many forward passes have ever begun."""
        return sum(line.startswith("pass ") for line in self._lines())

    def texts_encoded(self) -> int:
        """Return how many texts have been in a forward pass so far."""
        return sum(int(line.removeprefix("pass ")) for line in self._lines() if line.startswith("pass "))

    def fill_slots(self, slots: int, *requests: bytes) -> list[socket.socket]:
        """Fill this many slots of a held server; return the connections of their requests, once all have begun.

        The requests take turns. A request is sent again if it is refused: a slot is free only a moment after the answer
        to its request was sent.
        """
        goal = self.begun() + slots
        taken: dict[socket.socket, int] = {}

        def filled() -> bool:
            for connection in readable(list(taken), 0):
                assert connection.recv(12) == b"HTTP/1.1 409", "a request was answered while the server was held"
                connection.close()
                del taken[connection]
            for number in sorted(set(range(slots)) - set(taken.values())):
                taken[self.open(requests[number % len(requests)])] = number
            return self.begun() >= goal

        wait_until(filled)
        return sorted(taken, key=taken.__getitem__)

    def drop(self, connections: Sequence[socket.socket]) -> None:
        """Close connections whose requests wait, and return once these have ended."""
        goal = self.waiting() - len(connections)
        for connection in connections:
            connection.close()
        wait_until(lambda: self.waiting() == goal)

    def _lines(self) -> list[str]:
        return self.events.read_text().splitlines() if self.events.exists() else []


@contextmanager
def held_server(folder: Path, changes: Mapping[str, str], *, slots: int) -> Iterator[HeldServer]:
    """Start a server that can be held; `changes` are environment variables."""
    temporary = folder / "temporary"
    temporary.mkdir()
    variables = {
        **changes,
        "HELD_GATE": str(folder / "gate"),
        "HELD_EVENTS": str(folder / "events"),
        "TMPDIR": str(temporary),
    }
    log = folder / "log"
    predictor = "tests/support/held_predictor.py:Predictor"
    with running_server(variables, log, slots=slots, predictor=predictor) as (process, url):
        wait_until_ready(process, url)
        yield HeldServer(url, process.pid, log, folder)


@contextmanager
def running_gateway(
    command: Sequence[str | Path], folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Run a program that serves the gateway, in a folder; yield the URL that it prints, and its process."""
    with subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, pipesize=_LOG_BYTES
    ) as process:
        assert process.stderr is not None
        try:
            searched = (re.search(r"running on (http://127\.0\.0\.1:\d+)", line) for line in process.stderr)
            yield next(found[1] for found in searched if found), process
        finally:
            process.terminate()
