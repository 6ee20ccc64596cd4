"""With a warm cache the container needs no network: it connects to loopback only, and looks up no name."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools import PROJECT
from tools.evidence import Evidence
from tools.reference_model import warm_cache

pytestmark = pytest.mark.slow

PROMISE = "With the weights in its cache, the container needs no network and does not use it"
NAMESPACE = ["unshare", "--net", "--", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
LOOPBACK = re.compile(r'sin_addr=inet_addr\("127\.|inet_pton\(AF_INET6, "(::1|::ffff:127\.[\d.]+)"')


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that cuts the network and records all calls that connect or send messages."""
    if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no network namespace can be made here: it needs root, unshare and ip")
    if not shutil.which("strace"):
        pytest.skip("there is no strace; install it with: apt-get install strace")
    program = tmp_path_factory.mktemp("traced") / "trace"
    trace = ["strace", "-f", "--seccomp-bpf", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", str(program)]
    if subprocess.run([*trace, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("strace cannot trace here")
    return [*NAMESPACE, *trace]


def _run(traced: list[str], command: list[str], changes: dict[str, str]) -> tuple[str, list[str]]:
    """Return a command's output, and its calls to internet addresses as strace writes them."""
    environment = os.environ | changes | {"PYTHONPATH": f"{PROJECT}"}
    finished = subprocess.run(
        [*traced, *command], env=environment, cwd=PROJECT, capture_output=True, text=True, timeout=1200, check=False
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    calls = Path(traced[-1]).read_text().splitlines()
    return finished.stdout, [call for call in calls if "sa_family=AF_INET" in call]


def _beyond_loopback(calls: list[str]) -> list[str]:
    """Return the calls to addresses beyond loopback or to a name server."""
    return [call for call in calls if not LOOPBACK.search(call) or "port=htons(53)" in call]


def test_a_call_beyond_loopback_would_be_seen(traced: list[str]) -> None:
    look_up = "import socket\ntry: socket.getaddrinfo('promises.invalid', 443)\nexcept OSError: pass\n"
    connect = "socket.socket(socket.AF_INET).connect_ex(('192.0.2.1', 443))"
    _, calls = _run(traced, [sys.executable, "-c", look_up + connect], {})
    assert any("port=htons(53)" in call for call in _beyond_loopback(calls))
    assert any("192.0.2.1" in call for call in _beyond_loopback(calls))


@pytest.mark.parametrize("engine", ["native", "sentence-transformers"])
def test_a_warm_cache_serves_without_network_and_makes_no_call_beyond_loopback(
    engine: str, traced: list[str], small_model: Path, tmp_path: Path, evidence: Evidence
) -> None:
    changes = warm_cache(small_model, tmp_path) | {"EMBEDDINGGEMMA_ENGINE": engine}
    printed, calls = _run(traced, [sys.executable, "-m", "tests.support.offline", str(tmp_path / "log")], changes)
    assert json.loads(printed)["output"]["shape"] == [768]
    assert calls, "not even the prediction's own request was recorded"
    assert not _beyond_loopback(calls)
    evidence.record(
        PROMISE,
        f"in a network namespace that has loopback only, under strace, engine {engine}",
        f"set-up and a prediction; {len(calls)} calls, all to loopback; no name looked up",
    )
