"""The run: work units of the parts go to Ray Data's workers, and their results into the output, in order."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from embeddinggemma.corpus.embedding import Embedded, Worker, schema
from embeddinggemma.corpus.options import Options
from embeddinggemma.corpus.output import OutputFolder, PartWriter
from embeddinggemma.corpus.parts import Part
from embeddinggemma.corpus.rows import Slice
from embeddinggemma.settings import Settings
from embeddinggemma.threads import available_threads
from embeddinggemma.weights.manifest import Manifest

_SLICES_PER_GPU = 16  # in a work unit: about eight times the tokens of a forward pass

_PACKAGE = Path(__file__).resolve().parent.parent
_STORE_BYTES = 256 * 2**20  # for each worker: results that wait to be written


@dataclass(frozen=True)
class Workers:
    """Where to embed; None: `place` chooses by the CPU cores and GPUs that there are."""

    count: int | None = None
    threads: int | None = None
    """CPU cores per worker."""
    address: str | None = None
    """Address of a Ray cluster; None: this machine."""


def settings_of(manifest: Manifest, settings: Settings, options: Options) -> dict[str, Any]:
    """Return everything that the vectors depend on, for OutputFolder."""
    return {
        "model": manifest.folder_name,
        "EMBEDDINGGEMMA_ENGINE": settings.engine,
        "EMBEDDINGGEMMA_DTYPE": settings.dtype,
        **asdict(options),
    }


def embed_parts(
    parts: Sequence[Part],
    output: OutputFolder,
    manifest: Manifest,
    settings: Settings,
    options: Options,
    workers: Workers,
) -> Iterator[Embedded]:
    """Embed the parts that are not finished; yield the result of each work unit once it is in its part's file.

    Raises:
        ValueError: there are fewer CPU cores or GPUs than asked for.
        ray.exceptions.RayError: a worker failed for good; finished parts stay, and the next run continues after them.

    """
    missing = [part for part in parts if part.name not in output.finished]
    if not missing:
        return
    with _ray(workers) as placement:
        results = _results(missing, placement, (manifest, settings, options))
        for part in missing:
            writer = PartWriter(output, part, schema(options))
            for _ in _work_units(part, placement):
                embedded = next(results)
                writer.add(embedded)
                yield embedded
            output.finished[part.name] = writer.finish()


@dataclass(frozen=True)
class Placement:
    """How many workers there are, and what each of them has."""

    workers: int
    threads: int
    """CPU cores per worker."""
    gpus: int
    """GPUs per worker."""


def place(workers: Workers, cpus: int, gpus: int) -> Placement:
    """Give each worker a GPU, or one CPU core if there is no GPU and no other number is asked for.

    Raises:
        ValueError: more is asked for than there is; the message says how much there is.

    """
    for name, value in (("--workers", workers.count), ("--threads", workers.threads)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    # Threads of a worker wait for each other in every product, so other work on one core slows all of them. Workers of
    # one thread do not wait (benchmarks/corpus.md). But each worker holds the model, so more threads can be chosen.
    count = workers.count or gpus or max(1, cpus // (workers.threads or 1))
    threads = workers.threads or max(1, cpus // count)
    if count * threads > cpus or (gpus and count > gpus):
        there = f"{cpus} CPU cores{f' and {gpus} GPUs' if gpus else ''}"
        raise ValueError(f"--workers {count} with --threads {threads} need more than there is: {there}")
    return Placement(count, threads, 1 if gpus else 0)


@contextmanager
def _ray(workers: Workers) -> Iterator[Placement]:
    """Start Ray on this machine, or join a cluster, for as long as the context lasts."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    if workers.address is None:
        # Otherwise Ray listens on every network interface. With this it uses loopback only, as on macOS and Windows.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ["PYTHONPATH"] = os.pathsep.join(
            [str(_PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
    import ray
    import ray.data

    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    if workers.address is None:
        cpus, _ = available_threads()
        max_workers = workers.count or cpus
        ray.init("local", num_cpus=cpus, object_store_memory=_STORE_BYTES * (max_workers + 1), **quiet)
    else:
        ray.init(workers.address, runtime_env={"py_modules": [str(_PACKAGE)]}, **quiet)
    try:
        resources = ray.cluster_resources()
        yield place(workers, int(resources.get("CPU", 0)), int(resources.get("GPU", 0)))
    finally:
        ray.shutdown()


def _work_units(part: Part, placement: Placement) -> list[tuple[Slice, ...]]:
    """Return the part's work units: slices handed to a worker at once, more of them to a GPU than to CPU cores."""
    together = _SLICES_PER_GPU if placement.gpus else 1
    return [part.slices[first : first + together] for first in range(0, len(part.slices), together)]


def _results(parts: Sequence[Part], placement: Placement, arguments: tuple[Any, ...]) -> Iterator[Embedded]:
    """Yield the result of each work unit of the parts, in order."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    units = [{"slices": slices} for part in parts for slices in _work_units(part, placement)]
    embedded = ray.data.from_items(units, override_num_blocks=len(units)).map_batches(
        Worker,
        fn_constructor_args=(*arguments, placement.threads),
        batch_size=1,
        num_cpus=placement.threads,
        num_gpus=placement.gpus,
        compute=ray.data.ActorPoolStrategy(
            size=placement.workers,
            max_concurrent_calls_per_actor=2,  # a work unit is read and tokenized while another is embedded
            enable_true_multi_threading=True,
        ),
    )
    for row in embedded.iter_rows():
        yield row["embedded"]
