"""Files over a route, which is a source and a fetcher: each file that arrives and is right is put into its folder."""

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from embeddinggemma.weights.archive import unpack_pinned
from embeddinggemma.weights.fetching import Download, DownloadError, Fetcher, arrived_bytes, unexpected
from embeddinggemma.weights.manifest import PinnedFile, Source
from embeddinggemma.weights.progress import progress
from embeddinggemma.weights.verification import Faults, fault

STAGING_PREFIX = ".incoming-"  # of folders next to the final one; they hold files that are not verified yet

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Route:
    """Where to download from, and how."""

    source: Source
    fetcher: Fetcher

    def __str__(self) -> str:
        """Return how logs and errors name it."""
        return f"{self.source} with {self.fetcher.name}"


def deliver(route: Route, missing: Faults, folder: Path, failures: list[str]) -> None:
    """Fetch the missing files into the folder, and remove the files that arrived from `missing`.

    Args:
        route: the source and the fetcher.
        missing: the files that the folder lacks; changed.
        folder: where a file is put once its bytes are verified.
        failures: gets what goes wrong, a line each.

    Raises:
        OSError: the disk is full or read-only.

    """
    before = len(failures)

    def fail(reason: str) -> None:
        failures.append(f"{route}: {reason}")

    def place(file: PinnedFile, path: Path, sha256: str | None) -> None:
        # A digest that was taken while another program wrote may be off: it is taken again before a file is refused.
        if fault(path, file, sha256) and (wrong := fault(path, file, None)):
            fail(f"{file.path} {wrong}")
            return
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        path.replace(folder / file.path)
        del missing[file]

    log.info("weights: fetching %d files from %s", len(missing), route)
    with tempfile.TemporaryDirectory(prefix=STAGING_PREFIX, dir=folder.parent) as staging, ThreadPoolExecutor() as pool:
        placements = []
        try:
            for arrival in _arrivals(route, list(missing), Path(staging)):
                placements.append(pool.submit(place, *arrival))
        except DownloadError as error:
            fail(str(error))
        except OSError:  # of the disk: fetchers turn those of the network into DownloadErrors
            raise
        except Exception as error:
            fail(unexpected(error))
        arrived = time.perf_counter()
        for placement in placements:
            placement.result()
        if placements:
            log.info("verify: %d files, %.2f s after the last byte", len(placements), time.perf_counter() - arrived)
    for failure in failures[before:]:
        log.warning("weights: %s", failure)


def _arrivals(
    route: Route, files: Sequence[PinnedFile], staging: Path
) -> Iterator[tuple[PinnedFile, Path, str | None]]:
    """Download files into the staging folder; yield each with its path and, if already known, its sha256."""
    for file in files:
        (staging / file.path).parent.mkdir(parents=True, exist_ok=True)
    if route.source.is_archive:
        tar = Download(route.source.url, staging / ".tar", None)
        list(_downloaded(route.fetcher, [[tar]]))
        yield from unpack_pinned(tar.path, files, staging)
        return
    downloads = {Download(route.source.url_of(file), staging / file.path, file.size): file for file in files}
    *small, largest = sorted(downloads, key=lambda download: downloads[download].size)
    # Small files arrive first, and can be loaded while the network's weights are still downloading.
    for download, sha256 in _downloaded(route.fetcher, [group for group in (small, [largest]) if group]):
        yield downloads[download], download.path, sha256


def _downloaded(fetcher: Fetcher, groups: Sequence[Sequence[Download]]) -> Iterator[tuple[Download, str | None]]:
    """Fetch one group after the other; log the progress and the time that it took."""
    started = time.perf_counter()
    pending = list(chain.from_iterable(groups))
    handed_on = 0  # bytes
    sizes = [download.size for download in pending]
    total = None if None in sizes else sum(filter(None, sizes))
    with progress(lambda: handed_on + arrived_bytes(pending), total):
        for download, sha256 in chain.from_iterable(map(fetcher.fetch, groups)):
            handed_on += arrived_bytes([download])
            pending.remove(download)
            yield download, sha256
    seconds = time.perf_counter() - started
    log.info("download: %.1f MB in %.2f s, %.1f MB/s", handed_on / 1e6, seconds, handed_on / 1e6 / seconds)
