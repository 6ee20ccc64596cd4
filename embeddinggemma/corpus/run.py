"""The run: work units of the parts go to Ray Data's workers, and their results into the output, in order."""

import logging
import os
import pickle
import secrets
import tempfile
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from embeddinggemma.corpus.cluster import an_object, connected, file_sizes, gpus_here, joined, usable_machines
from embeddinggemma.corpus.embedding import Embedded, schema
from embeddinggemma.corpus.options import Options
from embeddinggemma.corpus.output import OutputFolder, PartWriter
from embeddinggemma.corpus.parts import Part
from embeddinggemma.corpus.placement import Machine, Placement, Workers, machine_here, place, place_again
from embeddinggemma.corpus.rows import Slice
from embeddinggemma.corpus.stages import Load, Task, Worker, embedding, encoding, result_of, tokenizing
from embeddinggemma.settings import Settings
from embeddinggemma.weights.manifest import Manifest
from embeddinggemma.weights.store import Store

log = logging.getLogger(__name__)

Unit = tuple[Slice, ...]
"""Slices that are handed to a worker at once."""
Machines = Callable[[], list[Machine]]
"""Returns the machines that there are now."""

_SLICES_PER_GPU = 16  # in a work unit: about eight times the tokens of a forward pass

_PACKAGE = Path(__file__).resolve().parent.parent
_STORE_BYTES = 256 * 2**20  # for each worker: results that wait to be written

# A socket's name has at most 107 bytes. Below the temporary folder, our folder and Ray's names take up to 79 of them,
# with the slash before them, and one is spare:
# ray-12345678/r/session_2026-01-01_00-00-00_123456_1234567/sockets/plasma_store
_MAX_TMPDIR = 107 - 80
_MAX_LOSSES = 3  # of workers, without any result in between: then it is the rows that end them
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
    with _ray(workers, missing, manifest, settings.store) as machines:
        placement = place(workers, machines())
        units = {part.name: work_units(part, placement) for part in missing}
        together = [unit for part in missing for unit in units[part.name]]
        task = Task(manifest, settings, options)
        with closing(_lasting_results(together, workers, placement, machines, task)) as results:
            for part in missing:
                writer = PartWriter(output, part, schema(options))
                for _ in units[part.name]:
                    embedded = next(results)
                    writer.add(embedded)
                    yield embedded
                output.finished[part.name] = writer.finish()


@contextmanager
def _ray(workers: Workers, parts: Sequence[Part], manifest: Manifest, store: Store) -> Iterator[Machines]:
    """Start Ray on this machine, or join a cluster, for as long as the context lasts."""
    if workers.address is not None:
        sizes, sample = file_sizes(parts), an_object(parts)
        with joined(workers.address, _PACKAGE):
            yield lambda: usable_machines(sizes, sample, manifest, store)
        return
    # Otherwise Ray listens on every network interface. With this it uses loopback only, as on macOS and Windows.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex())  # otherwise Ray writes one into the user's home
    os.environ["PYTHONPATH"] = os.pathsep.join([str(_PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    here = machine_here(manifest)
    on_cores = place(workers, [here]).workers  # too many are refused before Ray starts
    own = {"num_cpus": here.cpus, "object_store_memory": _STORE_BYTES * (on_cores + 1)}
    with session_folder() as folder, connected(address="local", _temp_dir=str(folder), **own):
        yield lambda: [replace(here, gpus=gpus_here())]


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


def work_units(part: Part, placement: Placement) -> list[Unit]:
    """Return the part's work units: slices handed to a worker at once, more of them to a GPU than to CPU cores."""
    together = _SLICES_PER_GPU if placement.gpus else 1
    return [part.slices[first : first + together] for first in range(0, len(part.slices), together)]


def _lasting_results(
    units: Sequence[Unit], workers: Workers, placement: Placement, machines: Machines, task: Task
) -> Generator[Embedded]:
    """Yield the result of each work unit, in order; if a worker or its machine is lost, go on with what is left."""
    from ray.exceptions import RayError

    done, losses = 0, 0
    while done < len(units):
        before = done
        try:
            with closing(results_of(units[done:], placement, task)) as results:
                for embedded in results:
                    done += 1
                    yield embedded
        except RayError as error:
            losses = 1 if done > before else losses + 1
            if losses > _MAX_LOSSES:
                raise
            log.warning("a worker was lost (%s); going on with what is left", type(error).__name__)
            placement = place_again(workers, placement, machines())


def results_of(units: Sequence[Unit], placement: Placement, task: Task, encode: Load = encoding) -> Generator[Embedded]:
    """Yield the result of each work unit, in order; Ray has to run.

    Args:
        units: what is to be embedded.
        placement: how many workers there are, and what each of them has.
        task: what the workers need.
        encode: the stage of the GPUs.

    Raises:
        RuntimeError: a worker could not do its work; the message says why.
        ray.exceptions.RayError: a worker was lost.

    """
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    items = [{"unit": pickle.dumps(unit)} for unit in units]
    blocks = min(len(items), _MAX_BLOCKS)

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
            max_restarts=0,  # Ray would wait for ever for another machine like the one that is lost
        )

    data = ray.data.from_items(items, override_num_blocks=blocks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # max_restarts is to get another place in Ray 2.64
        if placement.gpus:
            data = stage(data, tokenizing, placement.tokenizers, 1, 1, 0)
            data = stage(data, encode, placement.workers, 1, placement.spare, placement.gpus)
        else:
            data = stage(data, embedding, placement.workers, placement.threads, placement.threads, 0)
    for row in data.iter_rows():
        yield result_of(row["unit"])
