"""The weights manifest: which files make up the model, what their bytes are, and where to download them."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

from embeddinggemma.weights.urls import UnsafeUrlError, check_url, shown


class ManifestError(ValueError):
    """The manifest cannot be trusted or understood; the message names the entry."""


@dataclass(frozen=True)
class PinnedFile:
    """One file of the model."""

    path: str
    """In the model's folder."""
    size: int
    """In bytes."""
    sha256: str
    """In hexadecimal digits."""

    @classmethod
    def of(cls, folder: Path, path: str) -> "PinnedFile":
        """Pin a file of a folder as it is now."""
        with (folder / path).open("rb") as file:
            return cls(path, (folder / path).stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


@dataclass(frozen=True)
class Source:
    """A place that publishes the files."""

    url: str
    """A URL in which `{path}` stands for a file's path, or the URL of one tar."""
    gated: bool = False
    """Whether it wants the operator's HF_TOKEN."""

    @property
    def is_archive(self) -> bool:
        """Return whether one tar holds all the files."""
        return "{path}" not in self.url

    def url_of(self, file: PinnedFile) -> str:
        """Return the URL of a file."""
        return self.url.replace("{path}", quote(file.path))

    def __str__(self) -> str:
        """Return the URL without the secrets that it may hold."""
        return shown(self.url)


@dataclass(frozen=True)
class Manifest:
    """The pinned files of one model and the sources to try, in order."""

    model: str
    files: tuple[PinnedFile, ...]
    sources: tuple[Source, ...]

    @property
    def folder_name(self) -> str:
        """Return a name that differs whenever the pinned bytes differ."""
        pins = "".join(f"{file.path} {file.sha256}\n" for file in self.files)
        return f"{self.model.rsplit('/', 1)[-1]}-{hashlib.sha256(pins.encode()).hexdigest()[:16]}"


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest.

    Raises:
        ManifestError: it is not JSON, lacks a digest, names a file outside its folder, or a source that is not https.

    """
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ManifestError(f"cannot read the manifest {path}: {error}") from None
    try:
        return Manifest(
            model=str(data["model"]),
            files=tuple(_pinned_file(entry) for entry in data["files"]),
            sources=tuple(_source(entry) for entry in data["sources"]),
        )
    except (KeyError, TypeError) as error:
        raise ManifestError(f"{path} lacks or garbles {error}") from None
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from None


def mirror_source(url: str) -> Source:
    """Return the source that an operator names: a base URL, a URL with `{path}` in it, or the URL of a tar.

    Raises:
        ManifestError: the URL is neither https nor on this machine.

    """
    _check(url)
    return _source({"url": url if "{path}" in url or _is_tar(url) else url.rstrip("/") + "/{path}"})


def _source(entry: dict[str, Any]) -> Source:
    source = Source(url=entry["url"], gated=entry.get("gated", False))
    _check(source.url)
    if source.is_archive and not _is_tar(source.url):
        raise ManifestError(f"the source {source} has no {{path}} in it and is not a .tar")
    return source


def _check(url: str) -> None:
    try:
        check_url(url)
    except UnsafeUrlError as error:
        raise ManifestError(str(error)) from None


def _is_tar(url: str) -> bool:
    return urlsplit(url).path.endswith(".tar")


def _pinned_file(entry: dict[str, Any]) -> PinnedFile:
    file = PinnedFile(entry["path"], entry["size"], entry["sha256"])
    parts = PurePosixPath(file.path).parts
    if not parts or ".." in parts or not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", file.path):
        raise ManifestError(f"the path {file.path!r} could leave the model's folder")
    if not re.fullmatch(r"[0-9a-f]{64}", file.sha256):
        raise ManifestError(f"{file.path} has no sha256 of 64 hexadecimal digits")
    if file.size < 0:
        raise ManifestError(f"{file.path} has a negative size")
    return file
