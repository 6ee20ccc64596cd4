"""How many threads a process may keep busy, on made-up machines; the affinity is this machine's own."""

import os
from pathlib import Path

import pytest

from embeddinggemma import threads
from embeddinggemma.threads import available_threads, set_threads


@pytest.fixture(autouse=True)
def many_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))


def _machine(folder: Path, groups: str, files: dict[str, str]) -> Path:
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/cgroup").write_text(groups)
    for name, content in files.items():
        path = folder / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def _version_1(folder: str, quota: str) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("", {}, 64),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "10000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "9900000 100000\n"}, 64),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "200000 100000\n", "a/cpu.max": "300000 100000\n"}, 2),
        ("0::/\nodd\n", {"cpu.max": "100000 0\n"}, 64),
        ("0::/\n", {"cpu.max": "max\n"}, 64),
        ("0::/\n", {"cpu.max": "\n"}, 64),
        ("0::/docker/7f\n", {"cpu.max": "500000 100000\n"}, 5),  # the name is the machine's; only the root is seen
        ("4:cpu,cpuacct:/x\n", _version_1("cpu,cpuacct/x", "200000"), 2),
        ("4:cpu,cpuacct:/x\n", _version_1("cpu,cpuacct/x", "-1"), 64),
        ("4:cpu:/\n3:memory:/\n", _version_1("cpu", "350000"), 4),
    ],
)
def test_the_least_of_processors_and_quotas_counts(
    tmp_path: Path, groups: str, files: dict[str, str], expected: int
) -> None:
    found, reason = available_threads(_machine(tmp_path, groups, files))
    assert found == expected
    assert (reason == "processors") == (expected == 64)


def test_the_reason_names_the_file_and_what_it_allows(tmp_path: Path) -> None:
    machine = _machine(tmp_path, "0::/\n", {"cpu.max": "150000 100000\n"})
    assert available_threads(machine) == (2, f"{machine}/sys/fs/cgroup/cpu.max allows 1.5")


POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


@pytest.fixture
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable is set, and a quota allows seven."""
    for variable in POOLS:
        monkeypatch.setenv(variable, "")
    monkeypatch.setattr(threads, "_told", {})
    monkeypatch.setattr(threads, "available_threads", lambda: (7, "a quota"))


@pytest.mark.usefixtures("untold")
@pytest.mark.parametrize(
    ("wanted", "given", "expected"),
    [
        (3, "5", (3, "EMBEDDINGGEMMA_THREADS")),
        (None, "5", (5, "OMP_NUM_THREADS")),
        (None, "", (7, "a quota")),
        (None, "0", (7, "a quota")),
    ],
)
def test_the_operators_choice_comes_first_and_all_libraries_are_told(
    monkeypatch: pytest.MonkeyPatch, wanted: int | None, given: str, expected: tuple[int, str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert set_threads(wanted) == expected
    assert {os.environ[variable] for variable in POOLS} == {str(expected[0])}


@pytest.mark.usefixtures("untold")
def test_what_was_told_before_is_no_choice_of_the_operator() -> None:
    assert set_threads(3) == (3, "EMBEDDINGGEMMA_THREADS")
    assert [set_threads(None) for _ in range(2)] == [(7, "a quota")] * 2


@pytest.mark.usefixtures("untold")
def test_the_operators_number_for_one_library_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYON_NUM_THREADS", "2")
    set_threads(None)
    assert [os.environ[variable] for variable in POOLS] == ["7", "7", "2"]
