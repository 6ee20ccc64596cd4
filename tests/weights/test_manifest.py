"""The manifest is read strictly: every file is pinned, and every source is safe."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embeddinggemma.weights.manifest import (
    ManifestError,
    PinnedFile,
    Source,
    mirror_source,
    published_source,
    read_manifest,
)
from tests.support import tiny_model
from tools import PROJECT

GOOD: dict[str, Any] = {
    "model": "tests/tiny",
    "sources": [{"url": "https://cdn.example/{path}"}],
    "files": [{"path": "folder/file.json", "size": 3, "sha256": "0" * 64}],
}


def test_the_projects_manifest_pins_the_model_and_tries_the_open_sources_first() -> None:
    manifest = read_manifest(PROJECT / "weights_manifest.json")
    assert len(manifest.files) == 14
    assert sum(file.size for file in manifest.files) == 1_264_905_363
    assert [(source.is_archive, source.gated) for source in manifest.sources] == [
        (True, False),
        (False, False),
        (False, True),
    ]


def set_path(path: str) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["files"][0].update(path=path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data.pop("files"), "'files'"),
        (lambda data: data["files"][0].pop("sha256"), "'sha256'"),
        (lambda data: data["files"][0].update(sha256="0" * 63), "folder/file.json has no sha256"),
        (lambda data: data["files"][0].update(sha256="g" * 64), "folder/file.json has no sha256"),
        (lambda data: data["files"][0].update(size=-1), "negative size"),
        (lambda data: data["files"][0].update(size="3"), "lacks or garbles"),
        (lambda data: data["sources"][0].update(url="http://cdn.example/{path}"), "is not an https address"),
        (lambda data: data["sources"][0].update(url="https://cdn.example/"), "has no {path} in it and is not a .tar"),
        (lambda data: data["sources"][0].update(url="https://cdn.example/{path}#a"), "has a fragment"),
        (lambda data: data["sources"][0].update(url="file://server/{path}"), "names a host"),
        (lambda data: data["sources"][0].update(url="file:///a/{path}?b"), "has a query"),
        (lambda data: data["sources"][0].update(url="file:///a/"), "has no {path} in it and is not a .tar"),
        (lambda data: data["sources"][0].update(url="a\0b/{path}"), "is not a path that can be read"),
        (lambda data: data["sources"][0].update(url="~nobody-of-this-name/{path}"), "is not a path that can be read"),
        (lambda data: data["sources"][0].update(url=3), "lacks or garbles"),
        (lambda data: data.update(sources=["https://cdn.example/{path}"]), "lacks or garbles"),
        *(
            (set_path(path), "could leave the model's folder")
            for path in ("", "/a", "../a", "a/../../b", "a//b", "a b", ".")
        ),
    ],
)
def test_a_manifest_that_cannot_be_trusted_or_understood_is_refused_by_name(
    spoil: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    data = copy.deepcopy(GOOD)
    spoil(data)
    (tmp_path / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(ManifestError) as error:
        read_manifest(tmp_path / "manifest.json")
    assert message in str(error.value)


def test_a_manifest_that_is_missing_or_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("<html>")
    for path in (tmp_path / "manifest.json", tmp_path / "none.json"):
        with pytest.raises(ManifestError, match=f"cannot read the manifest {path}"):
            read_manifest(path)


def test_the_folders_name_changes_with_the_pins(tmp_path: Path) -> None:
    first = tiny_model.manifest()
    changed = read_manifest(tiny_model.write_manifest(tmp_path / "manifest.json"))
    assert changed.folder_name == first.folder_name
    data = json.loads((tmp_path / "manifest.json").read_text())
    data["files"][0]["sha256"] = "0" * 64
    (tmp_path / "manifest.json").write_text(json.dumps(data))
    assert read_manifest(tmp_path / "manifest.json").folder_name != first.folder_name


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("https://cdn.example/models", "https://cdn.example/models/{path}"),
        ("https://cdn.example/models/", "https://cdn.example/models/{path}"),
        ("https://cdn.example/models?signature=1", "https://cdn.example/models/{path}?signature=1"),
        ("https://cdn.example/{path}?signature=1", "https://cdn.example/{path}?signature=1"),
        ("https://cdn.example/model.tar?signature=1", "https://cdn.example/model.tar?signature=1"),
    ],
)
def test_the_mirror_is_a_base_url_or_a_url_with_a_path_or_a_tar(given: str, url: str) -> None:
    assert mirror_source(given) == Source(url)
    assert mirror_source(given).is_archive == (".tar" in given)


def test_a_refused_source_is_named_without_its_secrets() -> None:
    with pytest.raises(ManifestError) as error:
        mirror_source("http://user:secret@cdn.example/?token=secret")
    assert "secret" not in str(error.value)


def test_a_path_is_quoted_in_a_url() -> None:
    assert Source("https://cdn.example/{path}").url_of(PinnedFile("1/ü", 0, "")) == "https://cdn.example/1/%C3%BC"


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("https://cdn.example/models/", "https://cdn.example/models/name/{path}"),
        ("https://cdn.example/models?signature=1", "https://cdn.example/models/name/{path}?signature=1"),
        ("https://cdn.example/{path}?signature=1", "https://cdn.example/name/{path}?signature=1"),
        ("file:///srv/models", "file:///srv/models/name/{path}"),
    ],
)
def test_a_published_folder_lies_below_the_base_url(given: str, url: str) -> None:
    assert published_source(given, "name") == Source(url)


@pytest.mark.parametrize("given", ["https://cdn.example/model.tar", "https://cdn.example/a#b", "cdn.example/a", "/srv"])
def test_a_folder_cannot_be_published_below_another_address(given: str) -> None:
    with pytest.raises(ManifestError):
        published_source(given, "name")
