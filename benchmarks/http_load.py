"""Requests per second and their latency on the real server, at several numbers of connections."""

import http.client
import statistics
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from itertools import cycle
from pathlib import Path

from tools.client import exchange
from tools.server import LocalServer

CONNECTIONS = (1, 8, 32, 64)


@dataclass(frozen=True)
class Load:
    """The answers of a server to a number of connections that each send one request after the other."""

    requests_per_second: float
    """Of all connections together."""
    p50_ms: float
    """Median latency."""
    p99_ms: float
    """99th percentile of the latency."""
    beside_encoder_ms: float
    """Median time of a request, without the encoder's call and the wait for it."""
    outside_predict_ms: float
    """Median time of a request outside predict(): in Cog's server and the client."""


def run_load(port: int, texts: Sequence[str], connections: int, seconds: float) -> Load:
    """Let each connection send requests, one after the other, until the time is over."""
    requests = cycle([{"text": text, "task": "retrieval_query"} for text in texts])
    latencies: list[float] = []
    beside_encoder_ms: list[float] = []
    outside_predict_ms: list[float] = []
    ends = time.perf_counter() + seconds

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        while (started := time.perf_counter()) < ends:
            _, answer = exchange(connection, next(requests))
            if answer.get("status") != "succeeded":
                raise RuntimeError(answer)
            latencies.append(time.perf_counter() - started)
            milliseconds, metrics = latencies[-1] * 1000, answer["metrics"]
            beside_encoder_ms.append(milliseconds - metrics["queue_ms"] - metrics["encode_ms"])
            outside_predict_ms.append(milliseconds - answer["output"]["processing_time_ms"])

    began = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - began
    percentiles = statistics.quantiles(latencies, n=100)
    return Load(
        len(latencies) / elapsed,
        percentiles[49] * 1000,
        percentiles[98] * 1000,
        statistics.median(beside_encoder_ms),
        statistics.median(outside_predict_ms),
    )


def measure(
    servers: Mapping[str, Mapping[str, str]], texts: Sequence[str], rounds: int, seconds: float, logs: Path
) -> dict[str, dict[int, Load]]:
    """Return each server's median figures at each number of connections; the servers run at once and take turns.

    servers: their environment variables, by name. logs: a folder for their logs.
    """
    loads: dict[str, dict[int, list[Load]]] = {name: {count: [] for count in CONNECTIONS} for name in servers}
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(LocalServer(logs / f"{name}.log", weights="manifest", changes=changes))
            for name, changes in servers.items()
        }
        for turn in range(rounds):
            for count in CONNECTIONS:
                print(f"http: round {turn + 1} of {rounds}, {count} connections", file=sys.stderr, flush=True)
                for name, server in running.items():
                    loads[name][count].append(run_load(server.port, texts, count, seconds))
    return {name: {count: _median(runs) for count, runs in by_count.items()} for name, by_count in loads.items()}


def _median(runs: Sequence[Load]) -> Load:
    columns = zip(*(astuple(run) for run in runs), strict=True)
    return Load(*(statistics.median(column) for column in columns))
