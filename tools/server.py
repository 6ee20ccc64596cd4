"""Start the server that the image runs, on this machine only, and wait until it is ready."""

import math
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

import requests

from tools import PROJECT

_HEALTH_TIMEOUT = 60.0  # seconds; for a server that hangs
_READY_TIMEOUT = 600.0  # seconds; for a start that hangs


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_server(
    port: int, changes: Mapping[str, str], *, slots: int, predictor: str = "predict.py:Predictor", log: IO[bytes] | None
) -> subprocess.Popen[bytes]:
    """Start the image's server with some environment variables changed; its schema is put where it looks for it."""
    schema = PROJECT / ".cog" / "openapi_schema.json"
    schema.parent.mkdir(exist_ok=True)
    shutil.copy(PROJECT / "openapi.json", schema)
    return subprocess.Popen(
        [sys.executable, "-m", "cog.server.http", "--host", "127.0.0.1"],
        cwd=PROJECT,
        stdout=log,
        stderr=log,
        env={
            "TOKIO_WORKER_THREADS": "1",  # as in cog.yaml
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # coglet starts its worker as `python`
            **changes,
            "PORT": str(port),
            "COG_PREDICT_TYPE_STUB": predictor,
            "COG_MAX_CONCURRENCY": str(slots),
        },
    )


def health(url: str) -> str:
    """Return the status that the server reports (STARTING, READY, SETUP_FAILED ...), or UNREACHABLE."""
    try:
        return str(requests.get(f"{url}/health-check", timeout=_HEALTH_TIMEOUT).json()["status"])
    except requests.ConnectionError:
        return "UNREACHABLE"


def wait_until_ready(
    process: subprocess.Popen[bytes], url: str, *, timeout: float = _READY_TIMEOUT, pause: float = 0.1
) -> None:
    """Return once the server can answer. RuntimeError if it ends, fails, or takes longer than the timeout."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with exit code {process.returncode}")
        status = health(url)
        if status == "READY":
            return
        if status not in ("UNREACHABLE", "STARTING"):
            raise RuntimeError(f"the server cannot start: {status}")
        time.sleep(pause)
    raise RuntimeError(f"the server was not ready after {timeout:g} s")


class LocalServer:
    """scripts/serve in its own process. As a context manager: ready inside the block, and ended after it."""

    def __init__(
        self, log: Path, *, weights: str = "auto", port: int | None = None, changes: Mapping[str, str] | None = None
    ) -> None:
        """Start it. Its output goes to the file `log`; `changes` are environment variables."""
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(PROJECT / "scripts" / "serve"), "--weights", weights, "--port", str(self.port)]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=output, env={**os.environ, **(changes or {})}, start_new_session=True
            )

    def wait_showing_log(self) -> None:
        """Show the server's log until it can answer, however long the download takes. SystemExit if it fails."""
        ended = threading.Event()
        follower = threading.Thread(target=_follow, args=(self.log, ended))
        follower.start()
        try:
            wait_until_ready(self.process, self.url, timeout=math.inf)
        except RuntimeError as error:
            raise SystemExit(f"{error}; its log is {self.log}") from None
        finally:
            ended.set()
            follower.join()

    def stop(self) -> None:
        """End the server and wait until it is gone."""
        self.process.terminate()
        self.process.wait()

    def __enter__(self) -> "LocalServer":
        try:
            wait_until_ready(self.process, self.url)
        except BaseException:
            self.stop()
            print(self.log.read_text(), file=sys.stderr)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _follow(path: Path, ended: threading.Event) -> None:
    with path.open() as log:
        while not ended.wait(0.1):
            sys.stderr.write(log.read())
        sys.stderr.write(log.read())
