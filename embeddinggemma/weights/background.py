"""The weights, made ready in a process of their own while this one imports and loads.

A thread would wait for Python's global lock: importing PyTorch and parsing the tokenizer keep it for up to a second,
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
from collections.abc import Callable
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
_GLANCE = 0.02  # seconds between two looks for a file

log = logging.getLogger(__name__)


class WeightsInBackground:
    """The weights, made ready while the caller imports and loads; arguments as for ensure_weights.

    Where the cache holds every file in its right size, loading need not wait for the digests. What was loaded is
    handed out only once they are known to be right. As a context it ends its process with it.
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
        if self._process.poll() is None:  # nobody waits for the weights any more
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def load_early(self, path: str, load: Callable[[Path], Loaded]) -> Loaded | None:
        """Return `load(folder)` as soon as the one file that it reads is there, even if others are still to come.

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


def _start(manifest: Manifest, store: Store) -> "subprocess.Popen[bytes]":
    """Start main() below. What it needs goes in by stdin, for the token must not be in a list of processes."""
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
    with suppress(BrokenPipeError):  # it has ended already, and will give no answer
        os.write(cast(IO[bytes], process.stdin).fileno(), wanted)
    return process


def _wait_for(process: "subprocess.Popen[bytes]", folder: Path) -> Path:
    """Return the folder when the process has made it ready; raise what kept it from that."""
    with process:
        try:
            error = pickle.load(cast(IO[bytes], process.stdout))  # noqa: S301 - from our own process
        except EOFError:
            raise RuntimeError("the process that makes the weights ready has ended before they were") from None
    if error:
        raise error
    return folder


def _end_with_stdin() -> None:
    """Wait for the end of stdin, when whoever wants the weights is gone, and end the whole group, pget too."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Make the weights ready, and write the error that kept them from it, or None, to stdout."""
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
