"""Many clients at once, with requests of every kind. Each answer is compared with vectors that were computed alone."""

import base64
import http.client
import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from embeddinggemma.engine.contract import Float32Array
from embeddinggemma.vectors import DIMENSIONS
from tools.client import JSON, exchange
from tools.observed_server import MARKER, ObservedServer

TOLERANCE = 1e-5  # of a unit vector's values: in a batch, the last bits of float32 may round differently
WORDS = ("river", "stone", "seven", "amber", "train", "moss", "星", "дом", "lamp", "field", "north", "glass", "٣")
REFUSED: list[dict[str, Any]] = [
    {},
    {"text": MARKER, "texts": [MARKER]},
    {"texts": [MARKER, " "]},
    {"text": MARKER, "title": "T", "task": "clustering"},
    {"text": MARKER, "embedding_dim": 300},
    {"text": MARKER, "task": "search"},
    {"text": 3},
]
KINDS = {"single": 60, "batch": 20, "refused": 10, "cancelled": 10}  # of a hundred requests


@dataclass(frozen=True)
class Texts:
    """Texts and their vectors."""

    texts: list[str]
    """All different."""
    alone: Float32Array
    """The unit vector of each text, computed alone in its forward pass: float32 [texts, 768]."""

    @classmethod
    def ask(cls, server: ObservedServer, number: int) -> "Texts":
        """Make texts of 3 to 100 words, and ask an idle server for their vectors, one after the other."""
        dice = random.Random(number)  # noqa: S311
        texts = [
            f"{MARKER} {n} " + " ".join(dice.choices(WORDS, k=dice.choice((3, 9, 30, 100)))) for n in range(number)
        ]
        vectors = np.concatenate([server.vectors(text=text) for text in texts])
        return cls(texts, vectors)

    def min_distance(self) -> float:
        """Return the distance of the closest pair of vectors: the largest difference between their values."""
        pairs = [np.abs(self.alone[:n] - self.alone[n]).max(axis=1).min() for n in range(1, len(self.texts))]
        return float(min(pairs))

    def largest_error(self, positions: list[int], dimension: int, output: dict[str, Any]) -> float:
        """Return the largest difference between an answer's values and those that these texts have alone."""
        expected = self.alone[positions, :dimension]
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
        embedding = output["embedding"]
        values = np.frombuffer(base64.b64decode(embedding), "<f4") if isinstance(embedding, str) else embedding
        return float(np.abs(np.array(values).reshape(expected.shape) - expected).max())


@dataclass
class Tally:
    """The results of the requests."""

    kinds: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    """The number of requests of each kind that have ended."""
    largest_error: float = 0.0
    """The largest difference between a value of an answer and the value computed alone."""
    faults: list[str] = field(default_factory=list)
    """A line for each request with a missing or a wrong answer."""
    latencies: list[tuple[float, float]] = field(default_factory=list)
    """Of single texts: when each was asked, and how many seconds it took."""

    @property
    def requests(self) -> int:
        """The number of requests that have ended."""
        return sum(self.kinds.values())


class MixedLoad:
    """Clients that send one request after the other, each request with its own id."""

    def __init__(self, port: int, texts: Texts) -> None:
        self._port = port
        self._texts = texts
        self._numbers = count()
        self._lock = threading.Lock()
        self.tally = Tally()

    def run(self, clients: int, more: Callable[[int], bool]) -> Tally:
        """Let the clients send requests as long as more(number of the next request) is true."""
        threads = [threading.Thread(target=self._client, args=(number, more)) for number in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self.tally

    def _client(self, number: int, more: Callable[[int], bool]) -> None:
        dice = random.Random(number)  # noqa: S311
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
        while more(request := next(self._numbers)):
            [kind] = dice.choices(list(KINDS), list(KINDS.values()))
            asked = time.monotonic()
            try:
                fault = getattr(self, f"_{kind}")(connection, f"r{request}", dice)
            except Exception as error:
                connection.close()
                fault = f"no answer: {error!r}"
            with self._lock:
                self.tally.kinds[kind] += 1
                if fault:
                    self.tally.faults.append(f"{kind} r{request}: {fault}")
                if kind == "single":
                    self.tally.latencies.append((asked, time.monotonic() - asked))
        connection.close()

    def _exchange(self, connection: http.client.HTTPConnection, name: str, inputs: dict[str, Any]) -> tuple[int, Any]:
        return exchange(connection, inputs, method="PUT", path=f"/predictions/{name}")

    def _single(self, connection: http.client.HTTPConnection, name: str, dice: random.Random) -> str | None:
        position = dice.randrange(len(self._texts.texts))
        return self._ask(connection, name, dice, [position], {"text": self._texts.texts[position]})

    def _batch(self, connection: http.client.HTTPConnection, name: str, dice: random.Random) -> str | None:
        positions = dice.choices(range(len(self._texts.texts)), k=dice.randint(2, 8))
        texts = [self._texts.texts[position] for position in positions]
        return self._ask(connection, name, dice, positions, {"texts": texts})

    def _ask(
        self,
        connection: http.client.HTTPConnection,
        name: str,
        dice: random.Random,
        positions: list[int],
        inputs: dict[str, Any],
    ) -> str | None:
        """Return what is wrong with the answer, if anything."""
        dimension = dice.choice(DIMENSIONS)
        asked = inputs | {"embedding_dim": dimension, "output_format": "base64" if dice.random() < 0.9 else "array"}
        _, answer = self._exchange(connection, name, asked)
        if answer.get("id") != name:
            return f"the answer to {answer.get('id')}"
        if answer["status"] != "succeeded":
            return f"{answer['status']}: {answer.get('error')}"
        error = self._texts.largest_error(positions, dimension, answer["output"])
        with self._lock:
            self.tally.largest_error = max(self.tally.largest_error, error)
        return None if error <= TOLERANCE else f"a value differs by {error:.2g} from that of the text alone"

    def _refused(self, connection: http.client.HTTPConnection, name: str, dice: random.Random) -> str | None:
        status, answer = self._exchange(connection, name, dice.choice(REFUSED))
        refused = "detail" in answer if status == 422 else answer.get("status") == "failed" and answer["id"] == name
        return None if refused else f"HTTP {status}, status {answer.get('status')} of {answer.get('id')}"

    def _cancelled(self, connection: http.client.HTTPConnection, name: str, dice: random.Random) -> None:
        """Send a request, and close the connection before the answer."""
        inputs = {"texts": dice.choices(self._texts.texts, k=4)}
        connection.request("PUT", f"/predictions/{name}", json.dumps({"input": inputs}), JSON)
        connection.close()
