"""The weights are made ready in their own process; a model that is loaded meanwhile counts once they are verified."""

import logging
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from embeddinggemma.weights.background import WeightsInBackground
from embeddinggemma.weights.cache import WeightsError
from embeddinggemma.weights.manifest import ManifestError, Source
from embeddinggemma.weights.store import Store
from tests.support import tiny_model
from tests.support.faulty_server import FaultyServer, pause, silence
from tests.support.tiny_model import BIG, FILES, is_right, manifest, program, write_right_files
from tools import PROJECT
from tools.client import wait_until
from tools.observed_server import command_line

pytestmark = pytest.mark.usefixtures("no_pget")


def running() -> psutil.Process:
    """Return the process that makes the weights ready; for a moment after its start it has no command line."""
    found: list[psutil.Process] = []

    def is_found() -> bool:
        children = psutil.Process().children()
        found[:] = [child for child in children if "embeddinggemma.weights.background" in command_line(child)]
        return bool(found)

    wait_until(is_found)
    [process] = found
    return process


def test_an_unsafe_mirror_is_the_same_error_as_without_a_process(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"cdn\.example"):
        WeightsInBackground(manifest(), Store(tmp_path, mirror="http://cdn.example")).load(lambda folder: folder)


def test_no_token_is_in_the_process_list(
    file_server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    file_server.fail(f"/cdn/{BIG}", [pause(0.5)])
    gated = Source(f"{file_server.url}/cdn/{{path}}", gated=True)
    in_background = WeightsInBackground(manifest(gated), Store(tmp_path, hf_token="hf_secret"))
    assert file_server.silent.wait(600)
    listed = f"{running().cmdline()} {running().environ()}"
    file_server.released.set()
    assert in_background.load(is_right)
    assert file_server.requests[-1].headers["Authorization"] == "Bearer hf_secret"
    assert "PYTHONPATH" in listed
    assert "hf_secret" not in listed


def test_a_process_that_is_killed_is_an_error(file_server: FaultyServer, tmp_path: Path) -> None:
    file_server.fail(f"/cdn/{BIG}", [silence(0.5)])
    in_background = WeightsInBackground(manifest(f"{file_server.url}/cdn/{{path}}"), Store(tmp_path))
    assert file_server.silent.wait(600)
    running().kill()
    with pytest.raises(RuntimeError, match="the process that verifies and downloads the weights ended too early"):
        in_background.load(lambda folder: folder)


def test_an_error_in_the_context_ends_the_download(file_server: FaultyServer, tmp_path: Path) -> None:
    file_server.fail(f"/cdn/{BIG}", [silence(0.5)])
    with (
        pytest.raises(KeyError),
        WeightsInBackground(manifest(f"{file_server.url}/cdn/{{path}}"), Store(tmp_path, stall_seconds=600)),
    ):
        assert file_server.silent.wait(600)
        process = running()
        raise KeyError
    assert not psutil.wait_procs([process], timeout=600)[1]


STARTER = """
import sys
from pathlib import Path

from embeddinggemma.weights.background import WeightsInBackground
from embeddinggemma.weights.manifest import read_manifest
from embeddinggemma.weights.store import Store

WeightsInBackground(read_manifest(Path(sys.argv[1])), Store(Path(sys.argv[2]))).load(lambda _: None)
"""


@pytest.mark.parametrize("fetcher", ["http", "pget"])
def test_a_download_ends_with_the_process_that_started_it(
    fetcher: str, file_server: FaultyServer, tmp_path: Path
) -> None:
    if fetcher == "pget":
        (tmp_path / "bin").mkdir()
        program(tmp_path / "bin" / "pget", (PROJECT / "tests" / "support" / "pget_stand_in.py").read_text())
    file_server.fail(f"/cdn/{BIG}", [silence(0.5)])
    path = tiny_model.write_manifest(tmp_path / "manifest.json", f"{file_server.url}/cdn/{{path}}")
    with subprocess.Popen([sys.executable, "-c", STARTER, path, tmp_path / "cache"], cwd=PROJECT) as starter:
        assert file_server.silent.wait(600)
        started = psutil.Process(starter.pid).children(recursive=True)
        starter.kill()
    assert len(started) == {"http": 1, "pget": 2}[fetcher]
    assert not psutil.wait_procs(started, timeout=600)[1]


def test_the_log_shows_the_seconds_of_each_stage(
    file_server: FaultyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    WeightsInBackground(manifest(f"{file_server.url}/cdn/{{path}}"), Store(tmp_path)).load(lambda _: None)
    log = capfd.readouterr().err
    assert [line.partition(":")[0] for line in log.splitlines()] == ["verify", "weights", "download", "verify"]
    assert "download: 3.1 MB in " in log
    assert [message.partition(":")[0] for message in caplog.messages] == ["load"]


def test_loading_does_not_wait_for_the_digests_of_a_warm_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_right_files(tmp_path)
    stopped = program(
        tmp_path / "stopped",
        "import os, signal, sys\n"
        "os.kill(os.getpid(), signal.SIGSTOP)\n"
        f"os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])\n",
    )
    monkeypatch.setattr(sys, "executable", str(stopped))
    in_background = WeightsInBackground(manifest(), Store(tmp_path))
    process = running()
    wait_until(lambda: process.status() == psutil.STATUS_STOPPED)
    hang_guard = threading.Timer(600, process.resume)
    hang_guard.start()

    def load(given: Path) -> str:
        assert process.status() == psutil.STATUS_STOPPED, "loading has waited for the digests"
        process.resume()
        return given.name

    assert in_background.load(load) == folder.name
    hang_guard.cancel()


def test_small_files_can_be_loaded_while_the_largest_is_still_downloading(
    file_server: FaultyServer, tmp_path: Path
) -> None:
    may_arrive = threading.Event()
    file_server.fail(
        f"/cdn/{BIG}", [lambda _: None if may_arrive.wait(600) else pytest.fail("the test did not release the rest")]
    )
    in_background = WeightsInBackground(manifest(f"{file_server.url}/cdn/{{path}}"), Store(tmp_path))
    small, other, _ = FILES
    read = [small, other]
    assert all(in_background.load_early(read, lambda folder: [(folder / path).read_bytes() for path in read]) or [])
    assert not (tmp_path / manifest().folder_name / BIG).exists()
    may_arrive.set()
    assert in_background.load(lambda folder: (folder / BIG).read_bytes()) == FILES[BIG]


def test_a_file_of_a_warm_cache_is_not_loaded_early(tmp_path: Path) -> None:
    write_right_files(tmp_path)
    in_background = WeightsInBackground(manifest(), Store(tmp_path))
    assert in_background.load_early(["config.json"], lambda _: pytest.fail("it is not verified yet")) is None


def test_files_of_which_one_was_there_before_are_not_loaded_early(tmp_path: Path) -> None:
    small, other, _ = FILES
    (write_right_files(tmp_path) / other).unlink()
    with WeightsInBackground(manifest(), Store(tmp_path)) as in_background:
        assert in_background.load_early([small, other], lambda _: pytest.fail("it is not verified yet")) is None


def test_waiting_early_for_a_file_that_never_comes_is_an_error(tmp_path: Path) -> None:
    in_background = WeightsInBackground(manifest(), Store(tmp_path))
    with pytest.raises(WeightsError, match=r"config\.json is missing"):
        in_background.load_early(["config.json"], lambda folder: folder)


def test_a_model_that_was_loaded_from_a_wrong_file_is_loaded_again(file_server: FaultyServer, tmp_path: Path) -> None:
    folder = write_right_files(tmp_path)
    (folder / BIG).write_bytes(b"\0" + FILES[BIG][1:])
    loaded: list[bytes] = []

    def load(given: Path) -> bytes:
        loaded.append((given / BIG).read_bytes())
        return loaded[-1]

    result = WeightsInBackground(manifest(f"{file_server.url}/cdn/{{path}}"), Store(tmp_path)).load(load)
    assert result == FILES[BIG]
    assert len(loaded) == 2


def test_a_file_that_cannot_be_loaded_because_it_is_wrong_is_fetched_and_loaded_again(
    file_server: FaultyServer, tmp_path: Path
) -> None:
    folder = write_right_files(tmp_path)
    (folder / BIG).write_bytes(b"\0" + FILES[BIG][1:])

    def load(given: Path) -> bytes:
        if (body := (given / BIG).read_bytes()) != FILES[BIG]:
            raise ValueError("cannot be parsed")
        return body

    assert WeightsInBackground(manifest(f"{file_server.url}/cdn/{{path}}"), Store(tmp_path)).load(load) == FILES[BIG]


def test_an_error_in_loading_right_files_is_not_hidden(tmp_path: Path) -> None:
    write_right_files(tmp_path)
    loads: list[int] = []

    def load(_: Path) -> None:
        loads.append(1)
        raise ValueError("out of memory")

    with pytest.raises(ValueError, match="out of memory"):
        WeightsInBackground(manifest(), Store(tmp_path)).load(load)
    assert len(loads) == 1


def test_files_that_another_process_replaced_during_the_load_are_loaded_again(tmp_path: Path) -> None:
    folder = write_right_files(tmp_path)
    loads: list[int] = []

    def load(given: Path) -> int:
        if not loads:
            (given / "new").write_bytes(FILES[BIG])
            (given / "new").replace(folder / BIG)
        loads.append(1)
        return len(loads)

    assert WeightsInBackground(manifest(), Store(tmp_path)).load(load) == 2


def test_wrong_files_that_cannot_be_replaced_are_never_handed_out(tmp_path: Path) -> None:
    folder = write_right_files(tmp_path)
    (folder / BIG).write_bytes(b"\0" + FILES[BIG][1:])
    with pytest.raises(WeightsError, match=f"{BIG} has sha256 "):
        WeightsInBackground(manifest(), Store(tmp_path)).load(lambda given: given)
    assert not tiny_model.strays(tmp_path)


def test_what_can_be_wasted_is_prepared_as_soon_as_its_file_is_there(file_server: FaultyServer, tmp_path: Path) -> None:
    may_arrive, prepared = threading.Event(), threading.Event()
    file_server.fail(
        f"/cdn/{BIG}", [lambda _: None if may_arrive.wait(600) else pytest.fail("the test did not release the rest")]
    )
    in_background = WeightsInBackground(manifest(f"{file_server.url}/cdn/{{path}}"), Store(tmp_path))
    in_background.in_background("config.json", lambda folder: prepared.set() if folder.exists() else None)
    assert prepared.wait(600)
    may_arrive.set()
    assert in_background.load(lambda folder: (folder / BIG).read_bytes()) == FILES[BIG]


def test_what_cannot_be_prepared_is_logged_and_costs_no_load(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_right_files(tmp_path)
    in_background = WeightsInBackground(manifest(), Store(tmp_path))

    def prepare(_: Path) -> None:
        raise RuntimeError("no compiler")

    in_background.in_background("config.json", prepare)
    assert in_background.load(lambda loaded: loaded) == folder
    wait_until(lambda: "load: nothing was prepared: no compiler" in caplog.messages)
