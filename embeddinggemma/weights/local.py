"""Files from a folder of this machine, for those without a network: copied, and verified like downloads."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from embeddinggemma.weights.fetching import Download, DownloadError
from embeddinggemma.weights.urls import file_path

_CHUNK = 1 << 20  # bytes read at a time


class LocalFetcher:
    """Copies files that file URLs name, and hashes them on the way."""

    name = "copy"

    def fetch(self, downloads: Sequence[Download]) -> Iterator[tuple[Download, str | None]]:
        """Copy every file; see Fetcher."""
        for download in downloads:
            yield download, _copy(file_path(download.url), download)


def _copy(source: Path, download: Download) -> str:
    """Copy a file and return its sha256; an error in writing is an OSError."""
    sha256 = hashlib.sha256()
    with _opened(source, download.size) as reading, download.path.open("wb") as writing:
        while chunk := _read(reading, source):
            writing.write(chunk)
            sha256.update(chunk)
    return sha256.hexdigest()


def _opened(source: Path, wanted_size: int | None) -> BinaryIO:
    try:
        if source.exists() and not source.is_file():  # to open a pipe would wait for a writer
            raise DownloadError(f"{source} is not a file")
        size = source.stat().st_size
        if wanted_size not in (None, size):
            raise DownloadError(f"{source} has {size:,} bytes, not {wanted_size:,}")
        return source.open("rb")
    except OSError as error:
        raise DownloadError(f"{source} cannot be read: {error.strerror}") from None


def _read(reading: BinaryIO, source: Path) -> bytes:
    try:
        return reading.read(_CHUNK)
    except OSError as error:
        raise DownloadError(f"{source} cannot be read: {error.strerror}") from None
