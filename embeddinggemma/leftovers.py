"""What Cog's server leaves on the disk: a folder for each prediction, which nothing else removes.

Seen with coglet 0.23.1: it makes /tmp/coglet/predictions/ID with two folders in it, and keeps an answer of more than
6 MB there as a file. After some millions of predictions a disk has no inode left, and every prediction fails.

Only plain children of that folder are ever removed: an id comes from a caller and can hold `/` and `..`.

Other programs do the work. A thread of this process waits for Python's lock after each system call, which in a busy
server takes a millisecond; it could not keep up with 900 requests a second.
"""

import logging
import os
import stat
import subprocess
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from subprocess import DEVNULL

FOLDER = Path("/tmp/coglet/predictions")  # noqa: S108 - the server's own choice
_ID = "_coglet_prediction_id"  # the server's context variable in each call of predict()
_INTERVAL = 1.0  # seconds between two sweeps
_AFTER_END = 5.0  # seconds: predict() has returned, and the server may still read the answer from its folder
_ABANDONED = 10  # minutes without change, for folders of an earlier process and of calls that never began
_SCAN_INTERVAL = 60.0  # seconds between two looks for abandoned folders
_AT_ONCE = 500  # names in one command, which may be 255 bytes each

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
        ended = []
        while self._ended and self._ended[0][0] <= now - _AFTER_END:
            ended.append(self._ended.popleft()[1])
        self._remove(ended)
        if now >= self._next_scan:
            self._next_scan = now + _SCAN_INTERVAL
            self._remove(self._abandoned())

    def _sweep_for_ever(self) -> None:
        while True:
            try:
                self.sweep()
            except Exception as error:
                log.warning("leftovers: %s: %s", type(error).__name__, error)
            time.sleep(_INTERVAL)

    def _abandoned(self) -> list[str]:
        is_old = ["-mindepth", "1", "-maxdepth", "1", "-mmin", f"+{_ABANDONED}"]
        found = subprocess.run(["find", ".", *is_old, "-printf", "%f\\0"], cwd=self._folder, capture_output=True)
        return os.fsdecode(found.stdout).split("\0")

    def _remove(self, names: Sequence[str]) -> None:
        """Remove the folders of predictions, unless a prediction of the same name is running again."""
        for start in range(0, len(names), _AT_ONCE):
            some = [name for name in names[start : start + _AT_ONCE] if _is_plain(name) and name not in self._running]
            if some:  # rm follows no link
                subprocess.run(["rm", "-rf", "--", *some], cwd=self._folder, stdin=DEVNULL, stderr=DEVNULL)


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and not set("/\0") & set(name)


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
