"""A running server seen from outside: whether it is as well as before the requests that were sent to it."""

from pathlib import Path
from typing import Any

import psutil

from tools.client import Client, wait_until
from tools.server import health

MARKER = "zyzzyva-quokka"  # stands in every hostile text; no output of the server may hold it
KNOWN: dict[str, Any] = {"texts": ["Mars is red.", "Venus is hot. " * 20, "木星は大きい。"]}


class ObservedServer(Client):
    """Remembers what must not change: the worker process, and the vectors of known texts."""

    def __init__(self, url: str, pid: int, log: Path) -> None:
        """Ask for the known vectors; the server has to be ready.

        Args:
            url: where it answers.
            pid: of the process that started it, or of itself.
            log: the file that it prints to.

        """
        super().__init__(url)
        self.log = log
        self._log_seen = 0
        self.processes = psutil.Process(pid).children(recursive=True)
        [self.worker] = [process for process in self.processes if "_run_worker" in " ".join(process.cmdline())]
        self._known = self.embedding(**KNOWN)

    def is_idle(self) -> bool:
        """Whether a text is alone in its forward pass, so that nothing else was waiting or running."""
        metrics = self.post(text="anyone here?").json()["metrics"]
        return bool(metrics["batch_texts"] == 1 and metrics["queue_ms"] < 50)

    def new_log(self) -> str:
        """Return what the server has printed since the last call."""
        with self.log.open("rb") as log:
            log.seek(self._log_seen)
            printed = log.read()
        self._log_seen += len(printed)
        return printed.decode()

    def check_unharmed(self) -> None:
        """Check that the server is well, its worker the same one, its vectors the same bytes, and its log silent."""
        wait_until(self.is_idle)  # in the company of other texts a vector's last bits may differ
        assert health(self.url) == "READY"
        assert self.worker.is_running(), "the worker was restarted"
        assert self.embedding(**KNOWN) == self._known, "known texts have other vectors than before"
        printed = self.new_log()
        assert MARKER not in printed, "a user's text is in the log"
        assert "capacity permanently reduced" not in printed, "the server has lost a slot"
