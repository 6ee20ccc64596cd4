"""Published weights are the verified ones, can be fetched by their manifest, and are half as large in bfloat16."""

import dataclasses
import os
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from safetensors import safe_open

from embeddinggemma.weights.cache import ensure_weights
from embeddinggemma.weights.manifest import Manifest, read_manifest
from embeddinggemma.weights.store import Store
from tools import PROJECT

URL = "https://cdn.example/models"


def publish(model: Path, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = str(PROJECT / "scripts" / "publish_weights")
    command = [sys.executable, script, str(out), "--url", URL, "--from", str(model), *arguments]
    environment = {**os.environ, "EMBEDDINGGEMMA_MANIFEST": str(model / "weights_manifest.json")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def published(model: Path, out: Path, dtype: str) -> Manifest:
    """Publish, and return the manifest of the published weights."""
    finished = publish(model, out, "--dtype", dtype)
    assert finished.returncode == 0, finished.stderr
    return read_manifest(out / "weights_manifest.json")


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_published_weights_can_be_fetched_from_a_plain_file_server(
    dtype: str, small_model: Path, tmp_path: Path
) -> None:
    manifest = published(small_model, tmp_path / "out", dtype)
    assert manifest.sources[0].url == f"{URL}/{manifest.folder_name}/{{path}}"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [manifest.folder_name, "weights_manifest.json"]
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "out"))) as cdn:
        Thread(target=cdn.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{cdn.server_port}/{manifest.folder_name}"
        ensure_weights(dataclasses.replace(manifest, sources=()), Store(tmp_path / "cache", mirror=url))
        cdn.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.mark.slow
def test_float32_is_published_unchanged(small_model: Path, tmp_path: Path) -> None:
    original = read_manifest(small_model / "weights_manifest.json")
    assert published(small_model, tmp_path / "out", "float32").folder_name == original.folder_name


@pytest.mark.slow
def test_bfloat16_rounds_the_weights_and_changes_nothing_else(small_model: Path, tmp_path: Path) -> None:
    manifest = published(small_model, tmp_path / "out", "bfloat16")
    folder = tmp_path / "out" / manifest.folder_name
    for file in manifest.files:
        if not file.path.endswith(".safetensors"):
            assert (folder / file.path).read_bytes() == (small_model / file.path).read_bytes()
            continue
        assert file.size < 0.51 * (small_model / file.path).stat().st_size
        with safe_open(small_model / file.path, "pt") as before, safe_open(folder / file.path, "pt") as after:
            assert after.metadata() == before.metadata() == {"format": "pt"}
            assert list(after.keys()) == list(before.keys())
            for name in before.keys():  # noqa: SIM118 - not a dict
                assert torch.equal(after.get_tensor(name), before.get_tensor(name).bfloat16())


@pytest.mark.slow
def test_converted_weights_have_no_other_source(small_model: Path, tmp_path: Path) -> None:
    assert len(published(small_model, tmp_path / "out", "bfloat16").sources) == 1


@pytest.mark.slow
def test_wrong_files_are_not_published(small_model: Path, tmp_path: Path) -> None:
    spoilt = tmp_path / "spoilt"
    spoilt.mkdir()
    for file in read_manifest(small_model / "weights_manifest.json").files:
        (spoilt / file.path).parent.mkdir(exist_ok=True)
        (spoilt / file.path).symlink_to(small_model / file.path)
    (spoilt / "config.json").unlink()
    (spoilt / "config.json").write_text("{}")
    (spoilt / "weights_manifest.json").symlink_to(small_model / "weights_manifest.json")
    finished = publish(spoilt, tmp_path / "out")
    assert finished.returncode == 1
    assert f"{spoilt}: config.json has 2 bytes, not " in finished.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_address_that_is_not_https_is_refused(small_model: Path, tmp_path: Path) -> None:
    finished = publish(small_model, tmp_path / "out", "--url", "http://cdn.example")
    assert finished.returncode == 1
    assert "is not an https address" in finished.stderr
