"""Time from container start to READY and to the first vector, with a cold and a warm cache, on the real server.

The files come from a CDN on loopback, once as fast as it can send, once at the pace of a network.
"""

import json
import os
import re
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import requests

from benchmarks.cdn import serving
from benchmarks.original import fetch
from embeddinggemma.weights.manifest import read_manifest
from tools.server import free_port, start_server, wait_until_ready

OURS, UNVERIFIED, ORIGINAL = "ours", "ours without digests", "original"
_PREDICTORS = {
    OURS: "predict.py:Predictor",
    UNVERIFIED: "benchmarks/unverified.py:Predictor",
    ORIGINAL: "benchmarks/original.py:Predictor",
}
_PACED = 250  # MB/s, 2 Gbit/s: a CDN that is a network away
_MEMORY = "/dev/shm"  # noqa: S108 - a disk writes back at any time: the same transfer took 0.9 s or 4.4 s
_STAGES = {
    "download": r'"download: [^"]* MB in ([\d.]+) s',
    "verify": r'"verify: [^"]*?([\d.]+) s',
    "load": r'"load: ([\d.]+) s',
    "warm-up": r'"warm-up: ([\d.]+) s',
}
_TITLES = {
    "warm": "warm cache, ours over the original's way",
    "cold": "cold cache, beyond the bare transfer, in parts of the warm start",
    "verify_cold": "what the digests add to a cold start",
    "verify_warm": "what the digests add to a warm start",
}


@dataclass(frozen=True)
class Start:
    """One start of a container."""

    ready: float
    """Seconds from the process's start until it is READY."""
    vector: float
    """Seconds from the process's start until the first vector."""
    stages: dict[str, float]
    """Seconds of the stages that its log names; some overlap with others and with the imports."""


def start(variant: str, environment: Mapping[str, str], log: Path) -> Start:
    """Start a container, ask it for one vector, and stop it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        started = time.perf_counter()
        process = start_server(port, environment, slots=1, predictor=_PREDICTORS[variant], log=output)
    try:
        wait_until_ready(process, url, pause=0.03)
        ready = time.perf_counter() - started
        answer = requests.post(f"{url}/predictions", json={"input": {"text": "first"}}, timeout=60).json()
        vector = time.perf_counter() - started
    except RuntimeError as error:
        error.add_note(log.read_text())
        raise
    finally:
        process.terminate()
        process.wait()
    if answer.get("status") != "succeeded":
        raise RuntimeError(f"{variant}: {answer}")
    printed = log.read_text()
    # Each of our lines is a message in a line of the server's log; the lines of a stage are added up.
    found = {stage: [float(seconds) for seconds in re.findall(line, printed)] for stage, line in _STAGES.items()}
    return Start(ready, vector, {stage: sum(seconds) for stage, seconds in found.items() if seconds})


class _Runs:
    """The runs so far, each with an empty or a warm cache folder."""

    def __init__(self, model: Path, scratch: Path) -> None:
        self._model, self._scratch = model, scratch
        self._cache = scratch / "cache"
        self.transfers: dict[str, list[float]] = {}
        self.starts: dict[str, list[Start]] = {}

    def transfer(self, name: str, url: str, pget: str | None) -> None:
        """Fetch the files and nothing more."""
        began = time.perf_counter()
        fetch(url, _files(self._model), self._cache, pget)
        self.transfers.setdefault(name, []).append(time.perf_counter() - began)
        self.empty_cache()

    def start(self, name: str, variant: str, url: str, path: str) -> None:
        """Start a container; `path` is its PATH."""
        print(f"start: {name}", file=sys.stderr)
        environment = _environment(self._model, url, self._cache) | {"PATH": path}
        self.starts.setdefault(name, []).append(start(variant, environment, self._scratch / "log"))

    def empty_cache(self) -> None:
        """Make the next start a cold one."""
        shutil.rmtree(self._cache)


def measure(model: Path, rounds: int) -> dict[str, Any]:
    """Return the median seconds of each variant and fetcher, which take turns: a cold cache first, then a warm one.

    model: the folder of a reference model, with its manifest.
    """
    pget = shutil.which(os.environ.get("PGET", "pget"))
    fetchers = {"http": None, "pget": pget} if pget else {"http": None}
    with (
        serving(model) as url,
        serving(model, _PACED) as paced_url,
        tempfile.TemporaryDirectory(dir=_MEMORY, prefix="cold-start-") as scratch,
    ):
        runs = _Runs(model, Path(scratch))
        for turn in range(rounds):
            print(f"round {turn + 1} of {rounds}", file=sys.stderr)
            for fetcher, program in fetchers.items():
                path = _search_path(program, Path(scratch))
                runs.transfer(fetcher, url, program)
                for variant in _PREDICTORS:
                    runs.start(f"{variant}, {fetcher}, cold", variant, url, path)
                    runs.start(f"{variant}, {fetcher}, warm", variant, url, path)
                    runs.empty_cache()
                at_pace = f"{fetcher} at {_PACED} MB/s"
                runs.transfer(at_pace, paced_url, program)
                runs.start(f"{OURS}, {at_pace}, cold", OURS, paced_url, path)
                runs.empty_cache()
    return {
        "transfer": {name: statistics.median(seconds) for name, seconds in runs.transfers.items()},
        "starts": {name: asdict(_median(starts)) for name, starts in runs.starts.items()},
    }


def compare(figures: Mapping[str, Any]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures that the targets limit, for each measure and fetcher."""
    compared: dict[str, dict[str, float]] = {name: {} for name in _TITLES}

    def seconds(variant: str, fetcher: str, state: str) -> float:
        return float(figures["starts"][f"{variant}, {fetcher}, {state}"]["vector"])

    for name, transfer in figures["transfer"].items():
        fetcher, _, pace = name.partition(" at ")
        compared["cold"][name] = (seconds(OURS, name, "cold") - transfer) / seconds(OURS, fetcher, "warm")
        if pace:
            continue
        compared["warm"][name] = seconds(OURS, name, "warm") / seconds(ORIGINAL, name, "warm")
        for state in ("cold", "warm"):
            compared[f"verify_{state}"][name] = seconds(OURS, name, state) / seconds(UNVERIFIED, name, state) - 1
    return compared


