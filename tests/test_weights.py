"""Weights are fetched where they are missing, from where they may be, and used only once they are verified."""

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from embeddinggemma import weights
from embeddinggemma.manifest import ManifestError, Source
from embeddinggemma.settings import Store
from embeddinggemma.weights import WeightsError, WeightsInBackground, ensure_weights
from tests import tiny_model
from tests.faulty_server import FaultyServer, redirect
from tests.tiny_model import BIG, FILES, is_right, manifest, program, write_right_files


@pytest.fixture(autouse=True)
def no_pget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as started:
        started.publish("cdn", FILES)
        started.publish("own", FILES)
        yield started


def test_a_warm_start_asks_no_server_and_writes_nothing(tmp_path: Path) -> None:
    folder = write_right_files(tmp_path)
    assert ensure_weights(manifest("http://127.0.0.1:9/{path}"), Store(tmp_path)) == folder
    assert list(tmp_path.iterdir()) == [folder], "a complete cache may lie on a read-only disk"


def test_ones_own_source_comes_first(server: FaultyServer, tmp_path: Path) -> None:
    cdn = manifest(f"{server.url}/cdn/{{path}}")
    assert is_right(ensure_weights(cdn, Store(tmp_path, weights_url=f"{server.url}/own")))
    assert {request.path for request in server.requests} == {f"/own/{path}" for path in FILES}


def test_an_unsafe_own_source_is_refused_before_anything_is_fetched(server: FaultyServer, tmp_path: Path) -> None:
    with pytest.raises(ManifestError):
        ensure_weights(manifest(f"{server.url}/cdn/{{path}}"), Store(tmp_path, weights_url="http://cdn.example"))
    assert not server.requests


def test_what_is_missing_and_what_was_tried_is_in_the_error(server: FaultyServer, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as error:
        ensure_weights(manifest(f"{server.url}/none/{{path}}", f"{server.url}/void/{{path}}"), Store(tmp_path))
    said = str(error.value)
    assert all(f"{path} is missing ({len(body):,} bytes, sha256 " in said for path, body in FILES.items())
    assert all(f"{server.url}/{name}/{{path}} with http: {server.url}/{name}/" in said for name in ("none", "void"))


def test_a_manifest_without_sources_says_so(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no source is named"):
        ensure_weights(manifest(), Store(tmp_path))


def test_the_token_goes_to_the_gated_source_alone_and_never_to_pget(
    server: FaultyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "bin").mkdir()
    program(tmp_path / "bin" / "pget", f"open({str(tmp_path / 'asked')!r}, 'a').write(input())\nraise SystemExit(1)\n")
    with FaultyServer() as storage:
        storage.publish("cdn", FILES)
        server.fail(f"/gated/{BIG}", [redirect(f"{storage.url}/cdn/{BIG}")])
        server.publish("gated", FILES)
        del server.files[f"/cdn/{BIG}"]
        gated = Source(f"{server.url}/gated/{{path}}", gated=True)
        ensure_weights(manifest(f"{server.url}/cdn/{{path}}", gated), Store(tmp_path / "cache", hf_token="hf_secret"))
        told = {request.path for request in server.requests if "hf_secret" in str(request.headers)}
        assert told == {f"/gated/{BIG}"}
        assert len(storage.requests) == 1
        assert "hf_secret" not in str(storage.requests)
    assert "/cdn/" in (tmp_path / "asked").read_text()
    assert "/gated/" not in (tmp_path / "asked").read_text()
    assert "hf_secret" not in caplog.text


def test_the_log_says_where_the_seconds_went(
    server: FaultyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    in_background = WeightsInBackground(manifest(f"{server.url}/cdn/{{path}}"), Store(tmp_path))
    in_background.load(lambda _: None)
    said = [message.partition(":")[0] for message in caplog.messages]
    assert said == ["verify", "weights", "download", "verify", "load"]
    assert "download: 3.1 MB in " in caplog.text


def test_loading_does_not_wait_for_the_digests_of_a_warm_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_right_files(tmp_path)
    loading = threading.Event()

    def verified_after_loading_began(*_: object, **__: object) -> Path:
        assert loading.wait(30)
        return folder

    def load(given: Path) -> str:
        loading.set()
        return given.name

    monkeypatch.setattr(weights, "ensure_weights", verified_after_loading_began)
    assert WeightsInBackground(manifest(), Store(tmp_path)).load(load) == folder.name


def test_a_small_file_can_be_loaded_while_the_largest_is_still_to_come(server: FaultyServer, tmp_path: Path) -> None:
    may_come = threading.Event()
    server.fail(f"/cdn/{BIG}", [lambda _: None if may_come.wait(30) else pytest.fail("nobody waited for the rest")])
    in_background = WeightsInBackground(manifest(f"{server.url}/cdn/{{path}}"), Store(tmp_path))
    assert in_background.load_early("config.json", lambda folder: (folder / "config.json").read_bytes())
    assert not (tmp_path / manifest().folder_name / BIG).exists()
    may_come.set()
    assert in_background.load(lambda folder: (folder / BIG).read_bytes()) == FILES[BIG]


def test_a_file_of_a_warm_cache_is_not_loaded_early(tmp_path: Path) -> None:
    write_right_files(tmp_path)
    in_background = WeightsInBackground(manifest(), Store(tmp_path))
    assert in_background.load_early("config.json", lambda _: pytest.fail("nothing is known of it yet")) is None


def test_who_waits_early_for_a_file_that_never_comes_is_told(tmp_path: Path) -> None:
    in_background = WeightsInBackground(manifest(), Store(tmp_path))
    with pytest.raises(WeightsError, match=r"config\.json is missing"):
        in_background.load_early("config.json", lambda folder: folder)


def test_what_was_loaded_from_a_wrong_file_is_loaded_again(server: FaultyServer, tmp_path: Path) -> None:
    folder = write_right_files(tmp_path)
    (folder / BIG).write_bytes(b"\0" + FILES[BIG][1:])
    loaded: list[bytes] = []

    def load(given: Path) -> bytes:
        loaded.append((given / BIG).read_bytes())
        return loaded[-1]

    result = WeightsInBackground(manifest(f"{server.url}/cdn/{{path}}"), Store(tmp_path)).load(load)
    assert result == FILES[BIG]
    assert len(loaded) == 2


def test_a_file_that_cannot_be_loaded_because_it_is_wrong_is_fetched_and_loaded_again(
    server: FaultyServer, tmp_path: Path
) -> None:
    folder = write_right_files(tmp_path)
    (folder / BIG).write_bytes(b"\0" + FILES[BIG][1:])

    def load(given: Path) -> bytes:
        if (body := (given / BIG).read_bytes()) != FILES[BIG]:
            raise ValueError("cannot be parsed")
        return body

    assert WeightsInBackground(manifest(f"{server.url}/cdn/{{path}}"), Store(tmp_path)).load(load) == FILES[BIG]


def test_an_error_in_loading_right_files_is_not_hidden(tmp_path: Path) -> None:
    write_right_files(tmp_path)
    loads: list[int] = []

    def load(_: Path) -> None:
        loads.append(1)
        raise ValueError("out of memory")

    with pytest.raises(ValueError, match="out of memory"):
        WeightsInBackground(manifest(), Store(tmp_path)).load(load)
    assert len(loads) == 1


def test_files_that_another_process_replaced_meanwhile_are_loaded_again(tmp_path: Path) -> None:
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
