"""The progress of a download is shown in a log and on a terminal."""

import logging
import os
import sys
import threading
from contextlib import suppress

import pytest

from embeddinggemma.weights import progress


def test_a_log_gets_a_line_every_few_seconds(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(progress, "_LOG_INTERVAL", 0.001)
    asked = threading.Semaphore(0)

    def arrived() -> int:
        asked.release()
        return 500_000_000

    with progress.progress(arrived, 1_000_000_000):
        assert asked.acquire(timeout=600)
    assert "weights: [###############...............] 500 of 1,000 MB, " in caplog.text


def test_a_terminal_gets_one_line_that_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal, os.fdopen(ours, "rb") as screen:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(progress, "_DRAW_INTERVAL", 0.001)
        asked = threading.Semaphore(0)

        def arrived() -> int:
            asked.release()
            return 5_000_000

        with progress.progress(arrived, None):
            assert asked.acquire(timeout=600)
        terminal.close()
        drawn = b""
        with suppress(OSError):  # reading from a closed terminal ends in this error
            while part := screen.read1():
                drawn += part
    assert drawn.startswith(b"\r5 MB, ")
    assert drawn.endswith(b"\r\x1b[K")
    assert b"\n" not in drawn
