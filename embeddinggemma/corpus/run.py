"""The run: work units of the parts go to Ray Data's workers, and their results into the output, in order."""

import logging
import os
import pickle
import signal
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from embeddinggemma.corpus.embedding import Embedded, schema
from embeddinggemma.corpus.options import Options
from embeddinggemma.corpus.output import OutputFolder, PartWriter
from embeddinggemma.corpus.parts import Part
from embeddinggemma.corpus.placement import Placement, Workers, place, place_here, workers_in
from embeddinggemma.corpus.rows import Slice
from embeddinggemma.corpus.stages import Load, Task, Worker, embedding, encoding, result_of, tokenizing
from embeddinggemma.settings import Settings
from embeddinggemma.threads import available_threads
from embeddinggemma.weights.manifest import Manifest

_SLICES_PER_GPU = 16  # in a work unit: about eight times the tokens of a forward pass

_PACKAGE = Path(__file__).resolve().parent.parent
_STORE_BYTES = 256 * 2**20  # for each worker: results that wait to be written

# A socket's name has at most 107 bytes, and Ray's own part of it, below the session's folder, up to 79:
# ray-12345678/r/session_2026-01-01_00-00-00_123456_1234567/sockets/plasma_store
_MAX_TMPDIR = 107 - 80
_MAX_BLOCKS = 4096  # the driver keeps some kilobytes for each


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
) -> Generator[Embedded]:
    """Embed the parts that are not finished; yield the result of each work unit once it is in its part's file.

    Raises:
        ValueError: there are fewer CPU cores or GPUs, or there is less memory, than asked for.
        RuntimeError: Ray or a worker failed; finished parts stay, and the next run continues after them.

    """
    missing = [part for part in parts if part.name not in output.finished]
    if not missing:
        return
    with (
        _ray(workers, manifest) as placement,
        closing(results_of(missing, placement, Task(manifest, settings, options))) as results,
    ):
        for part in missing:
            writer = PartWriter(output, part, schema(options))
            for _ in work_units(part, placement):
                embedded = next(results)
                writer.add(embedded)
                yield embedded
            output.finished[part.name] = writer.finish()


@contextmanager
def _ray(workers: Workers, manifest: Manifest) -> Iterator[Placement]:
    """Start Ray on this machine, or join a cluster, for as long as the context lasts."""
    if workers.address is not None:
        with _connected(address=workers.address, runtime_env={"py_modules": [str(_PACKAGE)]}) as (cpus, gpus, memory):
            yield place(workers, cpus, gpus, workers_in(memory, manifest))
        return
    # Otherwise Ray listens on every network interface. With this it uses loopback only, as on macOS and Windows.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(_PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    on_cores = place_here(workers, manifest)  # too many are refused before Ray starts
    own = {"num_cpus": available_threads()[0], "object_store_memory": _STORE_BYTES * (on_cores.workers + 1)}
    with session_folder() as folder, _connected(address="local", _temp_dir=str(folder), **own) as (cpus, gpus, _):
        yield place(workers, cpus, gpus, holds=0) if gpus else on_cores


@contextmanager
def _connected(**arguments: Any) -> Iterator[tuple[int, int, float]]:
    """Start or join Ray; yield its CPU cores, its GPUs and the bytes of its memory."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    import ray

    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL, **arguments)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray's own ends in SIGABRT
        resources = ray.cluster_resources()
        yield int(resources.get("CPU", 0)), int(resources.get("GPU", 0)), resources.get("memory", 0)
    except (ray.exceptions.RayError, ConnectionError) as error:
        reason, _, _ = str(error).strip().partition("\n")  # below it are lines of Ray's code
        raise RuntimeError(f"Ray failed: {reason}") from None
    finally:
        ray.shutdown()


@contextmanager
def session_folder() -> Iterator[Path]:
    """Make a folder for the sockets and logs of Ray on this machine; it is this user's alone, and removed at the end.

    Raises:
        ValueError, OSError: no folder for temporary files can be used.

    """
    with tempfile.TemporaryDirectory(prefix="ray-", dir=_short_tmpdir(), ignore_cleanup_errors=True) as name:
        yield Path(name, "r")  # Ray opens it to all users


def _short_tmpdir() -> str:
    for folder in (tempfile.gettempdir(), "/tmp"):  # noqa: S108
        if len(os.fsencode(folder)) <= _MAX_TMPDIR and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise ValueError(
        f"Ray needs a folder for its sockets, with a name of at most {_MAX_TMPDIR} characters: neither TMPDIR nor /tmp "
        "can be used; set TMPDIR to a short one that can be written"
    )


def work_units(part: Part, placement: Placement) -> list[tuple[Slice, ...]]:
    """Return the part's work units: slices handed to a worker at once, more of them to a GPU than to CPU cores."""
    together = _SLICES_PER_GPU if placement.gpus else 1
    return [part.slices[first : first + together] for first in range(0, len(part.slices), together)]


def results_of(parts: Sequence[Part], placement: Placement, task: Task, encode: Load = encoding) -> Generator[Embedded]:
    """Yield the result of each work unit of the parts, in order; Ray has to run.

    Args:
        parts: what is to be embedded.
        placement: how many workers there are, and what each of them has.
        task: what the workers need.
        encode: the stage of the GPUs.

    Raises:
        RuntimeError: a worker could not do its work; the message says why.

    """
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    units = [{"unit": pickle.dumps(slices)} for part in parts for slices in work_units(part, placement)]
    blocks = min(len(units), _MAX_BLOCKS)

    def stage(data: Any, load: Load, count: int, threads: int, cpus: int, gpus: int) -> Any:
        return data.map_batches(
            Worker,
            fn_constructor_args=(load, task, threads),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=cpus,
            num_gpus=gpus,
            compute=ray.data.ActorPoolStrategy(
                size=min(count, blocks),
                max_concurrent_calls_per_actor=2,  # a work unit is read and tokenized while another is embedded
                enable_true_multi_threading=True,
            ),
        )

    data = ray.data.from_items(units, override_num_blocks=blocks)
    if placement.gpus:
        data = stage(data, tokenizing, placement.tokenizers, 1, 1, 0)
        data = stage(data, encode, placement.workers, 1, placement.spare, placement.gpus)
    else:
        data = stage(data, embedding, placement.workers, placement.threads, placement.threads, 0)
    for row in data.iter_rows():
        yield result_of(row["unit"])
