"""How far the stages of scripts/embed_corpus keep GPUs busy: GPUs are simulated, by processes that sleep as long.

`python -m benchmarks.corpus_stages` takes three to five minutes, prints a table, and writes it to benchmarks/results/
and into docs/corpus.md. A simulated GPU is SCALE times slower than the measured one, so that the cores of a small
machine can feed several.
"""

import json
import logging
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from benchmarks.serving import mixed_texts
from embeddinggemma.corpus.embedding import Embedded, Tokenized, schema, with_vectors
from embeddinggemma.corpus.options import Options
from embeddinggemma.corpus.output import OutputFolder, PartWriter, open_output
from embeddinggemma.corpus.parts import Part, plan_parts
from embeddinggemma.corpus.placement import Placement
from embeddinggemma.corpus.run import Unit, results_of, session_folder, settings_of, work_units
from embeddinggemma.corpus.stages import Load, Task, tokenizing
from embeddinggemma.embedder import pinned_manifest
from embeddinggemma.engine.contract import Float32Array
from embeddinggemma.settings import Settings
from tools import PROJECT
from tools.reference_model import reference_model, warm_cache

SCALE = 20
_GPUS = (1, 2, 4)
_SECONDS = 20  # of work for the simulated GPUs, in each run
REACH = 80  # per cent of what the slowest stage allows by itself
_SEED = 300
_TOKENS_PER_ROW = 85
_RESULTS = PROJECT / "benchmarks" / "results"
_PAGE = PROJECT / "docs" / "corpus.md"
_VECTORS = np.random.default_rng(_SEED).standard_normal((4096, 768), np.float32)


def main() -> None:
    """Measure, print, and write the figures and the table."""
    with tempfile.TemporaryDirectory() as name:
        os.environ |= warm_cache(reference_model("small"), Path(name, "cache"))
        figures = _measure(Path(name))
    print(table(figures))
    (_RESULTS / "corpus_stages.json").write_text(json.dumps(figures, indent=2) + "\n")
    (_RESULTS / "corpus_stages.md").write_text(table(figures))
    page = _PAGE.read_text()
    [before] = re.findall(r"^\| GPUs \|.*?\n\n", page, re.DOTALL | re.MULTILINE)
    _PAGE.write_text(page.replace(before, f"{rows(figures)}\n"))


def measured_gpu() -> float:
    """Return the tokens a second of `Embedder.encode` on a GPU, which benchmarks/gpu.py has measured."""
    figures = json.loads((_RESULTS / "gpu.json").read_text())
    return float(figures["bulk"]["sorted, by the library"])


def sleeping(task: Task, threads: int) -> Callable[[Tokenized], Embedded]:  # noqa: ARG001 - as stages.encoding
    """Load a GPU that takes the time of a real one, times SCALE, and no processor's."""
    gpu = Lock()
    rate = measured_gpu() / SCALE

    def encode(token_ids: Sequence[Sequence[int]]) -> Float32Array:
        with gpu:
            time.sleep(sum(map(len, token_ids)) / rate)
        return _vectors(len(token_ids))

    return lambda tokenized: with_vectors(tokenized, encode, task.options)


def instant(task: Task, threads: int) -> Callable[[Tokenized], Embedded]:  # noqa: ARG001 - as stages.encoding
    """Load a GPU that takes no time at all."""
    return lambda tokenized: with_vectors(tokenized, lambda token_ids: _vectors(len(token_ids)), task.options)


def _vectors(count: int) -> Float32Array:
    return np.resize(_VECTORS, (count, _VECTORS.shape[1]))


def _measure(folder: Path) -> dict[str, Any]:
    settings, options = Settings.from_environment(), Options()
    task = Task(pinned_manifest(settings), settings, options)
    gpu = measured_gpu() / SCALE
    parts = _corpus(folder, task, gpu * _SECONDS)
    tokenized, tokenizing_rate = _tokenizing_alone(parts, task)
    cores = len(os.sched_getaffinity(0))
    figures: dict[str, Any] = {
        "cores": cores,
        "scale": SCALE,
        "gpu": gpu,
        "tokenizing": tokenizing_rate,
        "writing": _writing_alone(parts, tokenized, task, folder / "alone"),
        "runs": [],
    }
    for gpus, encode in [*((count, sleeping) for count in _GPUS), (2, instant)]:
        name = f"{gpus}-{encode.__name__}"
        rate = _pipeline(_corpus(folder / name, task, gpu * _SECONDS * gpus), gpus, encode, task, folder / name / "out")
        print(f"{gpus} workers, {encode.__name__}: {rate:,.0f} tokens/s", file=sys.stderr, flush=True)
        figures["runs"].append({"gpus": gpus, "instant": encode is instant, "tokens_per_second": rate})
    return figures


