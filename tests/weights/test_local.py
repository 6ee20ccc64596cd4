"""Weights from a folder or tar of this machine are verified like any other, and need no network."""

import json
import os
import tarfile
from pathlib import Path

import pytest

from embeddinggemma.settings import Settings
from embeddinggemma.weights.cache import WeightsError, ensure_weights
from embeddinggemma.weights.manifest import read_manifest
from embeddinggemma.weights.store import Store
from tests.support import tiny_model
from tests.support.faulty_server import FaultyServer
from tests.support.tiny_model import BIG, FILES, is_right, manifest, program, strays


@pytest.fixture(autouse=True)
def pget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pget that must not be asked."""
    (tmp_path / "bin").mkdir()
    program(tmp_path / "bin" / "pget", "import sys\nsys.exit('pget was asked')\n")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files, in a folder whose name has to be quoted in a URL."""
    written = tmp_path / "the weights #1"
    tiny_model.write_right_files(tmp_path).rename(written)
    return written


def fetch(tmp_path: Path, location: str, *sources: str) -> Path:
    settings = Settings.from_environment(
        {"EMBEDDINGGEMMA_WEIGHTS_URL": location, "EMBEDDINGGEMMA_CACHE": str(tmp_path / "cache")}
    )
    return ensure_weights(manifest(*sources), settings.store)


def failure(tmp_path: Path, location: str) -> str:
    with pytest.raises(WeightsError) as error:
        fetch(tmp_path, location)
    assert not strays(tmp_path / "cache")
    return str(error.value)


def test_a_folder_is_copied_and_stays(folder: Path, tmp_path: Path) -> None:
    copied = fetch(tmp_path, str(folder))
    assert is_right(copied)
    assert is_right(folder)
    assert not (copied / BIG).samefile(folder / BIG)
    assert not strays(tmp_path / "cache")


def test_a_folder_of_links_as_in_a_hub_cache_is_copied(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "links" / "2_Dense").mkdir(parents=True)
    for path in FILES:
        (tmp_path / "links" / path).symlink_to(folder / path)
    copied = fetch(tmp_path, str(tmp_path / "links"))
    assert is_right(copied)
    assert not any(path.is_symlink() for path in copied.rglob("*"))


def test_a_tar_is_unpacked(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "model.tar", "w") as tar:
        tar.add(folder, "any/name")
    assert is_right(fetch(tmp_path, (tmp_path / "model.tar").as_uri()))
    assert not strays(tmp_path / "cache")


def test_a_manifest_names_a_folder_next_to_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_model.write_manifest(tmp_path / "manifest.json", f"{folder.name}/{{path}}")
    monkeypatch.chdir("/")
    assert is_right(ensure_weights(read_manifest(path), Store(tmp_path / "cache")))
    data = json.loads(path.read_text())
    data["sources"][0]["gated"] = True
    path.write_text(json.dumps(data))
    assert is_right(ensure_weights(read_manifest(path), Store(tmp_path / "other cache", hf_token="hf_secret")))


def test_a_wrong_file_is_refused_and_the_next_source_has_it(
    folder: Path, file_server: FaultyServer, tmp_path: Path
) -> None:
    (folder / BIG).write_bytes(b"\0" + FILES[BIG][1:])
    assert f"with copy: {BIG} has sha256 " in failure(tmp_path, str(folder))
    (tmp_path / "bin" / "pget").unlink()
    assert is_right(fetch(tmp_path, str(folder), f"{file_server.url}/cdn/{{path}}"))
    assert {request.path for request in file_server.requests} == {f"/cdn/{BIG}"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b"short"), "has 5 bytes, not 3,000,000"),
        (lambda _: None, "cannot be read: No such file or directory"),
        (lambda path: path.mkdir(), "is not a file"),
        (lambda path: os.mkfifo(path), "is not a file"),
        (lambda path: path.symlink_to(path), "cannot be read: Too many levels of symbolic links"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(spoil: object, message: str, folder: Path, tmp_path: Path) -> None:
    (folder / BIG).unlink()
    spoil(folder / BIG)  # type: ignore[operator]
    reason = failure(tmp_path, str(folder))
    assert f"{folder / BIG} {message}" in reason
    assert "config.json is missing" not in reason, "the files that are right are kept"
