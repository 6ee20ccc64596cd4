"""A file of a million short texts through the container, whose encoder only sleeps: memory, time, short texts beside.

`python -m benchmarks.texts_file` makes the small reference model, prints a table, and writes it to benchmarks/results/.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.serving import PREDICTORS, SHORT_TEXT, running
from tools import PROJECT
from tools.client import Client
from tools.observed_server import server_and_worker
from tools.reference_model import reference_model, warm_cache
from tools.server import free_port

MAX_MEMORY = 1500
"""Megabytes that both processes of the container may have together."""
_ROWS = 1_000_000
_ALONE_SECONDS = 10.0  # of short texts before the file comes
_PAUSE = 0.05  # seconds between two short texts
_RESULTS = PROJECT / "benchmarks" / "results"
_STORE = """
import http.server, sys
class Store(http.server.SimpleHTTPRequestHandler):
    def do_PUT(self):
        left = int(self.headers["Content-Length"])
        while left and (data := self.rfile.read(min(left, 1 << 20))):
            left -= len(data)
        self.send_response(200)
        self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Store).serve_forever()
"""


def main() -> None:
    """Measure, print, and write the figures and the table."""
    with tempfile.TemporaryDirectory() as name:
        figures = _measured(warm_cache(reference_model("small"), Path(name, "cache")), Path(name))
    print(table(figures))
    (_RESULTS / "texts_file.json").write_text(json.dumps(figures, indent=2) + "\n")
    (_RESULTS / "texts_file.md").write_text(table(figures))


def _measured(variables: Mapping[str, str], folder: Path) -> dict[str, Any]:
    words = (PROJECT / "LICENSE").read_text().split()
    with (folder / "texts.jsonl").open("w") as file:
        for row in range(_ROWS):
            file.write(json.dumps(f"{words[row % len(words)]} {words[row * 7 % len(words)]} of row {row}") + "\n")
    with (
        _store(folder) as store,
        running(variables, PREDICTORS["ours"], folder / "log") as port,
        _again(0.2, _memory_of(port)) as memory,
        _again(_PAUSE, _short_text_to(port)) as short_texts,
    ):
        time.sleep(_ALONE_SECONDS)
        before, alone = memory[-1], len(short_texts)
        started = time.perf_counter()
        client = Client(f"http://127.0.0.1:{port}")
        output = client.predict(texts_file=f"{store}/texts.jsonl", upload_url=f"{store}/vectors.npy")
        seconds = time.perf_counter() - started
    assert output["shape"] == [_ROWS, 768]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "rows": _ROWS,
        "tokens": output["tokens"],
        "seconds": seconds,
        "before_mb": before,
        "peak_mb": max(memory),
        "short_texts": {"alone": _spread(short_texts[:alone]), "beside the file": _spread(short_texts[alone:])},
    }


@contextmanager
def _store(folder: Path) -> Iterator[str]:
    """Serve a folder, and take what is sent by PUT without keeping it."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", _STORE, str(port)], cwd=folder, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@contextmanager
def _again(pause: float, measure: Callable[[], float]) -> Iterator[list[float]]:
    """Measure again and again, with a pause between, until the context ends; yield the list that gets the figures."""
    figures: list[float] = []
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(pause):
            figures.append(measure())

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield figures
    finally:
        ended.set()
        thread.join()


def _memory_of(port: int) -> Callable[[], float]:
    """Return what tells the memory of both processes of the server on a port, in megabytes."""
    [server] = [process for process in psutil.Process().children() if process.environ().get("PORT") == str(port)]
    processes = server_and_worker(server)
    return lambda: sum(process.memory_info().rss for process in processes) / 1e6


def _short_text_to(port: int) -> Callable[[], float]:
    """Return what tells how long a short text takes, in milliseconds."""
    client = Client(f"http://127.0.0.1:{port}")

    def ask() -> float:
        started = time.perf_counter()
        client.predict(**SHORT_TEXT)
        return (time.perf_counter() - started) * 1000

    return ask


def _spread(milliseconds: list[float]) -> dict[str, float]:
    percentiles = statistics.quantiles(milliseconds, n=100)
    return {"p50_ms": percentiles[49], "p99_ms": percentiles[98], "max_ms": max(milliseconds)}


def table(figures: Mapping[str, Any]) -> str:
    """Return the figures as Markdown."""
    rows, seconds = figures["rows"], figures["seconds"]
    lines = [
        f"{rows:,} short texts of {figures['tokens'] / rows:.0f} tokens, fetched from and stored at a server on the "
        f"same {figures['cores']} cores; the encoder sleeps 1 ms a pass of 8,192 tokens.",
        "",
        "| | |",
        "| --- | --- |",
        f"| time | {seconds:,.0f} s, {rows / seconds:,.0f} texts/s |",
        f"| memory of the container before | {figures['before_mb']:,.0f} MB |",
        f"| at most (limit {MAX_MEMORY:,} MB) | {figures['peak_mb']:,.0f} MB |",
        "",
        "| one short text at a time | p50 | p99 | slowest |",
        "| --- | --- | --- | --- |",
    ]
    for name, spread in figures["short_texts"].items():
        lines.append(f"| {name} | {spread['p50_ms']:.0f} ms | {spread['p99_ms']:.0f} ms | {spread['max_ms']:.0f} ms |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
