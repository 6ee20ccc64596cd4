"""Workers to CPU cores, GPUs and memory: how many there are, and what each of them has."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from embeddinggemma.control_groups import group_folders, read_lines
from embeddinggemma.threads import available_threads
from embeddinggemma.weights.manifest import Manifest

_MACHINE = Path("/")

# A worker on a CPU: 1.08 GB, measured with the full model in float32 and texts of 2,048 tokens, and 0.27 GB of the
# store for its results. The weights' file is in memory once, for all workers.
_WORKER_BYTES = 1400 * 10**6


# A GPU takes 1.55 million tokens a second (benchmarks/results/gpu.md), and a core makes 0.4 to 0.7 million.
_TOKENIZERS_PER_GPU = 6


@dataclass(frozen=True)
class Workers:
    """Where to embed; None: `place` chooses by the CPU cores, GPUs and memory that there are."""

    count: int | None = None
    threads: int | None = None
    """CPU cores per worker."""
    address: str | None = None
    """Address of a Ray cluster; None: this machine."""

    def __post_init__(self) -> None:
        """Refuse invalid values.

        Raises:
            ValueError: the message names the option, the limit and the value.

        """
        for name, value in (("--workers", self.count), ("--threads", self.threads)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")


@dataclass(frozen=True)
class Placement:
    """How many workers there are, and what each of them has."""

    workers: int
    threads: int
    """CPU cores per worker."""
    gpus: int
    """GPUs per worker."""

    @property
    def spare(self) -> int:
        """Return how many of a GPU worker's cores are kept for driving its GPU: one, unless it has no other."""
        return 1 if self.threads > 1 else 0

    @property
    def tokenizers(self) -> int:
        """Return how many processes of one core tokenize for the GPU workers."""
        return self.workers * min(self.threads - self.spare, _TOKENIZERS_PER_GPU)


def place(workers: Workers, cpus: int, gpus: int, holds: int) -> Placement:
    """Give each worker a GPU, or one CPU core if there is no GPU and no other number is asked for.

    Args:
        workers: what is asked for.
        cpus: CPU cores that there are.
        gpus: GPUs that there are.
        holds: how many workers the memory holds; on GPUs it does not matter.

    Raises:
        ValueError: more is asked for than there is; the message says how much there is.

    """
    # Threads of a worker wait for each other in every product, so other work on one core slows all of them. Workers of
    # one thread do not wait (benchmarks/corpus.md). But each worker holds the model, so more threads can be chosen.
    count = workers.count or gpus or max(1, min(cpus // (workers.threads or 1), holds))
    threads = workers.threads or max(1, cpus // count)
    if count * threads > cpus or (gpus and count > gpus):
        there = f"{cpus} CPU cores{f' and {gpus} GPUs' if gpus else ''}"
        raise ValueError(f"--workers {count} with --threads {threads} need more than there is: {there}")
    if not gpus and count > max(1, holds):
        raise ValueError(f"--workers {count} need more memory than is free: it holds {max(1, holds)} of them")
    return Placement(count, threads, 1 if gpus else 0)


def place_here(workers: Workers, manifest: Manifest) -> Placement:
    """Place workers on this machine's CPU cores, before Ray has counted its GPUs.

    Raises:
        ValueError: as for place.

    """
    cpus, _ = available_threads()
    has_gpu = any(Path("/dev").glob("nvidia[0-9]*"))  # then a worker is mostly in the GPU's memory
    return place(workers, cpus, 0, cpus if has_gpu else workers_in(free_memory(), manifest))


def workers_in(memory: float, manifest: Manifest) -> int:
    """Return how many workers a memory of so many bytes holds."""
    return max(0, int((memory - sum(file.size for file in manifest.files)) // _WORKER_BYTES))


def free_memory(machine: Path = _MACHINE) -> int:
    """Return how many bytes this process may still take: of the machine's, and of its control groups' limits.

    Args:
        machine: the root of the file system that /proc and /sys are read from.

    """
    free = 1024 * _entries(machine / "proc/meminfo").get("MemAvailable:", 0)
    return min([free, *_left_in_groups(machine)])


def _left_in_groups(machine: Path) -> Iterator[int]:
    names = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}
    for version, folder in group_folders(machine, "memory"):
        limit, used = ("".join(read_lines(folder / name)) for name in names[version])
        if limit.isdecimal() and used.isdecimal():  # otherwise there is no limit
            inactive = _entries(folder / "memory.stat").get("inactive_file", 0)  # files in memory, dropped when needed
            yield max(0, int(limit) - int(used) + inactive)


def _entries(path: Path) -> dict[str, int]:
    """Return the whole numbers of a file of lines `NAME NUMBER ...`."""
    fields = (line.split() for line in read_lines(path))
    return {name: int(value) for name, value, *_ in fields if value.isdecimal()}
