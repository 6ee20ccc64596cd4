"""A manifest to a folder in which every byte is verified, or an error that says what was tried."""

import fcntl
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from embeddinggemma.weights.delivery import STAGING_PREFIX, Route, deliver
from embeddinggemma.weights.http import HttpFetcher
from embeddinggemma.weights.local import LocalFetcher
from embeddinggemma.weights.manifest import Manifest, mirror_source
from embeddinggemma.weights.pget import PgetFetcher
from embeddinggemma.weights.store import Store
from embeddinggemma.weights.verification import Faults, faults

log = logging.getLogger(__name__)


class WeightsError(RuntimeError):
    """The pinned bytes could not be downloaded or stored; the message says what was tried and why it failed."""


def ensure_weights(manifest: Manifest, store: Store) -> Path:
    """Return a folder that holds every pinned file with its pinned bytes, downloading what is missing or wrong.

    Args:
        manifest: the pinned files and the sources to try in order.
        store: where they are kept, in a folder named after the pins, and how missing files are downloaded.

    Raises:
        WeightsError: no source had a file, or the cache folder cannot be used; verified files are kept for the next
            try.
        ManifestError: the store's `mirror` is neither an https address nor on this machine.

    """
    routes = _routes(manifest, store)
    return _completed(manifest, store.cache, routes, _verify(manifest, store.cache))


def _routes(manifest: Manifest, store: Store) -> list[Route]:
    """Return each source with each fetcher in the order to try: pget if it is on PATH, then plain HTTP.

    A gated source gets plain HTTP only: pget would send the token along on redirects. A folder or tar of this machine
    is copied.
    """
    pget = shutil.which("pget")
    routes: list[Route] = []
    for source in [*([mirror_source(store.mirror)] if store.mirror else []), *manifest.sources]:
        if source.is_local:
            routes.append(Route(source, LocalFetcher()))
            continue
        if pget and not source.gated:
            routes.append(Route(source, PgetFetcher(pget, store.stall_seconds)))
        token = store.hf_token if source.gated else None
        routes.append(Route(source, HttpFetcher(store.stall_seconds, token, store.connections)))
    return routes


def _verify(manifest: Manifest, cache: Path) -> Faults:
    """Return what is wrong with the cached files; without the lock, so that a complete folder can be read-only."""
    started = time.perf_counter()
    wrong = faults(cache / manifest.folder_name, manifest.files)
    size = sum(file.size for file in manifest.files if file not in wrong)
    log.info("verify: %.1f MB in %.2f s, %d files to fetch", size / 1e6, time.perf_counter() - started, len(wrong))
    return wrong


def _completed(manifest: Manifest, cache: Path, routes: Sequence[Route], wrong: Faults) -> Path:
    """Return the folder once it has all of its files."""
    folder = cache / manifest.folder_name
    if not wrong:
        return folder
    failures: list[str] = []
    try:
        with _exclusive(cache):
            missing = faults(folder, wrong)  # another process may have downloaded them meanwhile
            for file in missing:
                (folder / file.path).unlink(missing_ok=True)
            for route in routes:
                if missing:
                    deliver(route, missing, folder, failures)
    except OSError as error:
        reason = error.strerror or error
        raise WeightsError(f"the cache folder {cache} cannot be used: {reason}{_tried(failures)}") from None
    if missing:
        raise WeightsError(_report(manifest, missing, failures))
    return folder


def _report(manifest: Manifest, missing: Faults, failures: list[str]) -> str:
    absent = "".join(f"\n  {file.path} {fault}" for file, fault in missing.items())
    tried = _tried(failures) or "\ntried:\n  no source is named"
    return f"the weights of {manifest.model} are not complete:{absent}{tried}"


def _tried(failures: list[str]) -> str:
    return "\ntried:" + "".join(f"\n  {failure}" for failure in failures) if failures else ""


@contextmanager
def _exclusive(cache: Path) -> Iterator[None]:
    """Be the only process that fills the cache; the system frees the lock of a process that was killed."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("weights: waiting for another process that fills %s", cache)
            fcntl.flock(lock, fcntl.LOCK_EX)
        for stale in cache.glob(f"{STAGING_PREFIX}*"):  # left by a killed process: a live one holds the lock
            shutil.rmtree(stale, ignore_errors=True)
        yield
