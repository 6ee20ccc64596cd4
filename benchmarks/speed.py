"""Engines side by side: each in its own process, all running at once and taking turns on the same texts."""

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from benchmarks.workloads import Workload


class EngineProcess:
    """A running benchmarks.engine."""

    def __init__(self, engine: str, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.engine", engine, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()

    def turn(self, workload: Workload) -> list[float]:
        """Embed the texts as often as a turn of this workload does, and return the seconds of the calls that count."""
        if workload.warm:
            self._ask(workload.texts)
        return [float(self._ask(workload.texts)) for _ in range(workload.calls)]

    def results(self) -> tuple[float, npt.NDArray[np.float64]]:
        """Return the engine's peak memory in MB, and its vectors of all texts as rows, if it makes any."""
        answer = json.loads(self._ask([]))
        return answer["peak_megabytes"], np.array(answer["vectors"])

    def _ask(self, texts: Sequence[str]) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(texts) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("an engine ended; its message is above")
        return line

    def __enter__(self) -> "EngineProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


def measure(
    engines: Sequence[str], baseline: str, folder: Path, workloads: Sequence[Workload], rounds: int
) -> dict[str, dict[str, float]]:
    """Return each engine's median seconds for each workload, and its peak memory in MB as `g`.

    An engine that makes vectors has their worst cosine to the baseline's vectors as `cosine`.
    """
    seconds: dict[str, dict[str, list[float]]] = {
        engine: {workload.name: [] for workload in workloads} for engine in engines
    }
    with ExitStack() as stack:
        processes = {engine: stack.enter_context(EngineProcess(engine, folder)) for engine in engines}
        for count in range(rounds):
            for workload in workloads:
                print(f"speed: round {count + 1} of {rounds}, {workload.title}", file=sys.stderr, flush=True)
                for _ in range(workload.turns):
                    for engine, process in processes.items():
                        seconds[engine][workload.name] += process.turn(workload)
        results = {engine: process.results() for engine, process in processes.items()}
    figures: dict[str, dict[str, float]] = {}
    for engine, (peak, vectors) in results.items():
        figures[engine] = {name: statistics.median(times) for name, times in seconds[engine].items()} | {"g": peak}
        if vectors.size:
            figures[engine]["cosine"] = _worst_cosine(vectors, results[baseline][1])
    return figures


def _worst_cosine(vectors: npt.NDArray[np.float64], reference: npt.NDArray[np.float64]) -> float:
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference, axis=1)
    return float(((vectors * reference).sum(axis=1) / lengths).min())
