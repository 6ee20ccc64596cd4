"""How many threads this process may keep busy: its processors, or its share of them.

Neither PyTorch nor the tokenizer knows a container's quota: under `docker run --cpus 4` on a machine with 64 cores
they start 64 threads, which then wait for each other. (Measured on two cores: a text of 12 tokens takes 28 ms with
two threads, 42 with one, 147 to 173 with 64.)
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

from embeddinggemma.control_groups import group_folders, read_lines

_MACHINE = Path("/")
_told: dict[str, str] = {}  # what set_threads itself has written
_POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")  # PyTorch's two, and the tokenizer's


def set_threads(wanted: int | None) -> tuple[int, str]:
    """Return how many threads to compute with, and why; tell the libraries that have not started theirs yet.

    Args:
        wanted: EMBEDDINGGEMMA_THREADS, which overrules all else; then comes OMP_NUM_THREADS.

    """
    given = {name: value for name in _POOLS if (value := os.environ.get(name)) and value != _told.get(name)}
    openmp = given.get(_POOLS[0], "")
    if wanted:
        threads, reason = wanted, "EMBEDDINGGEMMA_THREADS"
    elif openmp.isdecimal() and int(openmp) > 0:
        threads, reason = int(openmp), _POOLS[0]
    else:
        threads, reason = available_threads()
    for name in _POOLS:
        if wanted or name not in given or name == _POOLS[0]:
            os.environ[name] = _told[name] = str(threads)
    return threads, reason


def available_threads(machine: Path = _MACHINE) -> tuple[int, str]:
    """Return the least of the processors that this process may run on and the quotas of its control groups; and why.

    A quota is rounded up. Control groups of both versions count, from the process's own up to the root.

    Args:
        machine: the root of the file system that /proc and /sys are read from.

    """
    threads, reason = len(os.sched_getaffinity(0)), "processors"
    for path, quota in _quotas(machine):
        if max(1, math.ceil(quota)) < threads:
            threads, reason = max(1, math.ceil(quota)), f"{path} allows {quota:g}"
    return threads, reason


def _quotas(machine: Path) -> Iterator[tuple[Path, float]]:
    """Yield each file with a limit, and the processors that it allows."""
    for version, folder in group_folders(machine, "cpu"):
        yield from _quota_of_version_2(folder) if version == 2 else _quota_of_version_1(folder)


def _quota_of_version_2(folder: Path) -> Iterator[tuple[Path, float]]:
    """cpu.max holds `QUOTA PERIOD` in microseconds, or `max PERIOD`."""
    for line in read_lines(folder / "cpu.max"):
        yield from _quota(folder / "cpu.max", *line.split()[:2])


def _quota_of_version_1(folder: Path) -> Iterator[tuple[Path, float]]:
    """The quota is in microseconds, and -1 if there is none."""
    for quota in read_lines(folder / "cpu.cfs_quota_us"):
        for period in read_lines(folder / "cpu.cfs_period_us"):
            yield from _quota(folder / "cpu.cfs_quota_us", quota, period)


def _quota(path: Path, quota: str = "", period: str = "") -> Iterator[tuple[Path, float]]:
    """Yield what a file allows; nothing if it allows all there is, or cannot be understood."""
    if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):
        yield path, int(quota) / int(period)
