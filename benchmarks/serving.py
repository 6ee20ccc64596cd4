"""What a request costs beside the model: our container with an encoder that only sleeps, and a trivial predict().

`python -m benchmarks.serving` makes the small reference model, prints a table, and writes it to benchmarks/results/.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.raw_load import raw_load
from predict import Predictor
from tools import PROJECT
from tools.client import Client, request_bytes
from tools.reference_model import reference_model, warm_cache
from tools.server import free_port, start_server, wait_until_ready

SHORT_TEXT = {"text": "how long can I keep a book from the library", "task": "retrieval_query"}
SHORT_REQUEST = request_bytes(SHORT_TEXT)
LARGE_REQUEST = 256
PREDICTORS = {"trivial": "benchmarks/trivial.py:Predictor", "ours": "benchmarks/without_model.py:Predictor"}
_CONNECTIONS = (1, 8, 64, 200)
_LARGE_CONNECTIONS = (1, 4, 16)
_ROUNDS, _SECONDS = 3, 2.5
_REACH = 0.65  # of the trivial one's requests, at 64 connections
_UPLOAD = 100_000_000
_UPLOAD_SECONDS = 10
_SEED = 300
_RESULTS = PROJECT / "benchmarks" / "results"


def main() -> None:
    """Measure, print, and write the figures and the table."""
    with tempfile.TemporaryDirectory() as name:
        variables = warm_cache(reference_model("small"), Path(name))
        figures = {"cores": len(os.sched_getaffinity(0)), **_loads(variables, Path(name)), "uploads": {}}
        for threads in ("1", "2"):
            figures["uploads"][threads] = _beside_uploads(variables, threads, Path(name))
    figures = json.loads(json.dumps(figures))
    print(table(figures))
    (_RESULTS / "serving.json").write_text(json.dumps(figures, indent=2) + "\n")
    (_RESULTS / "serving.md").write_text(table(figures))


@contextmanager
def running(changes: Mapping[str, str], predictor: str, log: Path) -> Iterator[int]:
    """Start the image's server with this predictor and yield its port, once it is ready."""
    log.parent.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with log.open("wb") as output:
        process = start_server(
            port, changes, slots=Predictor.predict.__cog_concurrent_max__, predictor=predictor, log=output
        )
        try:
            wait_until_ready(process, f"http://127.0.0.1:{port}", pause=0.01)
            yield port
        except BaseException:
            print(log.read_text()[-2000:], file=sys.stderr)
            raise
        finally:
            process.terminate()
            process.wait()


def mixed_texts(count: int, dice: random.Random) -> list[str]:
    """Return texts of the licence's words, of log-normal length, median 60 tokens."""
    words = (PROJECT / "LICENSE").read_text().split()
    lengths = [max(3, min(400, round(dice.lognormvariate(4.09, 0.9) / 1.5))) for _ in range(count)]
    return [" ".join(dice.choices(words, k=length)) for length in lengths]


def _loads(variables: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Return both servers' medians at each number of connections; they run at once and take turns."""
    large = request_bytes({"texts": mixed_texts(LARGE_REQUEST, random.Random(_SEED))})  # noqa: S311 - not secret
    runs: dict[str, dict[str, dict[int, list[dict[str, float]]]]] = {}
    with ExitStack() as stack:
        ports = {
            name: stack.enter_context(running(variables, predictor, folder / f"{name}.log"))
            for name, predictor in PREDICTORS.items()
        }
        for _ in range(_ROUNDS):
            for row, request, connections in (
                ("short", SHORT_REQUEST, _CONNECTIONS),
                ("large", large, _LARGE_CONNECTIONS),
            ):
                for count in connections:
                    for name, port in ports.items():
                        load = vars(raw_load(port, request, count, _SECONDS))
                        runs.setdefault(row, {}).setdefault(name, {}).setdefault(count, []).append(load)
    return {
        row: {name: {count: _medians(loads) for count, loads in by_count.items()} for name, by_count in by_name.items()}
        for row, by_name in runs.items()
    }


def _medians(loads: list[dict[str, float]]) -> dict[str, float]:
    return {figure: statistics.median(load[figure] for load in loads) for figure in loads[0]}


def _beside_uploads(variables: Mapping[str, str], threads: str, folder: Path) -> dict[str, float]:
    """Return the slowest health check and short text, in ms, while two clients send bodies of 100 MB.

    threads: of Cog's server.
    """
    with running({**variables, "TOKIO_WORKER_THREADS": threads}, PREDICTORS["ours"], folder / "uploads.log") as port:
        client = Client(f"http://127.0.0.1:{port}")
        uploads = [subprocess.Popen([sys.executable, "-c", _UPLOADS, str(port)]) for _ in range(2)]
        slowest: dict[str, float] = {}
        ends = time.perf_counter() + _UPLOAD_SECONDS

        def again(name: str, ask: Callable[[], object]) -> None:
            while (started := time.perf_counter()) < ends:
                ask()
                slowest[name] = max(slowest.get(name, 0.0), (time.perf_counter() - started) * 1000)

        asking = [
            threading.Thread(target=again, args=("health", lambda: client.send(method="GET", path="/health-check"))),
            threading.Thread(target=again, args=("short", lambda: client.predict(**SHORT_TEXT))),
        ]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        for upload in uploads:
            upload.kill()
            upload.wait()
    return slowest


_UPLOADS = f"""
import socket, sys
body = b'{{"input": {{"text": "' + b"a" * {_UPLOAD} + b'"}}}}'
head = b"POST /predictions HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Type: application/json\\r\\n"
while True:
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
        connection.sendall(head + b"Content-Length: %d\\r\\n\\r\\n" % len(body) + body)
        connection.recv(1 << 16)
"""


def table(figures: Mapping[str, Any]) -> str:
    """Return the figures as Markdown."""
    short, large, uploads = figures["short"], figures["large"], figures["uploads"]
    lines = [
        f"Client and server share {figures['cores']} cores; medians of {_ROUNDS} rounds in one run. The encoder sleeps "
        "1 ms a pass.",
        "",
        "| one short text a request | ours | p99 | trivial predict() | share |",
        "| --- | --- | --- | --- | --- |",
    ]
    for count, ours in short["ours"].items():
        trivial = short["trivial"][count]["requests_per_second"]
        lines.append(
            f"| {_connections(count)} | {ours['requests_per_second']:,.0f} requests/s | {ours['p99_ms']:.0f} ms "
            f"| {trivial:,.0f} requests/s | {ours['requests_per_second'] / trivial:.0%} |"
        )
    lines += [
        "",
        f"64 connections should reach {_REACH:.0%}.",
        "",
        f"| {LARGE_REQUEST} texts a request | ours | trivial predict() | share |",
        "| --- | --- | --- | --- |",
    ]
    for count, ours in large["ours"].items():
        speed, trivial = (LARGE_REQUEST * row["requests_per_second"] for row in (ours, large["trivial"][count]))
        lines.append(
            f"| {_connections(count)} | {speed:,.0f} texts/s | {trivial:,.0f} texts/s | {speed / trivial:.0%} |"
        )
    lines += ["", "| slowest while bodies of 100 MB arrive | health check | one short text |", "| --- | --- | --- |"]
    for threads, slowest in uploads.items():
        name = "`TOKIO_WORKER_THREADS` " + threads
        lines.append(f"| {name} | {slowest['health']:.0f} ms | {slowest['short']:.0f} ms |")
    return "\n".join([*lines, ""])


def _connections(count: str) -> str:
    return f"{count} connection{'s' if int(count) > 1 else ''}"


if __name__ == "__main__":
    main()
