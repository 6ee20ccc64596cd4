"""Manifest to a folder in which every byte is verified, or one error that says what was tried."""

import hashlib
import logging
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from embeddinggemma.download import Download, DownloadError, Fetcher, fetchers
from embeddinggemma.manifest import Manifest, PinnedFile, Source, own_source

_PROGRESS_INTERVAL = 3.0  # seconds between two log lines

log = logging.getLogger(__name__)


class WeightsError(RuntimeError):
    """No source gave all of the pinned bytes; the message lists each source and why it failed."""


def ensure_weights(
    manifest: Manifest, cache: Path, *, weights_url: str | None = None, hf_token: str | None = None
) -> Path:
    """Return a folder that holds every pinned file with its pinned bytes, downloading what is missing or wrong.

    Args:
        manifest: the pinned files and the sources to try in order.
        cache: folder for verified weights; the returned folder lies in it, named after the pins.
        weights_url: base URL of one's own copy of the files, tried first.
        hf_token: sent to sources that the manifest calls gated.

    Raises:
        WeightsError: some file was to be had from no source; what was verified is kept for the next try.
        ManifestError: `weights_url` is not an https address.

    """
    folder = cache / manifest.folder_name
    started = time.perf_counter()
    missing = _faulty_files(folder, manifest.files)
    log.info("weights: verified %s in %.1f s, %d to fetch", folder, time.perf_counter() - started, len(missing))
    failures: list[str] = []
    own = [own_source(weights_url)] if weights_url else []
    for source in [*own, *manifest.sources]:
        for fetcher in fetchers(gated=source.gated):
            if not missing:
                return folder
            failures += _fetch_into(folder, missing, source, fetcher, hf_token if source.gated else None)
            missing = {file: fault for file, fault in missing.items() if not (folder / file.path).exists()}
    if missing:
        raise WeightsError(_report(manifest, missing, failures))
    return folder


def _report(manifest: Manifest, missing: dict[PinnedFile, str], failures: list[str]) -> str:
    faults = "".join(f"\n  {file.path} {fault}" for file, fault in missing.items())
    tried = "".join(f"\n  {failure}" for failure in failures) or "\n  no source is named"
    return f"the weights of {manifest.model} are not complete:{faults}\ntried:{tried}"


def _fetch_into(
    folder: Path, missing: dict[PinnedFile, str], source: Source, fetcher: Fetcher, token: str | None
) -> list[str]:
    """Fetch files into a staging folder and move those that prove right into `folder`; return what went wrong."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for file in missing:
        (folder / file.path).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix=".incoming-", dir=folder.parent) as staging_name:
        staging = Path(staging_name)
        downloads = [Download(source.url_of(file), staging / file.path, file.size) for file in missing]
        for download in downloads:
            download.path.parent.mkdir(parents=True, exist_ok=True)
        failures: list[str] = []
        log.info("weights: fetching %d files from %s with %s", len(downloads), source.url, fetcher.name)
        with _progress(downloads):
            try:
                fetcher.fetch(downloads, token)
            except DownloadError as error:
                failures.append(f"{source.url} with {fetcher.name}: {error}")
        faults = _faulty_files(staging, tuple(missing))
        for file in missing:
            if file not in faults:
                (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
                (staging / file.path).replace(folder / file.path)
        arrived_wrong = [f"{source.url} with {fetcher.name}: {file.path} {fault}" for file, fault in faults.items()]
        return failures or arrived_wrong


def _faulty_files(folder: Path, files: Sequence[PinnedFile]) -> dict[PinnedFile, str]:
    """Return the files that do not have their pinned bytes, each with what is wrong with it."""
    with ThreadPoolExecutor() as pool:
        faults = pool.map(lambda file: _fault(folder / file.path, file), files)
    return {file: fault for file, fault in zip(files, faults, strict=True) if fault}


def _fault(path: Path, pinned: PinnedFile) -> str | None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return "is missing"
    if size != pinned.size:
        return f"has {size:,} bytes, not {pinned.size:,}"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return None if digest == pinned.sha256 else f"has sha256 {digest}, not {pinned.sha256}"


@contextmanager
def _progress(downloads: Sequence[Download]) -> Iterator[None]:
    """Log every few seconds how many bytes have arrived, whoever fetches them."""
    total = sum(download.size for download in downloads)
    finished = threading.Event()

    def report() -> None:
        started = time.perf_counter()
        while not finished.wait(_PROGRESS_INTERVAL):
            arrived = sum(download.path.stat().st_size for download in downloads if download.path.exists())
            rate = arrived / (time.perf_counter() - started)
            log.info("weights: %.0f of %.0f MB, %.1f MB/s", arrived / 1e6, total / 1e6, rate / 1e6)

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        finished.set()
        reporter.join()
