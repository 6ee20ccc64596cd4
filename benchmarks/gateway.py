"""What the gateway costs, in front of a container whose encoder takes no processor time.

`python -m benchmarks.gateway` makes the small reference model, prints a table, and writes it to benchmarks/results/.
"""

import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks import http_libraries
from benchmarks.raw_load import raw_load
from benchmarks.serving import PREDICTORS, SHORT_TEXT, mixed_texts, running
from tools import PROJECT
from tools.client import Client, json_request, request_bytes, wait_until
from tools.reference_model import reference_model, warm_cache

_MODEL = "embeddinggemma-300m"
_MANY = 1024
_ROUNDS, _SECONDS, _LONE_REQUESTS = 3, 2.5, 300
_SLOW = {"BENCHMARK_PASS_SECONDS": "0.05", "BENCHMARK_PASS_TOKENS": "64"}
_SEED = 300
_RESULTS = PROJECT / "benchmarks" / "results"
_REACH = {"lone": 2.0, "short": 0.6, "many": 8.0, "two": 1.8}
"""Milliseconds at the median; of processor time, twice; and how many times one container."""


def main() -> None:
    """Measure, print, and write the figures and the table."""
    with tempfile.TemporaryDirectory() as name:
        figures = json.loads(json.dumps(_measure(warm_cache(reference_model("small"), Path(name)), Path(name))))
    print(table(figures))
    (_RESULTS / "gateway.json").write_text(json.dumps(figures, indent=2) + "\n")
    (_RESULTS / "gateway.md").write_text(table(figures))


def _measure(variables: Mapping[str, str], folder: Path) -> dict[str, Any]:
    short = {"model": f"{_MODEL}:retrieval_query", "input": SHORT_TEXT["text"], "encoding_format": "base64"}
    texts = mixed_texts(_MANY, random.Random(_SEED))  # noqa: S311 - nothing here is secret
    many = {"model": _MODEL, "input": texts, "encoding_format": "base64"}
    figures: dict[str, Any] = {"cores": len(os.sched_getaffinity(0))}
    with ExitStack() as stack:
        container = stack.enter_context(running(variables, PREDICTORS["ours"], folder / "container.log"))
        port, process = stack.enter_context(_gateway([container]))
        direct = json.dumps({"input": SHORT_TEXT}).encode()
        through = json.dumps(short).encode()
        figures["lone"] = _lone(container, direct, port, through)
        figures["requests_per_second"] = {"container": [], "gateway": []}
        for _ in range(_ROUNDS):
            for name, at, request in (
                ("container", container, request_bytes(SHORT_TEXT)),
                ("gateway", port, json_request(short, path="/v1/embeddings")),
            ):
                figures["requests_per_second"][name].append(raw_load(at, request, 64, _SECONDS).requests_per_second)
        figures["processor_ms"] = {
            "OpenAI, one short text": _processor_ms(process, port, json_request(short, path="/v1/embeddings"), 8),
            "OpenAI, one short text, as numbers": _processor_ms(
                process, port, json_request({**short, "encoding_format": "float"}, path="/v1/embeddings"), 8
            ),
            "Cog, one short text": _processor_ms(process, port, request_bytes(SHORT_TEXT), 8),
            "OpenAI, 1,024 texts in base64": _processor_ms(process, port, json_request(many, path="/v1/embeddings"), 2),
            "Ollama, 1,024 texts": _processor_ms(process, port, json_request(many, path="/api/embed"), 2),
        }
        figures["clients_ms"] = http_libraries.clients(container, "/predictions", direct)
        port, _ = stack.enter_context(_gateway([container], "--processes", "2"))
        request = json_request(short, path="/v1/embeddings")
        figures["servers_ms"] = http_libraries.servers(SHORT_TEXT)
        figures["two_processes"] = [raw_load(port, request, 64, _SECONDS).requests_per_second for _ in range(_ROUNDS)]
    with ExitStack() as stack:
        containers = [
            stack.enter_context(running({**variables, **_SLOW}, PREDICTORS["ours"], folder / f"slow-{number}.log"))
            for number in range(2)
        ]
        gateways = {count: stack.enter_context(_gateway(containers[:count]))[0] for count in (1, 2)}
        speeds: dict[int, list[float]] = {count: [] for count in gateways}
        for _ in range(_ROUNDS):
            for count, at in gateways.items():
                speeds[count].append(raw_load(at, request, 64, _SECONDS).requests_per_second)
        figures["containers"] = speeds
    return figures


