"""Manifest to a folder in which every byte is verified, or one error that says what was tried."""

import fcntl
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from embeddinggemma.delivery import STAGING_PREFIX, Way, deliver
from embeddinggemma.download import HttpFetcher
from embeddinggemma.manifest import Manifest, own_source
from embeddinggemma.pget import PgetFetcher
from embeddinggemma.settings import Store
from embeddinggemma.verification import Faults, faults, identities

Loaded = TypeVar("Loaded")

_GLANCE = 0.02  # seconds between two looks for a file

log = logging.getLogger(__name__)


class WeightsError(RuntimeError):
    """The pinned bytes could not be had or not be kept; the message says what was tried and what came of it."""


def ensure_weights(manifest: Manifest, store: Store) -> Path:
    """Return a folder that holds every pinned file with its pinned bytes, downloading what is missing or wrong.

    Args:
        manifest: the pinned files and the sources to try in order.
        store: where they are kept, in a folder named after the pins, and how missing ones are had.

    Raises:
        WeightsError: some file was to be had from no source, or the cache folder cannot be used; what was verified is
            kept for the next try.
        ManifestError: the store's `weights_url` is not an https address.

    """
    ways = _ways(manifest, store)
    return _completed(manifest, store.cache, ways, _verify(manifest, store.cache))


class WeightsInBackground:
    """The weights, made ready in a thread while the caller imports and loads; arguments as for ensure_weights.

    Where the cache holds every file in its right size, loading need not wait for the digests. What was loaded is
    handed out only once they are known to be right.
    """

    def __init__(self, manifest: Manifest, store: Store) -> None:
        self._folder = store.cache / manifest.folder_name
        self._files = manifest.files
        self._found = identities(self._folder, self._files)
        self._missing = {file.path for file in manifest.files if not (self._folder / file.path).exists()}
        thread = ThreadPoolExecutor(1)
        self._verified = thread.submit(ensure_weights, manifest, store)
        thread.shutdown(wait=False)

    def load_early(self, path: str, load: Callable[[Path], Loaded]) -> Loaded | None:
        """Return `load(folder)` as soon as the one file that it reads is there, be others still on their way.

        A file that was missing gets its name only when it is verified. Of one that was there before, nothing is known
        yet: None, and `load` loads it with the others.

        Raises:
            WeightsError, ManifestError: as for ensure_weights.

        """
        if path not in self._missing:
            return None
        while not (self._folder / path).exists() and not wait([self._verified], timeout=_GLANCE).done:
            pass
        return _timed(load, self._folder if (self._folder / path).exists() else self._verified.result())

    def load(self, load: Callable[[Path], Loaded]) -> Loaded:
        """Return `load(folder)`, all of whose files are verified by then.

        `load` may be called twice: where a file that was there proves wrong, it is fetched and all is loaded again.

        Raises:
            WeightsError, ManifestError: as for ensure_weights.

        """
        if self._found:
            try:
                loaded = _timed(load, self._folder)
            except Exception:
                if self._found_was_right():
                    raise
            else:
                if self._found_was_right():
                    return loaded
                del loaded  # before the right ones take as much memory
            log.warning("load: again, because files had to be replaced")
        return _timed(load, self._verified.result())

    def _found_was_right(self) -> bool:
        """Return whether the files that were there at first have been verified, and not replaced meanwhile."""
        return identities(self._verified.result(), self._files) == self._found


def _timed(load: Callable[[Path], Loaded], folder: Path) -> Loaded:
    started = time.perf_counter()
    loaded = load(folder)
    log.info("load: %.2f s", time.perf_counter() - started)
    return loaded


def _ways(manifest: Manifest, store: Store) -> list[Way]:
    """Return each source with each fetcher in the order to try: pget where it is on PATH, then plain HTTP.

    A gated source is for plain HTTP alone: pget would carry the token along on redirects.
    """
    pget = shutil.which("pget")
    ways: list[Way] = []
    for source in [*([own_source(store.weights_url)] if store.weights_url else []), *manifest.sources]:
        if pget and not source.gated:
            ways.append(Way(source, PgetFetcher(pget, store.stall_seconds)))
        ways.append(Way(source, HttpFetcher(store.stall_seconds, store.hf_token if source.gated else None)))
    return ways


def _verify(manifest: Manifest, cache: Path) -> Faults:
    """Return what is wrong with the cached files; without the lock, so that a folder may be complete and read-only."""
    started = time.perf_counter()
    wrong = faults(cache / manifest.folder_name, manifest.files)
    size = sum(file.size for file in manifest.files if file not in wrong)
    log.info("verify: %.1f MB in %.2f s, %d files to fetch", size / 1e6, time.perf_counter() - started, len(wrong))
    return wrong


def _completed(manifest: Manifest, cache: Path, ways: Sequence[Way], wrong: Faults) -> Path:
    """Return the folder once it has all of its files."""
    folder = cache / manifest.folder_name
    if not wrong:
        return folder
    try:
        with _exclusive(cache):
            missing = faults(folder, wrong)  # another process may have brought them by now
            for file in missing:
                (folder / file.path).unlink(missing_ok=True)
            failures = [failure for way in ways if missing for failure in deliver(way, missing, folder)]
    except OSError as error:
        reason = error.strerror or error
        raise WeightsError(f"the cache folder {cache} (EMBEDDINGGEMMA_CACHE) cannot be used: {reason}") from None
    if missing:
        raise WeightsError(_report(manifest, missing, failures))
    return folder


def _report(manifest: Manifest, missing: Faults, failures: list[str]) -> str:
    absent = "".join(f"\n  {file.path} {fault}" for file, fault in missing.items())
    tried = "".join(f"\n  {failure}" for failure in failures) or "\n  no source is named"
    return f"the weights of {manifest.model} are not complete:{absent}\ntried:{tried}"


@contextmanager
def _exclusive(cache: Path) -> Iterator[None]:
    """Be the one process that fills the cache; the system frees the lock of one that was killed."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("weights: waiting for another process, which fills %s", cache)
            fcntl.flock(lock, fcntl.LOCK_EX)
        for stale in cache.glob(f"{STAGING_PREFIX}*"):  # of a process that was killed: a live one would hold the lock
            shutil.rmtree(stale, ignore_errors=True)
        yield
