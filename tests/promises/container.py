"""A running container seen from outside: requests of any bytes, and whether it is as well as before them."""

import base64
import http.client
import json
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

import numpy as np
import psutil

from embeddinggemma.vectors import Float32Array
from local_server import LocalServer, health

Taken = TypeVar("Taken")

JSON = {"Content-Type": "application/json"}
MARKER = "zyzzyva-quokka"  # stands in every hostile text; no output of the server may hold it
KNOWN: dict[str, Any] = {"texts": ["Mars is red.", "Venus is hot. " * 20, "木星は大きい。"]}
SETTLED = 0.3  # seconds after which the worker has begun what it was asked


@dataclass(frozen=True)
class Answer:
    """What the server answered."""

    status: int
    body: bytes

    def json(self) -> Any:
        """Return the body's JSON."""
        return json.loads(self.body)


class Container:
    """Sends requests, and remembers what must not change: the worker, and the vectors of known texts."""

    def __init__(self, server: LocalServer) -> None:
        """Ask for the known vectors; the server has to be ready."""
        self.server = server
        self._log_seen = 0
        self.processes = psutil.Process(server.process.pid).children(recursive=True)
        [self.worker] = [one for one in self.processes if "_run_worker" in " ".join(one.cmdline())]
        self._known = self.embedding(**KNOWN)

    def send(
        self,
        body: bytes,
        headers: Mapping[str, str] = JSON,
        *,
        method: str = "POST",
        path: str = "/predictions",
        seconds: float = 120,
    ) -> Answer:
        """Send one request of these bytes on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=seconds)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            return Answer(response.status, response.read())
        finally:
            connection.close()

    def predict(self, **inputs: Any) -> Answer:
        """Ask for a prediction until it is taken."""
        body = json.dumps({"input": inputs}).encode()
        return until_taken(lambda: self.send(body), lambda answer: answer.status)

    def embedding(self, **inputs: Any) -> str:
        """Return the base64 of a prediction that has to succeed."""
        answer = self.predict(**inputs)
        prediction = answer.json()
        assert prediction.get("status") == "succeeded", (answer.status, str(prediction)[:500])
        return str(prediction["output"]["embedding"])

    def vectors(self, **inputs: Any) -> Float32Array:
        """Return the float32 vectors of a prediction that has to succeed, [texts, dimension]."""
        dimension = inputs.get("embedding_dim", 768)
        return np.frombuffer(base64.b64decode(self.embedding(**inputs)), "<f4").reshape(-1, dimension)

    def open(self, *pieces: bytes) -> socket.socket:
        """Return a connection on which these bytes were sent."""
        connection = socket.create_connection(("127.0.0.1", self.server.port), timeout=60)
        for piece in pieces:
            connection.sendall(piece)
        return connection

    def is_idle(self) -> bool:
        """Whether a text is alone in its forward pass, so that nothing else was waiting or running."""
        metrics = self.predict(text="anyone here?").json()["metrics"]
        return bool(metrics["batch_texts"] == 1 and metrics["queue_ms"] < 50)

    def new_log(self) -> str:
        """Return what the server has printed since the last call."""
        with self.server.log.open("rb") as log:
            log.seek(self._log_seen)
            printed = log.read()
        self._log_seen += len(printed)
        return printed.decode()

    def check_unharmed(self) -> None:
        """Check that the server is well, its worker the same one, its vectors the same bytes, and its log silent."""
        seconds_until(self.is_idle, limit=60)  # in the company of other texts a vector's last bits may differ
        assert health(self.server.url) == "READY"
        assert self.worker.is_running(), "the worker was restarted"
        assert self.embedding(**KNOWN) == self._known, "known texts have other vectors than before"
        printed = self.new_log()
        assert MARKER not in printed, "a user's text is in the log"
        assert "capacity permanently reduced" not in printed, "the server has lost a slot"


def until_taken(ask: Callable[[], Taken], status: Callable[[Taken], int]) -> Taken:
    """Return the first answer that is not 409, which comes now and then with slots free too; after ten seconds any."""
    deadline = time.monotonic() + 10
    while status(answer := ask()) == HTTPStatus.CONFLICT and time.monotonic() < deadline:
        pass
    return answer


def request_bytes(
    inputs: Mapping[str, Any], *, method: str = "POST", path: str = "/predictions", headers: Iterable[str] = ()
) -> bytes:
    """Return a whole HTTP request for a prediction."""
    body = json.dumps({"input": inputs}).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def fill_slots(container: Container, slots: int, request: bytes) -> list[socket.socket]:
    """Return connections whose requests hold every slot, and have been begun."""
    taken: list[socket.socket] = []
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        taken += [container.open(request) for _ in range(slots - len(taken))]
        for connection in readable(taken, SETTLED):  # a slot is free again a moment after its answer was sent
            assert connection.recv(12) == b"HTTP/1.1 409", "a request was answered before the slots were full"
            connection.close()
            taken.remove(connection)
        if len(taken) == slots and all(container.send(b"{}").status == 409 for _ in range(3)):
            assert not readable(taken, SETTLED)
            return taken
    raise AssertionError(f"only {len(taken)} of {slots} slots are free")


def readable(connections: Sequence[socket.socket], seconds: float) -> list[socket.socket]:
    """Return the connections that have got bytes or were closed; wait until one has, for so long at most."""
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
        return [key.fileobj for key, _ in selector.select(seconds) if isinstance(key.fileobj, socket.socket)]


def seconds_until(condition: Any, *, limit: float) -> float:
    """Ask again and again; return the seconds until the condition held, AssertionError after `limit` seconds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit, f"not so within {limit:g} s"
    return time.monotonic() - began
