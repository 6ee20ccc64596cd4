"""The client of the container's server that tests, benchmarks and the soak share."""

import base64
import http.client
import json
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from embeddinggemma.engine.contract import Float32Array

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Answer:
    """The server's answer."""

    status: int
    """The HTTP status."""
    body: bytes
    """The body, as bytes."""

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    def json(self) -> Any:
        """Return the body's JSON."""
        return json.loads(self.body)


class Client:
    """Sends requests to a server on this machine, each on its own connection."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.port = urlsplit(url).port or 80

    def send(
        self,
        body: bytes = b"",
        headers: Mapping[str, str] = JSON,
        *,
        method: str = "POST",
        path: str = "/predictions",
        timeout: float = 600,
    ) -> Answer:
        """Send these bytes as one request. The timeout, in seconds, is for a server that hangs."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            return Answer(response.status, response.read())
        finally:
            connection.close()

    def post(self, **inputs: Any) -> Answer:
        """Ask for a prediction."""
        return self.send(json.dumps({"input": inputs}).encode())

    def predict(self, **inputs: Any) -> dict[str, Any]:
        """Return the output of a prediction that must succeed."""
        prediction = self.post(**inputs).json()
        assert prediction.get("status") == "succeeded", json.dumps(prediction)[:500]
        output: dict[str, Any] = prediction["output"]
        return output

    def embedding(self, **inputs: Any) -> str:
        """Return the base64 of a prediction that must succeed."""
        return str(self.predict(**inputs)["embedding"])

    def vectors(self, **inputs: Any) -> Float32Array:
        """Return the float32 vectors of a prediction that must succeed, [texts, dimension]."""
        dimension = inputs.get("embedding_dim", 768)
        return np.frombuffer(base64.b64decode(self.embedding(**inputs)), "<f4").reshape(-1, dimension)

    def embed(self, texts: list[str], task: str, **inputs: Any) -> Float32Array:
        """Return the vectors of texts, [texts, dimension]."""
        return self.vectors(texts=texts, task=task, **inputs)

    def open(self, *parts: bytes) -> socket.socket:
        """Return a connection on which these bytes were sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=600)
        for part in parts:
            connection.sendall(part)
        return connection


def exchange(
    connection: http.client.HTTPConnection,
    inputs: Mapping[str, Any],
    *,
    method: str = "POST",
    path: str = "/predictions",
) -> tuple[int, Any]:
    """Ask for a prediction on an open connection; return the status and the answer's JSON."""
    connection.request(method, path, json.dumps({"input": inputs}), JSON)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def request_bytes(
    inputs: Mapping[str, Any], *, method: str = "POST", path: str = "/predictions", headers: Iterable[str] = ()
) -> bytes:
    """Return a whole HTTP request for a prediction."""
    return json_request({"input": inputs}, method=method, path=path, headers=headers)


def json_request(content: Any, *, method: str = "POST", path: str, headers: Iterable[str] = ()) -> bytes:
    """Return a whole HTTP request with a JSON body."""
    body = json.dumps(content).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def readable(connections: Sequence[socket.socket], seconds: float) -> list[socket.socket]:
    """Return the connections that have bytes to read or were closed; wait at most this many seconds for the first."""
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
        return [key.fileobj for key, _ in selector.select(seconds) if isinstance(key.fileobj, socket.socket)]


def wait_until(condition: Callable[[], object], *, timeout: float = 300) -> None:
    """Check again and again until the condition holds. AssertionError after the timeout, which is for a hang."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"the condition did not hold within {timeout:g} s"
        time.sleep(0.005)
