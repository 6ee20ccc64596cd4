"""What the tests run against: the reference models, and the real server with the small one."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

PROJECT = Path(__file__).resolve().parent.parent
SCRIPTS = PROJECT / "scripts"


def _reference_model(size: str) -> Path:
    folder = PROJECT / ".cache" / f"reference-{size}"
    subprocess.run([sys.executable, SCRIPTS / "reference_model", "--size", size, folder], check=True)
    return folder


@pytest.fixture(scope="session")
def small_model() -> Path:
    return _reference_model("small")


@pytest.fixture(scope="session", params=["small", pytest.param("full", marks=pytest.mark.full)])
def model(request: pytest.FixtureRequest) -> Path:
    """Either reference model: what holds for one has to hold for both."""
    return _reference_model(request.param)


@dataclass(frozen=True)
class Server:
    """A running container's server, started as scripts/serve starts it."""

    url: str
    log: Path

    def post(self, **inputs: Any) -> requests.Response:
        return requests.post(f"{self.url}/predictions", json={"input": inputs}, timeout=120)

    def predict(self, **inputs: Any) -> dict[str, Any]:
        """Return the output of a prediction that has to succeed."""
        prediction = self.post(**inputs).json()
        assert prediction.get("status") == "succeeded", json.dumps(prediction)[:500]
        output: dict[str, Any] = prediction["output"]
        return output


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = Server(f"http://127.0.0.1:{port}", folder / "log")
    command = [sys.executable, str(SCRIPTS / "serve"), "--weights", "small", "--port", str(port)]
    environment = {**os.environ, "EMBEDDINGGEMMA_CACHE": str(folder / "cache")}
    with started.log.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        _wait_until_ready(started, process)
        yield started
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_until_ready(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            status = requests.get(f"{server.url}/health-check", timeout=10).json()["status"]
        except requests.ConnectionError:
            status = "STARTING"
        if status == "READY":
            return
        if status != "STARTING":
            break
        time.sleep(0.1)
    pytest.fail(f"the server did not become ready:\n{server.log.read_text()}")
