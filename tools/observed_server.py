"""A running server seen from outside, to check that the requests sent to it have not harmed it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

from tools.client import Client, wait_until
from tools.server import health

# Part of every hostile text; no output of the server may contain it. It is joined here, because Hypothesis tries the
# string literals of a program as names of inputs, and Cog's server logs the names of unknown inputs.
MARKER = "-".join(["zyzzyva", "quokka"])
KNOWN: dict[str, Any] = {"texts": ["Mars is red.", "Venus is hot. " * 20, "木星は大きい。"]}


class ObservedServer(Client):
    """Remembers what must not change: the worker process, and the vectors of known texts.

    server: Cog's own process, which answers HTTP.
    worker: its child, which runs predict().
    """

    def __init__(self, url: str, pid: int, log: Path) -> None:
        """Ask for the known vectors; the server must be ready.

        Args:
            url: the server's URL.
            pid: the id of the server's process, or of the process that started it.
            log: the file that the server prints to.

        """
        super().__init__(url)
        self.log = log
        self._log_seen = 0
        self.server, self.worker = server_and_worker(psutil.Process(pid))
        self._known = self.embedding(**KNOWN)

    def is_idle(self) -> bool:
        """Whether a text is alone in its forward pass, so that no other request was waiting or running."""
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
        """Check that the server is ready, and that its worker, its vectors and its log are as they should be."""
        wait_until(self.is_idle)  # in a batch with other texts, a vector's last bits may differ
        assert health(self.url) == "READY"
        assert self.worker.is_running(), "the worker was restarted"
        assert self.embedding(**KNOWN) == self._known, "known texts have other vectors than before"
        printed = self.new_log()
        assert MARKER not in printed, "a user's text is in the log"
        assert "capacity permanently reduced" not in printed, "the server has lost a slot"


def command_line(process: psutil.Process) -> list[str]:
    """Return a process's command line, or nothing if the process has ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def server_and_worker(process: psutil.Process) -> tuple[psutil.Process, psutil.Process]:
    """Return Cog's server, which is this process or below it, and its worker, whose own children come and go."""
    [server] = _named("cog.server.http", [process, *process.children(recursive=True)])
    [worker] = _named("_run_worker", server.children())
    return server, worker


def _named(name: str, processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if name in " ".join(command_line(process))]
