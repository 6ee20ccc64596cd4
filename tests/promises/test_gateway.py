"""64 clients through every door at once, while one of two containers is killed: each answer is the right one."""

import base64
import http.client
import json
import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddinggemma.engine.contract import Float32Array
from tests.support.doors import PATHS
from tests.support.gateways import RunningGateway, gateway_process
from tests.support.servers import RunningServer, running_server
from tools.client import JSON, Client, wait_until
from tools.evidence import Evidence
from tools.observed_server import MARKER
from tools.server import wait_until_ready

pytestmark = pytest.mark.slow

PROMISE = "The gateway loses nothing and mixes nothing up, even if a container dies"
CLIENTS = 64
TASKS = ("none", "retrieval_query", "clustering")
DIMENSIONS = (768, 128)
TEXTS = [f"{MARKER} {number} " + "word " * (number % 40) for number in range(60)]
Ask = Callable[[list[str], str, int], tuple[dict[str, Any], Callable[[Any], Any]]]


def _openai(texts: list[str], task: str, dimension: int) -> tuple[dict[str, Any], Callable[[Any], Any]]:
    encoding = "base64" if len(texts) % 2 else "float"
    body = {"model": f"embeddinggemma-300m:{task}", "input": texts, "dimensions": dimension}

    def read(answer: Any) -> Any:
        vectors = [item["embedding"] for item in sorted(answer["data"], key=lambda item: int(item["index"]))]
        return vectors if encoding == "float" else [_decoded(vector, dimension)[0] for vector in vectors]

    return {**body, "encoding_format": encoding}, read


def _tei(texts: list[str], task: str, dimension: int) -> tuple[dict[str, Any], Callable[[Any], Any]]:
    return {"inputs": texts, "prompt_name": task, "dimensions": dimension}, lambda answer: answer


def _ollama(texts: list[str], task: str, dimension: int) -> tuple[dict[str, Any], Callable[[Any], Any]]:
    body = {"model": f"embeddinggemma:{task}", "input": texts, "dimensions": dimension}
    return body, lambda answer: answer["embeddings"]


def _prediction(texts: list[str], task: str, dimension: int) -> tuple[dict[str, Any], Callable[[Any], Any]]:
    inputs = {"texts": texts, "task": task, "embedding_dim": dimension}
    return {"input": inputs}, lambda answer: _decoded(answer["output"]["embedding"], dimension)


def _decoded(vectors: str, dimension: int) -> Float32Array:
    return np.frombuffer(base64.b64decode(vectors), "<f4").reshape(-1, dimension)


ASK: dict[str, Ask] = {
    "openai": _openai, "tei": _tei, "ollama": _ollama, "replicate": _prediction, "cog": _prediction,
}  # fmt: skip


class _Trial:
    """Sends requests from many clients at once, and counts what comes of them."""

    def __init__(self, gateway: RunningGateway, container: Client, requests: int) -> None:
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.done = 0
        self._gateway = gateway
        self._requests = requests
        self._lock = threading.Lock()
        self._expected = {
            (task, dimension): container.embed(TEXTS, task, embedding_dim=dimension)
            for task in TASKS
            for dimension in DIMENSIONS
        }

    def client(self, number: int) -> None:
        """Send one client's share, one after the other."""
        chosen = random.Random(number)  # noqa: S311 - the same requests each time
        with closing(http.client.HTTPConnection("127.0.0.1", self._gateway.port, timeout=600)) as connection:
            for turn in range(self._requests // CLIENTS):
                self._ask(connection, list(ASK)[(number + turn) % len(ASK)], chosen)

    def _ask(self, connection: http.client.HTTPConnection, door: str, chosen: random.Random) -> None:
        positions = chosen.sample(range(len(TEXTS)), chosen.choice((1, 1, 1, 2, 5)))
        task, dimension = chosen.choice(TASKS), chosen.choice(DIMENSIONS)
        body, read = ASK[door]([TEXTS[position] for position in positions], task, dimension)
        connection.request("POST", PATHS[door], json.dumps(body), {**JSON, "Prefer": "wait"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        with self._lock:
            self.statuses[door, response.status] += 1
            self.done += 1
        assert response.status == (201 if door == "replicate" else 200), (door, response.status, answer)
        vectors = np.array(read(answer), np.float32)
        expected = self._expected[task, dimension][positions]
        assert vectors.shape == expected.shape, (door, task, dimension)
        assert np.abs(vectors - expected).max() < 1e-5, (door, task, dimension)  # the last bits depend on the batch


def test_every_answer_is_right_while_a_container_is_killed(
    server: RunningServer, variables: dict[str, str], tmp_path: Path, full: bool, evidence: Evidence
) -> None:
    requests = 20_480 if full else 2_560
    with running_server(variables, tmp_path / "log", slots=256) as (dying, url):
        wait_until_ready(dying, url)
        with gateway_process(tmp_path, "--container", url, "--container", server.url) as gateway:
            trial = _Trial(gateway, server, requests)
            with ThreadPoolExecutor(CLIENTS) as threads:
                clients = [threads.submit(trial.client, number) for number in range(CLIENTS)]
                wait_until(lambda: trial.done > requests // 2 or any(client.done() for client in clients), timeout=7200)
                dying.kill()
                for client in clients:
                    client.result()
            figures = gateway.figures()
            log = gateway.log
    share = requests // len(PATHS)
    assert trial.statuses == {(door, 201 if door == "replicate" else 200): share for door in PATHS}
    assert figures.of("gateway_requests_in_containers") == figures.of("gateway_requests_waiting") == 0
    for door in PATHS:
        assert figures.of("gateway_requests_total", door=door) == share
    assert figures.of("gateway_container_up", container=url) == 0
    assert f"container {url} did not answer" in log
    assert log.count('"method": "POST"') == requests
    assert MARKER not in log
    evidence.record(
        PROMISE,
        "64 clients through all five doors at once, one of two containers killed in the middle",
        f"{requests:,} requests, each answered with the container's own vectors; no text in the log",
    )