def _lone(container: int, direct: bytes, gateway: int, through: bytes) -> dict[str, float]:
    """Return the median milliseconds of a lone request to each, in turn."""
    clients = {"container": Client(f"http://127.0.0.1:{container}"), "gateway": Client(f"http://127.0.0.1:{gateway}")}
    ways: dict[str, Callable[[], object]] = {
        "container": lambda: clients["container"].send(direct),
        "gateway": lambda: clients["gateway"].send(through, path="/v1/embeddings"),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(_LONE_REQUESTS):
        for name, ask in ways.items():
            started = time.perf_counter()
            ask()
            taken[name].append((time.perf_counter() - started) * 1000)
    return {name: statistics.median(milliseconds) for name, milliseconds in taken.items()}


def _processor_ms(process: psutil.Process, port: int, request: bytes, connections: int) -> float:
    """Return the processor time that the gateway takes for a request, in ms."""
    before = _used(process)
    load = raw_load(port, request, connections, 2 * _SECONDS)
    return (_used(process) - before) * 1000 / (load.requests_per_second * 2 * _SECONDS)


def _used(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def _gateway(containers: Sequence[int], *options: str) -> Iterator[tuple[int, psutil.Process]]:
    """Run the gateway to the containers at these ports; yield its port and its process."""
    urls = [word for port in containers for word in ("--container", f"http://127.0.0.1:{port}")]
    command = [sys.executable, "-m", "gateway", *urls, "--port", "0", *options]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=log)
        try:
            found = None
            while not found:
                if process.poll() is not None:
                    raise RuntimeError("the gateway has ended")
                time.sleep(0.05)
                log.seek(0)
                found = re.search(r"running on http://127\.0\.0\.1:(\d+)", log.read())
            port = int(found[1])
            wait_until(partial(_listens, port))
            yield port, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait()


def _listens(port: int) -> bool:
    try:
        return Client(f"http://127.0.0.1:{port}").send(method="GET", path="/health").status == 200
    except ConnectionRefusedError:
        return False


def table(figures: Mapping[str, Any]) -> str:
    """Return the figures as Markdown."""
    lone, taken = figures["lone"], figures["processor_ms"]
    speeds = {name: statistics.median(runs) for name, runs in figures["requests_per_second"].items()}
    containers = {name: statistics.median(runs) for name, runs in figures["containers"].items()}
    added, alone = lone["gateway"] - lone["container"], lone["container"]
    rows = [
        ("a lone short text, at the median", f"+{added:.1f} ms ({alone:.1f} ms without it)", f"≤ {_REACH['lone']:g} ms")
    ]
    for name, milliseconds in taken.items():
        reach = {"OpenAI, one short text": "short", "OpenAI, 1,024 texts in base64": "many"}.get(name)
        limit = f"≤ {_REACH[reach]:g} ms" if reach else ""
        rows.append((f"processor time a request: {name}", f"{milliseconds:.2f} ms", limit))
    one, both = speeds["gateway"], statistics.median(figures["two_processes"])
    rows += [
        ("short texts from 64 connections", f"{one:,.0f} requests/s ({speeds['container']:,.0f} without it)", ""),
        ("the same with `--processes 2`", f"{both:,.0f} requests/s", ""),
        (
            "two containers whose encoders are the limit",
            f"{containers['2'] / containers['1']:.2f}× one",
            f"≥ {_REACH['two']:g}×",
        ),
    ]
    for kind, key in (("client", "clients_ms"), ("server: uvicorn with", "servers_ms")):
        for name, milliseconds in figures[key].items():
            rows.append((f"processor time a short request, of an HTTP {kind} {name}", f"{milliseconds:.2f} ms", ""))
    lines = [
        f"Client, gateway and containers share {figures['cores']} cores; one run. The encoder takes no processor time.",
        "",
        "| what the gateway costs | measured | reach |",
        "| --- | --- | --- |",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
