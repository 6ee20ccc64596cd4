"""Workers to CPU cores, GPUs and memory: how many there are, and what each of them has."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Machine:
    """What a machine has for workers, each of which is on one machine."""

    cpus: int
    """CPU cores."""
    gpus: int
    holds: int
    """How many workers its memory holds; with GPUs it does not matter."""

    def fits(self, threads: int, *, on_gpus: bool) -> int:
        """Return how many workers with so many CPU cores it takes, each with a GPU of its own or none."""
        return min(self.cpus // threads, self.gpus) if on_gpus else self.cpus // threads


def place(workers: Workers, machines: Sequence[Machine]) -> Placement:
    """Give each worker a GPU, or one CPU core if there is no GPU and no other number is asked for.

    Args:
        workers: what is asked for.
        machines: what there is.

    Raises:
        ValueError: more is asked for than there is; the message says how much there is.

    """
    # Threads of a worker wait for each other in every product, so other work on one core slows all of them. Workers of
    # one thread do not wait (benchmarks/corpus.md). But each worker holds the model, so more threads can be chosen.
    gpus = sum(machine.gpus for machine in machines)
    holds = max(1, sum(machine.holds for machine in machines))

    def fit(threads: int) -> int:
        return sum(machine.fits(threads, on_gpus=gpus > 0) for machine in machines)

    count = workers.count or gpus or max(1, min(fit(workers.threads or 1), holds))
    most = max(machine.cpus for machine in machines)
    threads = workers.threads or next((number for number in range(most, 1, -1) if fit(number) >= count), 1)
    if fit(threads) < count:
        raise ValueError(f"--workers {count} with --threads {threads} need more than there is: {_there(machines)}")
    if not gpus and count > holds:
        raise ValueError(f"--workers {count} need more memory than is free: it holds {holds} of them")
    return Placement(count, threads, 1 if gpus else 0)


def _there(machines: Sequence[Machine]) -> str:
    cpus, gpus = sum(machine.cpus for machine in machines), sum(machine.gpus for machine in machines)
    on = f" on {len(machines)} machines" if len(machines) > 1 else ""
    return f"{cpus} CPU cores{f' and {gpus} GPUs' if gpus else ''}{on}"


def place_again(workers: Workers, before: Placement, machines: Sequence[Machine]) -> Placement:
    """Place as many workers as there were, or as many as are possible on what is left.

    Raises:
        ValueError: as for place.

    """
    possible = place(replace(workers, count=None), machines)
    return replace(possible, workers=min(possible.workers, before.workers))


def machine_here(manifest: Manifest) -> Machine:
    """Return what this machine has, before Ray has counted its GPUs."""
    cpus, _ = available_threads()
    has_gpu = any(Path("/dev").glob("nvidia[0-9]*"))  # then a worker is mostly in the GPU's memory
    return Machine(cpus, 0, cpus if has_gpu else workers_in(free_memory(), manifest))


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
