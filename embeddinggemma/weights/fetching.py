"""What every fetcher promises: bytes at a path, or an error; it does not promise that the bytes are right."""

import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class DownloadError(Exception):
    """A file could not be fetched; the message says why, and holds no token and no secret part of a URL."""


@dataclass(frozen=True)
class Download:
    """One file to fetch."""

    url: str
    """Where to fetch from."""
    path: Path
    """Where to put the bytes."""
    size: int | None
    """How many bytes it must have; None: not known beforehand."""


class Fetcher(Protocol):
    """A way to download."""

    name: str

    def fetch(self, downloads: Sequence[Download]) -> Iterator[tuple[Download, str | None]]:
        """Fetch every file to its path, whose folder exists.

        Yields:
            Each file that arrived in full, as soon as that is known, with the sha256 of its bytes where the fetcher
            computed it on the way.

        Raises:
            DownloadError: a file could not be fetched; the files yielded before can be used.

        """


def unexpected(error: Exception) -> str:
    """Return what an error that nobody foresaw is, and where it was raised; its text could hold a secret."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"unexpected {type(error).__name__} in {Path(place.filename).name}, line {place.lineno}"


def arrived_bytes(downloads: Sequence[Download]) -> int:
    """Return how many bytes of the downloads lie at their paths."""
    return sum(_size(download.path) for download in downloads)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
