"""Missing weights are fetched from the allowed sources, and weights are used only once they are verified."""

import logging
import re
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from embeddinggemma.weights.cache import WeightsError, ensure_weights
from embeddinggemma.weights.delivery import Route, deliver
from embeddinggemma.weights.fetching import Download
from embeddinggemma.weights.manifest import ManifestError, Source
from embeddinggemma.weights.store import Store
from embeddinggemma.weights.verification import faults
from tests.support.faulty_server import FaultyServer, redirect
from tests.support.tiny_model import BIG, FILES, is_right, manifest, program, write_right_files

pytestmark = pytest.mark.usefixtures("no_pget")


@pytest.fixture
def server(file_server: FaultyServer) -> FaultyServer:
    file_server.publish("mirror", FILES)
    return file_server


def test_a_warm_start_asks_no_server_and_writes_nothing(tmp_path: Path) -> None:
    folder = write_right_files(tmp_path)
    assert ensure_weights(manifest("http://127.0.0.1:9/{path}"), Store(tmp_path)) == folder
    assert list(tmp_path.iterdir()) == [folder], "a complete cache may be on a read-only disk"


def test_the_mirror_comes_first(server: FaultyServer, tmp_path: Path) -> None:
    cdn = manifest(f"{server.url}/cdn/{{path}}")
    assert is_right(ensure_weights(cdn, Store(tmp_path, mirror=f"{server.url}/mirror")))
    assert {request.path for request in server.requests} == {f"/mirror/{path}" for path in FILES}


def test_an_unsafe_mirror_is_refused_before_anything_is_fetched(server: FaultyServer, tmp_path: Path) -> None:
    with pytest.raises(ManifestError):
        ensure_weights(manifest(f"{server.url}/cdn/{{path}}"), Store(tmp_path, mirror="http://cdn.example"))
    assert not server.requests


def test_the_error_names_the_missing_files_and_the_tried_sources(server: FaultyServer, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as error:
        ensure_weights(manifest(f"{server.url}/none/{{path}}", f"{server.url}/void/{{path}}"), Store(tmp_path))
    message = str(error.value)
    assert all(f"{path} is missing ({len(body):,} bytes, sha256 " in message for path, body in FILES.items())
    assert all(f"{server.url}/{name}/{{path}} with http: {server.url}/{name}/" in message for name in ("none", "void"))


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
        paths_with_token = {request.path for request in server.requests if "hf_secret" in str(request.headers)}
        assert paths_with_token == {f"/gated/{BIG}"}
        assert len(storage.requests) == 1
        assert "hf_secret" not in str(storage.requests)
    assert "/cdn/" in (tmp_path / "asked").read_text()
    assert "/gated/" not in (tmp_path / "asked").read_text()
    assert "hf_secret" not in caplog.text


class OddFetcher:
    """Raises what nobody foresaw, after the first file."""

    name = "odd"

    def fetch(self, downloads: Sequence[Download]) -> Iterator[tuple[Download, str | None]]:
        downloads[0].path.write_bytes(FILES["config.json"])
        yield downloads[0], None
        raise KeyError("https://user:secret@cdn.example/")


def test_an_error_that_nobody_foresaw_is_named_without_its_text(tmp_path: Path) -> None:
    missing, failures = faults(tmp_path / "model", manifest().files), ["an earlier failure"]
    deliver(Route(Source("https://cdn.example/{path}"), OddFetcher()), missing, tmp_path / "model", failures)
    assert failures[0] == "an earlier failure"
    assert re.fullmatch(
        r"https://cdn\.example/\{path\} with odd: unexpected KeyError in test_cache\.py, line \d+", failures[1]
    )
    assert (tmp_path / "model" / "config.json").read_bytes() == FILES["config.json"]


def test_a_disk_that_is_full_hides_no_other_reason(server: FaultyServer, tmp_path: Path) -> None:
    sources = manifest(f"{server.url}/none/{{path}}", f"{server.url}/cdn/{{path}}")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(WeightsError) as error:
            ensure_weights(sources, Store(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert f"the cache folder {tmp_path} cannot be used: File too large\ntried:\n  {server.url}/none/" in str(
        error.value
    )
