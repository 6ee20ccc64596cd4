"""What Cog's server leaves on the disk: a folder for each prediction, which nothing else removes.

Seen with coglet 0.23.1: it makes /tmp/coglet/predictions/ID with two folders in it, and keeps an answer of more than
6 MB there as a file. After some millions of predictions a disk has no inode left, and every prediction fails.

Only plain children of that folder are ever removed: an id comes from a caller and can hold `/` and `..`.
"""

import logging
import os
import shutil
import stat
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from pathlib import Path

FOLDER = Path("/tmp/coglet/predictions")  # noqa: S108 - the server's own choice
_ID = "_coglet_prediction_id"  # the server's context variable in each call of predict()
_INTERVAL = 1.0  # seconds between two sweeps
_AFTER_END = 5.0  # seconds: predict() has returned, and the server may still read the answer from its folder
_ABANDONED = 600.0  # seconds without change, for folders of an earlier process and of calls that never began
_SCAN_INTERVAL = 60.0  # seconds between two looks for abandoned folders

log = logging.getLogger(__name__)


class Leftovers:
    """Removes a prediction's folder some seconds after the prediction has ended."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder
        self._running: Counter[str] = Counter()
        self._ended: deque[tuple[float, str]] = deque()
        self._next_scan = 0.0

    @contextmanager
    def prediction(self) -> Iterator[None]:
        """Keep the folder of the prediction that this call belongs to, and remove it some seconds after the context."""
        name = _prediction_id()
        if name is None:  # not called by Cog's server
            yield
            return
        self._running[name] += 1  # an id comes from a caller: two calls can have the same
        try:
            yield
        finally:
            self._running[name] -= 1
            if not self._running[name]:
                del self._running[name]
            self._ended.append((time.monotonic(), name))

    def start(self) -> None:
        """Sweep in a thread from now on."""
        threading.Thread(target=self._sweep_for_ever, name="leftovers", daemon=True).start()

    def sweep(self) -> None:
        """Remove what is over."""
        now = time.monotonic()
        if not _is_our_own(self._folder):
            return
        while self._ended and self._ended[0][0] <= now - _AFTER_END:
            self._remove(self._ended.popleft()[1])
        if now >= self._next_scan:
            self._next_scan = now + _SCAN_INTERVAL
            self._remove_abandoned()

    def _sweep_for_ever(self) -> None:
        while True:
            try:
                self.sweep()
            except Exception as error:
                log.warning("leftovers: %s: %s", type(error).__name__, error)
            time.sleep(_INTERVAL)

    def _remove_abandoned(self) -> None:
        oldest = time.time() - _ABANDONED
        with suppress(FileNotFoundError), os.scandir(self._folder) as children:
            for child in children:
                with suppress(FileNotFoundError):
                    if child.stat(follow_symlinks=False).st_mtime < oldest:
                        self._remove(child.name)

    def _remove(self, name: str) -> None:
        """Remove the folder of a prediction, unless a prediction of this name is running again."""
        path = f"{self._folder}/{name}"
        if name in self._running or name in ("", ".", "..") or "/" in name or "\0" in name or Path(path).is_symlink():
            return
        try:
            for empty in (f"{path}/inputs", f"{path}/outputs", path):  # all there is, almost always
                os.rmdir(empty)  # noqa: PTH106 - a thousand a second
        except OSError:
            shutil.rmtree(path, ignore_errors=True)  # follows no link, and removes nothing that is not a folder


def _is_our_own(folder: Path) -> bool:
    """Return whether the folder and the one around it are this user's, and no links that somebody made before us."""
    try:
        found = [path.lstat() for path in (folder, folder.parent)]
    except FileNotFoundError:
        return False
    return all(stat.S_ISDIR(each.st_mode) and each.st_uid == os.geteuid() for each in found)


def _prediction_id() -> str | None:
    for variable, value in copy_context().items():
        if variable.name == _ID:
            return str(value)
    return None
