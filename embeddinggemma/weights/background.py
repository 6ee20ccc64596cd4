"""The weights, verified or downloaded in a separate process while this one imports and loads.

A thread would wait for Python's global lock: importing PyTorch and parsing the tokenizer hold it for up to a second,
and a download needs it for every few kilobytes.
"""

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import IO, TypeVar, cast

from embeddinggemma.weights.cache import WeightsError, ensure_weights
from embeddinggemma.weights.manifest import Manifest, ManifestError
from embeddinggemma.weights.store import Store, without_token
from embeddinggemma.weights.verification import identities

Loaded = TypeVar("Loaded")

_PROGRAM = "embeddinggemma.weights.background"
_POLL_INTERVAL = 0.02  # seconds between two looks for a file

log = logging.getLogger(__name__)


class WeightsInBackground:
    """The weights, verified or downloaded while the caller imports and loads; arguments as for ensure_weights.

    If the cache holds every file in its right size, loading does not wait for the digests; the result is returned only
    once the digests are known to be right. As a context manager it ends its process at the end of the context.
    """

    def __init__(self, manifest: Manifest, store: Store) -> None:
        self._folder = store.cache / manifest.folder_name
        self._files = manifest.files
        self._found = identities(self._folder, self._files)
        self._missing = {file.path for file in manifest.files if not (self._folder / file.path).exists()}
        self._process = _start(manifest, store)
        thread = ThreadPoolExecutor(1)
        self._verified = thread.submit(_wait_for, self._process, self._folder)
        thread.shutdown(wait=False)

    def __enter__(self) -> "WeightsInBackground":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:  # the weights are no longer needed
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def load_early(self, paths: Sequence[str], load: Callable[[Path], Loaded]) -> Loaded | None:
        """Return `load(folder)` as soon as the only files that it reads are there, even if others still download.

        A missing file gets its final name only when it is verified. A file that was there before is not verified yet:
        the method returns None, and `load` loads it with the others.

        Raises:
            WeightsError, ManifestError: as for ensure_weights.

        """
        if not self._missing.issuperset(paths):
            return None
        return _timed(load, [self._folder_with(path) for path in paths][-1])

    def in_background(self, path: str, prepare: Callable[[Path], None]) -> None:
        """Call `prepare(folder)` in a thread as soon as a file is there, verified or not: only for what can be wasted.

        Its errors are logged. A load does not wait for it.
        """

        def run() -> None:
            try:
                prepare(self._folder_with(path))
            except Exception as error:
                log.warning("load: nothing was prepared: %s", error)

        threading.Thread(target=run, daemon=True).start()

    def _folder_with(self, path: str) -> Path:
        """Return the folder once it holds a file."""
        while not (self._folder / path).exists() and not wait([self._verified], timeout=_POLL_INTERVAL).done:
            pass
        return self._folder if (self._folder / path).exists() else self._verified.result()

    def load(self, load: Callable[[Path], Loaded]) -> Loaded:
        """Return `load(folder)` once all files of the folder are verified.

        `load` may be called twice: if a file that was there proves wrong, it is downloaded, and everything is loaded
        again.

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
                del loaded  # before the right files take as much memory
            log.warning("load: again, because wrong files were replaced")
        return _timed(load, self._verified.result())

    def _found_was_right(self) -> bool:
        """Return whether the files that were there at first are verified, and were not replaced meanwhile."""
        return identities(self._verified.result(), self._files) == self._found


def _timed(load: Callable[[Path], Loaded], folder: Path) -> Loaded:
    started = time.perf_counter()
    loaded = load(folder)
    log.info("load: %.2f s", time.perf_counter() - started)
    return loaded


def _start(manifest: Manifest, store: Store) -> "subprocess.Popen[bytes]":
    """Start main() below. Its arguments go in by stdin, because a list of processes must not show the token."""
    environment = without_token(os.environ)
    packages = [str(Path(__file__).resolve().parent.parent.parent), os.environ.get("PYTHONPATH")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, packages))
    process = subprocess.Popen(
        [sys.executable, "-m", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    wanted = pickle.dumps((manifest, store, logging.getLogger().getEffectiveLevel()))
    with suppress(BrokenPipeError):  # it has ended already; `_wait_for` reports that
        os.write(cast(IO[bytes], process.stdin).fileno(), wanted)
    return process


def _wait_for(process: "subprocess.Popen[bytes]", folder: Path) -> Path:
    """Return the folder when the process has finished; raise the process's error if there was one."""
    with process:
        try:
            error = pickle.load(cast(IO[bytes], process.stdout))  # noqa: S301 - from our own process
        except EOFError:
            raise RuntimeError("the process that verifies and downloads the weights ended too early") from None
    if error:
        raise error
    return folder


def _end_with_stdin() -> None:
    """Wait for the end of stdin, which means that the parent is gone, and kill the process group, pget included."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Verify or download the weights, and write the error, or None, to stdout."""
    manifest, store, log_level = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own process
    logging.basicConfig(level=log_level, format="%(message)s")
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    error = None
    try:
        ensure_weights(manifest, store)
    except (WeightsError, ManifestError) as reason:
        error = reason
    pickle.dump(error, sys.stdout.buffer)


if __name__ == "__main__":
    main()