def shortfalls(figures: Mapping[str, Any], targets: Mapping[str, float]) -> list[str]:
    """Return a line for each figure that exceeds its target."""
    return [
        f"{_TITLES[name]}, {fetcher}: {value:.2f}, target {targets[name]}"
        for name, by_fetcher in compare(figures).items()
        for fetcher, value in by_fetcher.items()
        if value > targets[name]
    ]


def table(figures: Mapping[str, Any], targets: Mapping[str, float]) -> str:
    """Return the figures as Markdown."""
    transfers = [f"{seconds:.2f} s with {fetcher}" for fetcher, seconds in figures["transfer"].items()]
    lines = [
        f"Machine: {figures['machine']}. Medians of {figures['rounds']} rounds, seconds from the start of the server's "
        "process; the files come from a server on the same machine, into a folder in memory. The bare transfer takes "
        f"{', '.join(transfers)}.",
        "",
        "| start | READY | first vector | download | verify | load | warm-up |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in figures["starts"].items():
        stages = [f"{found['stages'][stage]:.2f}" if stage in found["stages"] else "" for stage in _STAGES]
        lines.append(f"| {name} | {found['ready']:.2f} | {found['vector']:.2f} | {' | '.join(stages)} |")
    lines += ["", "| | fetcher | | target, at most |", "| --- | --- | --- | --- |"]
    for measure_name, by_fetcher in compare(figures).items():
        for fetcher, value in by_fetcher.items():
            lines.append(f"| {_TITLES[measure_name]} | {fetcher} | {value:.2f} | {targets[measure_name]} |")
    if "pget" not in figures["transfer"]:
        lines += ["", "pget was not measured: there is none on PATH, and PGET names none."]
    return "\n".join(lines) + "\n"


def _files(model: Path) -> list[str]:
    return [file.path for file in read_manifest(model / "weights_manifest.json").files]


def _search_path(pget: str | None, scratch: Path) -> str:
    """Return a PATH with Python and, if given, pget, but without the other programs of their folders."""
    programs = scratch / "programs"
    shutil.rmtree(programs, ignore_errors=True)
    programs.mkdir()
    python = programs / "python"  # not a link: through a link Python would not find its packages
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    if pget:
        (programs / "pget").symlink_to(pget)
    return str(programs)


def _environment(model: Path, url: str, cache: Path) -> dict[str, str]:
    return {
        "EMBEDDINGGEMMA_MANIFEST": str(model / "weights_manifest.json"),
        "EMBEDDINGGEMMA_WEIGHTS_URL": url,
        "EMBEDDINGGEMMA_CACHE": str(cache),
        "EMBEDDINGGEMMA_DTYPE": "float32",
        "ORIGINAL_URL": url,
        "ORIGINAL_FOLDER": str(cache / "original"),
        "ORIGINAL_FILES": json.dumps(_files(model)),
    }


def _median(runs: list[Start]) -> Start:
    stages = {stage: statistics.median(run.stages.get(stage, 0.0) for run in runs) for stage in runs[0].stages}
    return Start(statistics.median(run.ready for run in runs), statistics.median(run.vector for run in runs), stages)
