"""Requests a second and their latency through the real server, at several numbers of connections."""

import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from types import TracebackType

CONNECTIONS = (1, 8, 32, 64)
_PROJECT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Load:
    """What a number of connections, each sending one request after the other, got from a server."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float


class Server:
    """The container's server as scripts/serve starts it, with some environment variables of its own."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._process = subprocess.Popen(
            [sys.executable, str(_PROJECT / "scripts" / "serve"), "--weights", "manifest", "--port", str(self.port)],
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
                connection.request("GET", "/health-check")
                if json.load(connection.getresponse())["status"] == "READY":
                    return
            except ConnectionError:
                pass
            time.sleep(0.1)
        raise RuntimeError("the server did not become ready")

    def __enter__(self) -> "Server":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()


def run_load(port: int, texts: Sequence[str], connections: int, seconds: float) -> Load:
    """Let each connection send requests, one after the other, until the time is over."""
    bodies = cycle([json.dumps({"input": {"text": text, "task": "retrieval_query"}}) for text in texts])
    latencies: list[float] = []
    ends = time.perf_counter() + seconds

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while (started := time.perf_counter()) < ends:
            connection.request("POST", "/predictions", next(bodies), {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.load(response)
            if response.status == 409:  # coglet refuses one in some hundreds even where slots are free: try again
                continue
            if answer.get("status") != "succeeded":
                raise RuntimeError(answer)
            latencies.append(time.perf_counter() - started)

    began = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - began
    percentiles = statistics.quantiles(latencies, n=100)
    return Load(len(latencies) / elapsed, percentiles[49] * 1000, percentiles[98] * 1000)


def measure(
    servers: Mapping[str, Mapping[str, str]], texts: Sequence[str], rounds: int, seconds: float
) -> dict[str, dict[int, Load]]:
    """Return each server's median figures at each number of connections; they take turns, all alive at once."""
    loads: dict[str, dict[int, list[Load]]] = {name: {count: [] for count in CONNECTIONS} for name in servers}
    with ExitStack() as stack:
        running = {name: stack.enter_context(Server(environment)) for name, environment in servers.items()}
        for turn in range(rounds):
            for count in CONNECTIONS:
                print(f"http: round {turn + 1} of {rounds}, {count} connections", file=sys.stderr, flush=True)
                for name, server in running.items():
                    loads[name][count].append(run_load(server.port, texts, count, seconds))
    return {name: {count: _median(runs) for count, runs in by_count.items()} for name, by_count in loads.items()}


def _median(runs: Sequence[Load]) -> Load:
    return Load(
        statistics.median(run.requests_per_second for run in runs),
        statistics.median(run.p50_ms for run in runs),
        statistics.median(run.p99_ms for run in runs),
    )
