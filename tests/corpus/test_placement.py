from pathlib import Path

import pytest

from embeddinggemma.corpus.placement import Machine, Placement, Workers, free_memory, place, place_again


@pytest.mark.parametrize(
    ("workers", "cpus", "gpus", "holds", "expected"),
    [
        (Workers(), 1, 0, 9, Placement(1, 1, 0)),
        (Workers(), 8, 0, 9, Placement(8, 1, 0)),
        (Workers(), 8, 0, 3, Placement(3, 2, 0)),
        (Workers(), 8, 0, 0, Placement(1, 8, 0)),
        (Workers(count=1), 8, 0, 0, Placement(1, 8, 0)),
        (Workers(count=2), 8, 0, 2, Placement(2, 4, 0)),
        (Workers(threads=4), 8, 0, 9, Placement(2, 4, 0)),
        (Workers(threads=2), 8, 0, 3, Placement(3, 2, 0)),
        (Workers(count=3, threads=1), 8, 0, 9, Placement(3, 1, 0)),
        (Workers(count=2), 2, 0, 9, Placement(2, 1, 0)),
        (Workers(), 16, 4, 0, Placement(4, 4, 1)),
        (Workers(count=1), 16, 4, 9, Placement(1, 16, 1)),
    ],
)
def test_each_worker_has_a_gpu_or_some_cores(
    workers: Workers, cpus: int, gpus: int, holds: int, expected: Placement
) -> None:
    assert place(workers, [Machine(cpus, gpus, holds)]) == expected


@pytest.mark.parametrize(
    ("workers", "cpus", "gpus", "holds", "message"),
    [
        (Workers(count=3), 2, 0, 9, "--workers 3 with --threads 1 need more than there is: 2 CPU cores"),
        (Workers(count=2), 16, 1, 9, "--workers 2 with --threads 1 need more than there is: 16 CPU cores and 1 GPUs"),
        (Workers(threads=3), 2, 0, 9, "--workers 1 with --threads 3 need more than there is: 2 CPU cores"),
        (Workers(count=4), 8, 0, 3, "--workers 4 need more memory than is free: it holds 3 of them"),
    ],
)
def test_more_than_there_is_is_refused(workers: Workers, cpus: int, gpus: int, holds: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        place(workers, [Machine(cpus, gpus, holds)])


def test_a_worker_is_on_one_machine() -> None:
    head, gpu = Machine(4, 0, 0), Machine(8, 1, 0)
    assert place(Workers(), [head, gpu]) == Placement(1, 8, 1)
    assert place(Workers(threads=2), [Machine(3, 0, 9), Machine(3, 0, 9)]) == Placement(2, 2, 0)
    assert place(Workers(count=3), [Machine(8, 0, 9), Machine(4, 0, 9)]) == Placement(3, 4, 0)
    with pytest.raises(ValueError, match=r"--workers 1 with --threads 6 .* than there is: 8 CPU cores on 2 machines"):
        place(Workers(threads=6), [Machine(4, 0, 9), Machine(4, 0, 9)])


def test_after_a_loss_there_are_as_many_workers_as_are_possible() -> None:
    before = Placement(4, 1, 0)
    assert place_again(Workers(count=4), before, [Machine(2, 0, 9)]) == Placement(2, 1, 0)
    assert place_again(Workers(count=4), before, [Machine(8, 0, 9)]) == Placement(4, 1, 0)


def test_less_than_one_is_refused() -> None:
    with pytest.raises(ValueError, match="--workers is 0; it must be at least 1"):
        Workers(count=0)
    with pytest.raises(ValueError, match="--threads is -1; it must be at least 1"):
        Workers(threads=-1)


def _machine(folder: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": "MemTotal: 64 kB\nMemAvailable:   4000 kB\n", **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_without_a_limit_the_machines_free_memory_counts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": "max\n",
        "sys/fs/cgroup/memory.current": "1000\n",
    }
    assert free_memory(_machine(tmp_path, files)) == 4000 * 1024


def test_a_limit_of_version_2_counts_and_files_in_memory_do_not(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/a/b\n",
        "sys/fs/cgroup/a/memory.max": "3000000\n",
        "sys/fs/cgroup/a/memory.current": "2000000\n",
        "sys/fs/cgroup/a/memory.stat": "anon 5\ninactive_file 300000\n",
        "sys/fs/cgroup/a/b/memory.max": "max\n",
        "sys/fs/cgroup/a/b/memory.current": "1000\n",
    }
    assert free_memory(_machine(tmp_path, files)) == 1_300_000


def test_a_limit_of_version_1_counts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "7:cpu,cpuacct:/\n4:memory:/container\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "2500000\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "3000000\n",
    }
    assert free_memory(_machine(tmp_path, files)) == 0


def test_this_machine_has_free_memory() -> None:
    assert free_memory() > 2**20


@pytest.mark.parametrize(
    ("cores", "gpus", "spare", "tokenizers"),
    [(1, 1, 0, 1), (2, 1, 1, 1), (4, 4, 0, 4), (8, 4, 1, 4), (16, 1, 1, 6), (64, 8, 1, 48)],
)
def test_a_gpu_has_a_core_of_its_own_and_others_tokenize_for_it(
    cores: int, gpus: int, spare: int, tokenizers: int
) -> None:
    placement = place(Workers(), [Machine(cores, gpus, 0)])
    assert (placement.workers, placement.spare, placement.tokenizers) == (gpus, spare, tokenizers)
    assert placement.tokenizers + placement.workers * placement.spare <= cores
