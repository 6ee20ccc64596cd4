"""Published weights are the verified ones, can be fetched by their manifest, and are half as large in bfloat16."""

import dataclasses
import json
import os
import shutil
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
from embeddinggemma.weights.manifest import Manifest, PinnedFile, read_manifest
from embeddinggemma.weights.store import Store
from tools import PROJECT

URL = "https://cdn.example/models"


def publish(model: Path, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script on a model's folder, which has its manifest."""
    script = str(PROJECT / "scripts" / "publish_weights")
    command = [sys.executable, script, str(out), "--url", URL, "--from", str(model), *arguments]
    manifest = str(model / "weights_manifest.json")
    environment = {**os.environ, "EMBEDDINGGEMMA_MANIFEST": manifest, "EMBEDDINGGEMMA_ENVIRONMENT": "none"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def refused(model: Path, out: Path, *arguments: str) -> str:
    """Return the script's only line, an error."""
    finished = publish(model, out, *arguments)
    assert (finished.returncode, finished.stdout) == (1, "")
    [line] = finished.stderr.splitlines()
    return line


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
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://user:secret@cdn.example", "--url: http://cdn.example is not an https address"),
        ("https://cdn.example/models?secret#fragment", "--url: https://cdn.example/models has a fragment"),
        ("https://cdn.example/model.tar?secret", "--url: https://cdn.example/model.tar is the URL of a tar"),
        ("user:secret@cdn.example/models", "--url: it has no scheme; write https://, or file:/// and a path"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(url: str, message: str, small_model: Path, tmp_path: Path) -> None:
    line = refused(small_model, tmp_path / "out", "--url", url)
    assert line.startswith(message)
    assert "secret" not in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_query_of_an_address_stays_at_its_end(small_model: Path, tmp_path: Path) -> None:
    assert publish(small_model, tmp_path / "out", "--url", f"{URL}/?signature=a/b").returncode == 0
    manifest = read_manifest(tmp_path / "out" / "weights_manifest.json")
    assert manifest.sources[0].url == f"{URL}/{manifest.folder_name}/{{path}}?signature=a/b"


@pytest.mark.slow
def test_weights_can_be_published_for_machines_without_a_network(small_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "a disk"
    assert publish(small_model, out, "--url", out.as_uri()).returncode == 0
    folder = ensure_weights(read_manifest(out / "weights_manifest.json"), Store(tmp_path / "cache"))
    assert (folder / "config.json").read_bytes() == (small_model / "config.json").read_bytes()


@pytest.mark.slow
def test_a_target_or_a_folder_that_cannot_be_used_is_named_in_one_line(small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "out" / "weights_manifest.json").mkdir(parents=True)
    assert refused(small_model, tmp_path / "file").startswith(f"OUT {tmp_path}/file is not a folder")
    assert refused(small_model, tmp_path / "file" / "out") == f"cannot publish: {tmp_path}/file/out: Not a directory"
    assert refused(small_model, Path("/proc/none")) == "cannot publish: /proc/none: No such file or directory"
    manifest = tmp_path / "out" / "weights_manifest.json"
    assert refused(small_model, tmp_path / "out") == f"cannot publish: {manifest}: Is a directory"
    assert refused(small_model, tmp_path / "out", "--from", "/none") == "--from /none is not a folder"


@pytest.mark.slow
def test_bfloat16_weights_are_published_as_what_they_are(small_model: Path, tmp_path: Path) -> None:
    first = published(small_model, tmp_path / "first", "bfloat16")
    rounded = tmp_path / "first" / first.folder_name
    (rounded / "weights_manifest.json").symlink_to(tmp_path / "first" / "weights_manifest.json")
    finished = publish(rounded, tmp_path / "second", "--url", "https://other.example")
    assert finished.stdout.splitlines()[0].endswith(" MB in bfloat16")
    written = json.loads((tmp_path / "second" / "weights_manifest.json").read_text())
    assert written["dtype"] == "bfloat16"
    second = read_manifest(tmp_path / "second" / "weights_manifest.json")
    assert second.files == first.files
    assert second.sources[1:] == first.sources, "the same bytes have the same sources"
    again = published(rounded, tmp_path / "third", "bfloat16")
    assert (again.files, again.sources) == (first.files, first.sources)
    line = refused(rounded, tmp_path / "fourth", "--dtype", "float32")
    assert line == "--dtype float32: the weights are bfloat16; what rounding took cannot be put back"


@pytest.mark.slow
def test_a_file_that_holds_no_tensors_is_named_in_one_line(small_model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(small_model, broken, symlinks=True)
    (broken / "model.safetensors").unlink()
    (broken / "model.safetensors").write_bytes(b"<html>")
    data = json.loads((broken / "weights_manifest.json").read_text())
    data["files"] = [vars(PinnedFile.of(broken, file["path"])) for file in data["files"]]
    (broken / "weights_manifest.json").write_text(json.dumps(data))
    assert refused(broken, tmp_path / "out").startswith("cannot publish: ")
