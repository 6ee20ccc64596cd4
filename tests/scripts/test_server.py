"""The server that scripts start: with the caller's paths and limits, and every wait for it ends with a reason."""

import re
import resource
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from tests.support.documents import readers
from tests.support.servers import running_server
from tools import PROJECT, SCRIPTS, processes
from tools.reference_model import MANIFEST, warm_cache
from tools.server import LocalServer, free_port, health, wait_until_ready


def test_relative_paths_are_meant_from_the_callers_folder(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm_cache(small_model, tmp_path / "weights")
    (tmp_path / "pins.json").symlink_to(small_model / MANIFEST)
    monkeypatch.chdir(tmp_path)
    relative = {"EMBEDDINGGEMMA_MANIFEST": "pins.json", "EMBEDDINGGEMMA_CACHE": "weights"}
    with LocalServer(tmp_path / "log", changes=relative) as server:
        log = server.log.read_text()
    assert "the vectors MEAN NOTHING" not in log
    assert log.count("0 files to fetch") == 2  # by scripts/serve, and by the server


def test_the_server_gets_every_path_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = (PROJECT / "embeddinggemma" / "settings.py").read_text()
    names = [*re.findall(r'_path\(environment, "(\w+)"', settings), "EMBEDDINGGEMMA_WEIGHTS_URL", "SSL_CERT_FILE"]
    assert len(names) == 4
    monkeypatch.chdir(tmp_path)
    changes = {**{name: f"a folder/{name}" for name in names}, "TRITON_CACHE_DIR": "~/kernels"}
    with running_server(changes, tmp_path / "log", slots=1) as (process, _):
        found = psutil.Process(process.pid).environ()
    assert {name: found[name] for name in names} == {name: f"{tmp_path}/a folder/{name}" for name in names}
    assert found["TRITON_CACHE_DIR"] == str(Path("~/kernels").expanduser())


def test_a_soft_limit_of_open_files_is_raised(variables: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    limited = ["bash", "-c", 'ulimit -Sn 256; exec "$@"', "-", str(SCRIPTS / "serve"), "--weights", "manifest"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*limited, "--port", str(port)], env=readers(variables), stdout=log, stderr=log)
    try:
        wait_until_ready(process, f"http://127.0.0.1:{port}")
        [server] = psutil.Process(process.pid).children()
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        assert server.rlimit(psutil.RLIMIT_NOFILE) == (hard, hard)
    finally:
        processes.end(process)


def test_a_server_that_says_nothing_for_too_long_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    log.touch()
    now, lines = 0.0, iter(range(5))

    def pause(_: float) -> None:
        nonlocal now
        now += 400
        if next(lines, None) is not None:
            log.write_text(f"{log.read_text()}a line\n")

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", pause)
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            with pytest.raises(RuntimeError, match="was not ready after 600 s in which it printed nothing"):
                wait_until_ready(process, f"http://127.0.0.1:{free_port()}", timeout=600, log=log)
        finally:
            process.kill()
    assert now == 400 * 5 + 800


class _OtherServer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def test_another_server_on_the_port_is_not_taken_for_ours() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _OtherServer) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with pytest.raises(RuntimeError, match=r"another server answers at http://127\.0\.0\.1:\d+: HTTP 404"):
            health(f"http://127.0.0.1:{other.server_port}")
        other.shutdown()


def test_a_process_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_GRACE", 0.1)
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(1000)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert processes.end(process) == -9
