"""Start the server that the image runs, on this machine only, and wait until it is ready."""

import http.client
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from tools import PROJECT
from tools.client import Client
from tools.processes import bound_to_this, end

_HEALTH_TIMEOUT = 60.0  # seconds; for a server that hangs
_READY_TIMEOUT = 600.0  # seconds; for a start that hangs
# Variables that name files or folders. The server runs in the project's folder, and they are meant from the caller's.
_PATHS = (
    *("EMBEDDINGGEMMA_MANIFEST", "EMBEDDINGGEMMA_CACHE", "EMBEDDINGGEMMA_WEIGHTS_URL"),
    *("XDG_CACHE_HOME", "TRITON_CACHE_DIR", "TMPDIR"),
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"),
)
# Seen with coglet 0.23.1: it opens two for each slot at its start, keeps one, and adds one for each connection.
_DESCRIPTORS_PER_SLOT = 2
_OTHER_DESCRIPTORS = 64


def free_port(port: int = 0) -> int:
    """Return this TCP port of 127.0.0.1, or with 0 any, once it is sure that a server can listen on it.

    Raises:
        OSError: another program listens on it, or this user may not.

    """
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as servers do: connections that ended do not count
        probe.bind(("127.0.0.1", port))
        return int(probe.getsockname()[1])


def start_server(
    port: int, changes: Mapping[str, str], *, slots: int, predictor: str = "predict.py:Predictor", log: IO[bytes] | None
) -> subprocess.Popen[bytes]:
    """Start the image's server with some environment variables changed; its schema is put where it looks for it.

    On Linux it is killed when the thread that calls this ends, even by SIGKILL.

    Raises:
        SystemExit: this process may open fewer files than the slots need.

    """
    _allow_descriptors(slots)
    _put_schema(PROJECT / ".cog" / "openapi_schema.json")
    environment = {
        "TOKIO_WORKER_THREADS": "1",  # as in cog.yaml
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # coglet starts its worker as `python`
        **changes,
        "PORT": str(port),
        "COG_PREDICT_TYPE_STUB": predictor,
        "COG_MAX_CONCURRENCY": str(slots),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "cog.server.http", "--host", "127.0.0.1"],
        cwd=PROJECT,
        stdout=log,
        stderr=log,
        env=environment | _absolute_paths(environment),
        preexec_fn=bound_to_this(signal.SIGKILL),
    )


def _allow_descriptors(slots: int) -> None:
    """Let this process, and those that it starts, open as many files as the operator allows at most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _DESCRIPTORS_PER_SLOT * slots + _OTHER_DESCRIPTORS
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SystemExit(
            f"{slots} slots need {needed:,} open files, and `ulimit -Hn` allows {hard:,}: raise that limit"
        )
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _put_schema(path: Path) -> None:
    source = PROJECT / "openapi.json"
    if not path.exists() or path.read_bytes() != source.read_bytes():
        path.parent.mkdir(exist_ok=True)
        shutil.copy(source, path)


def _absolute_paths(environment: Mapping[str, str]) -> dict[str, str]:
    named = {name: environment.get(name, "").strip() for name in _PATHS}
    return {name: str(_absolute(path)) for name, path in named.items() if path and "://" not in path}


def _absolute(path: str) -> Path:
    with suppress(RuntimeError):  # there is no home that ~ could mean
        return Path(path).expanduser().absolute()
    return Path(path)


def health(url: str) -> str:
    """Return the status that the server reports (STARTING, READY, SETUP_FAILED ...), or UNREACHABLE.

    Raises:
        RuntimeError: it is another server that answers.

    """
    try:
        answer = Client(url).send(method="GET", path="/health-check", timeout=_HEALTH_TIMEOUT)
    except (OSError, http.client.HTTPException):
        return "UNREACHABLE"
    try:
        return str(answer.json()["status"])
    except (ValueError, TypeError, KeyError):
        raise RuntimeError(f"another server answers at {url}: HTTP {answer.status} to /health-check") from None


def wait_until_ready(
    process: subprocess.Popen[bytes],
    url: str,
    *,
    timeout: float = _READY_TIMEOUT,
    pause: float = 0.1,
    log: Path | None = None,
) -> None:
    """Return once the server can answer.

    With the file that it prints to, the timeout counts from its last words: a download may take hours, but shows that
    it gets ahead.

    Raises:
        RuntimeError: the server has ended or failed, or the timeout is over.

    """
    deadline, printed = time.monotonic() + timeout, 0
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with exit code {process.returncode}")
        status = health(url)
        if status == "READY":
            return
        if status not in ("UNREACHABLE", "STARTING"):
            raise RuntimeError(f"the server cannot start: {status}")
        if log is not None and log.stat().st_size != printed:
            deadline, printed = time.monotonic() + timeout, log.stat().st_size
        time.sleep(pause)
    raise RuntimeError(f"the server was not ready after {timeout:g} s{' in which it printed nothing' if log else ''}")


class LocalServer:
    """scripts/serve in its own process. As a context manager: ready inside the block, and ended after it."""

    def __init__(
        self,
        log: Path,
        *,
        weights: str = "auto",
        port: int | None = None,
        changes: Mapping[str, str] | None = None,
        outlives: bool = False,
    ) -> None:
        """Start it.

        Args:
            log: the file that it prints to.
            weights: the option of scripts/serve.
            port: TCP port on 127.0.0.1; None: any free one.
            changes: environment variables.
            outlives: whether it may go on when this process has ended.

        """
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(PROJECT / "scripts" / "serve"), "--weights", weights, "--port", str(self.port)]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                env={**os.environ, **(changes or {})},
                start_new_session=True,
                preexec_fn=None if outlives else bound_to_this(signal.SIGTERM),
            )

    def wait_showing_log(self) -> None:
        """Show the server's log until it can answer, however long the download takes.

        Raises:
            SystemExit: it cannot, or has printed nothing for ten minutes.

        """
        ended = threading.Event()
        follower = threading.Thread(target=_follow, args=(self.log, ended))
        follower.start()
        try:
            wait_until_ready(self.process, self.url, log=self.log)
        except RuntimeError as error:
            raise SystemExit(f"{error}; its log is {self.log}") from None
        finally:
            ended.set()
            follower.join()

    def stop(self) -> None:
        """End the server and wait until it is gone."""
        end(self.process)

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
    with path.open(errors="replace") as log:
        while not ended.wait(0.1):
            sys.stderr.write(log.read())
        sys.stderr.write(log.read())
