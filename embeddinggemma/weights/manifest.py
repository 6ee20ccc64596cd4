"""The weights manifest: which files make up the model, what their bytes are, and where to download them."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

from embeddinggemma.weights.urls import UnsafeUrlError, check_file_url, check_url, file_path, file_url, joined, shown


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
    """A place that publishes the files, or a folder of this machine that holds them."""

    url: str
    """A URL in which `{path}` stands for a file's path, or the URL of one tar; of a folder or tar here, a file URL."""
    gated: bool = False
    """Whether it wants the operator's HF_TOKEN."""

    @property
    def is_archive(self) -> bool:
        """Return whether one tar holds all the files."""
        return "{path}" not in self.url

    @property
    def is_local(self) -> bool:
        """Return whether the files are on a disk of this machine."""
        return _is_file_url(self.url)

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
        ManifestError: it is not JSON, lacks a digest, names a file outside its folder, or a source that is neither
            https nor on this machine.

    """
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ManifestError(f"cannot read the manifest {path}: {error}") from None
    try:
        return Manifest(
            model=str(data["model"]),
            files=tuple(_pinned_file(entry) for entry in data["files"]),
            sources=tuple(_source(entry["url"], path.parent, entry.get("gated", False)) for entry in data["sources"]),
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise ManifestError(f"{path} lacks or garbles {error}") from None
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from None


def mirror_source(location: str) -> Source:
    """Return the source that an operator names.

    Args:
        location: a base URL, a URL with `{path}` in it, or the URL of a tar; or the path of a folder or tar here.

    Raises:
        ManifestError: it is neither an https address nor on this machine, or it has a fragment.

    """
    url = _checked_url(location, Path.cwd())
    return Source(url if "{path}" in url or _is_tar(url) else joined(url, "{path}"))


def published_source(url: str, folder_name: str) -> Source:
    """Return the source of a folder that an operator puts below a base URL.

    Raises:
        ManifestError: as for `mirror_source`; or the URL is a path without a scheme, or that of a tar.

    """
    if "://" not in url:
        raise ManifestError("it has no scheme; write https://, or file:/// and a path")
    mirror = mirror_source(url)
    if mirror.is_archive:
        raise ManifestError(f"{mirror} is the URL of a tar; name the folder below which the files will be")
    return Source(mirror.url.replace("{path}", f"{quote(folder_name)}/{{path}}"))


def _source(location: str, folder: Path, gated: bool) -> Source:
    source = Source(_checked_url(location, folder), gated)
    if source.is_archive and not _is_tar(source.url):
        raise ManifestError(f"the source {source} has no {{path}} in it and is not a .tar")
    return source


def _checked_url(location: str, folder: Path) -> str:
    """Return the URL of a source; a path becomes a file URL, and begins at the folder if it is relative."""
    try:
        if "://" not in location:
            return file_url(location, folder)
        if not _is_file_url(location):
            check_url(location)
            return location
        check_file_url(location)
        return file_url(str(file_path(location)), folder)
    except UnsafeUrlError as error:
        raise ManifestError(str(error)) from None


def _is_file_url(url: str) -> bool:
    return url.lower().startswith("file://")


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