def _corpus(folder: Path, task: Task, tokens: float) -> list[Part]:
    """Write rows of about so many tokens, and plan their parts."""
    folder.mkdir(exist_ok=True)
    rows = mixed_texts(int(tokens / _TOKENS_PER_ROW), random.Random(_SEED))  # noqa: S311 - nothing here is secret
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps({'text': row})}\n" for row in rows))
    return plan_parts(folder / "rows.jsonl", task.options)


def _tokenizing_alone(parts: Sequence[Part], task: Task) -> tuple[list[Tokenized], float]:
    """Return every work unit tokenized, and the tokens that a second of one core's time makes."""
    tokenize = tokenizing(task, 1)
    units = _units(parts)
    tokenize(units[0])
    began = time.process_time()
    tokenized = [tokenize(unit) for unit in units]
    return tokenized, sum(_tokens(unit) for unit in tokenized) / (time.process_time() - began)


def _writing_alone(parts: Sequence[Part], tokenized: Sequence[Tokenized], task: Task, folder: Path) -> float:
    """Return the tokens whose vectors a second of one core's time writes to Parquet files."""
    results = iter([instant(task, 1)(unit) for unit in tokenized])
    began = time.process_time()
    with open_output(folder, settings_of(task.manifest, task.settings, task.options), parts) as output:
        _write(parts, results, output, task.options)
    return sum(_tokens(unit) for unit in tokenized) / (time.process_time() - began)


def _pipeline(parts: Sequence[Part], gpus: int, encode: Load, task: Task, folder: Path) -> float:
    """Return the tokens a second from when a GPU has its first texts until all is written; Ray is told of GPUs."""
    os.environ |= {"PYTHONPATH": str(PROJECT), "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_USAGE_STATS_ENABLED": "0"}
    import ray

    with (
        session_folder() as session,
        open_output(folder, settings_of(task.manifest, task.settings, task.options), parts) as output,
    ):
        ray.init(
            address="local",
            num_cpus=gpus,
            num_gpus=gpus,
            object_store_memory=(gpus + 1) * 256 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            _temp_dir=str(session),
        )
        try:
            with closing(results_of(_units(parts), _placement(gpus), task, encode)) as results:
                first = next(results)
                _write(parts, chain([first], results), output, task.options)
                seconds = time.time() - first.began
        finally:
            ray.shutdown()
        return sum(summary.tokens for summary in output.finished.values()) / seconds


def _write(parts: Sequence[Part], results: Iterator[Embedded], output: OutputFolder, options: Options) -> None:
    for part in parts:
        writer = PartWriter(output, part, schema(options))
        for _ in work_units(part, _placement(1)):
            writer.add(next(results))
        output.finished[part.name] = writer.finish()


def _units(parts: Sequence[Part]) -> list[Unit]:
    return [unit for part in parts for unit in work_units(part, _placement(1))]


def _placement(gpus: int) -> Placement:
    """Return GPU workers that have a core each, for a process that tokenizes."""
    return Placement(gpus, 1, 1)


def _tokens(unit: Tokenized) -> int:
    return sum(map(len, unit.ids))


def table(figures: Mapping[str, Any]) -> str:
    """Return the figures as Markdown."""
    return "\n".join(
        [
            f"A simulated GPU sleeps as long as a real one needs, times {figures['scale']}: {figures['gpu']:,.0f} "
            f"tokens a second. All processes share {figures['cores']} cores; one run, texts of {_TOKENS_PER_ROW} "
            "tokens on average, vectors in float32 of 768 numbers. Tokenizing (a process for each GPU) and writing "
            "alone: of processor time.",
            "",
            rows(figures),
            f"At least {REACH} % of what the slowest stage allows by itself should be reached. *No time*: GPUs that "
            "answer at once show what these cores can do for tokenizing, Ray and writing together.",
            "",
        ]
    )


def rows(figures: Mapping[str, Any]) -> str:
    """Return the runs as a table."""
    lines = [
        "| GPUs | tokens/s | the GPUs alone | tokenizing alone | writing alone | reached | limit |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for run in figures["runs"]:
        gpus, rate = run["gpus"], run["tokens_per_second"]
        alone = {
            **({} if run["instant"] else {"GPUs": gpus * figures["gpu"]}),
            "tokenizing": figures["tokenizing"] * min(gpus, figures["cores"]),
            "writing": figures["writing"],
        }
        slowest = min(alone, key=lambda stage: alone[stage])
        name, reached, limit = f"{gpus}", f"{rate / alone[slowest]:.0%}", slowest
        if run["instant"]:
            name, reached, limit = f"{gpus}, no time", "", "these cores"
        stages = [f"{alone[stage]:,.0f}" if stage in alone else "" for stage in ("GPUs", "tokenizing", "writing")]
        lines.append(f"| {' | '.join([name, f'{rate:,.0f}', *stages, reached, limit])} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
