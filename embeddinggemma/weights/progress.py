"""The progress of a download: a line that is redrawn on a terminal, or a log line every few seconds."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LOG_INTERVAL = 3.0  # seconds between two log lines
_DRAW_INTERVAL = 0.2  # seconds between two drawings
_BAR = 30  # characters

log = logging.getLogger(__name__)


@contextmanager
def progress(arrived: Callable[[], int], total: int | None) -> Iterator[None]:
    """Show the progress while the context lasts.

    Args:
        arrived: returns how many bytes have arrived.
        total: how many bytes there will be; None: not known.

    """
    on_terminal = sys.stderr.isatty()
    started = time.perf_counter()
    finished = threading.Event()

    def report() -> None:
        while not finished.wait(_DRAW_INTERVAL if on_terminal else _LOG_INTERVAL):
            line = _line(arrived(), total, time.perf_counter() - started)
            if on_terminal:
                sys.stderr.write(f"\r{line}\033[K")
                sys.stderr.flush()
            else:
                log.info("weights: %s", line)
        if on_terminal:
            sys.stderr.write("\r\033[K")

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        finished.set()
        reporter.join()


def _line(arrived: int, total: int | None, seconds: float) -> str:
    rate = f"{arrived / 1e6 / seconds:,.1f} MB/s"
    if not total:
        return f"{arrived / 1e6:,.0f} MB, {rate}"
    filled = min(_BAR, _BAR * arrived // total)
    bar = "#" * filled + "." * (_BAR - filled)
    return f"[{bar}] {arrived / 1e6:,.0f} of {total / 1e6:,.0f} MB, {rate}"
