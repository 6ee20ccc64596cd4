"""What the tests run against: the reference models, and the real server with the small one."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import replicate.client
import requests

from local_server import PROJECT, LocalServer
from tests.browser import Browser
from tests.faulty_server import FaultyServer
from tests.promises.container import until_taken
from tests.tiny_model import FILES

SCRIPTS = PROJECT / "scripts"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="the promises at full length, not sampled")
    parser.addoption("--evidence", type=Path, help="write what the promises' tests measured to this file, as JSON")


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether long runs have their real length."""
    return bool(request.config.getoption("--full"))


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
        """Ask for a prediction until it is taken, as a client has to."""
        return until_taken(
            lambda: requests.post(f"{self.url}/predictions", json={"input": inputs}, timeout=120),
            lambda response: response.status_code,
        )

    def predict(self, **inputs: Any) -> dict[str, Any]:
        """Return the output of a prediction that has to succeed."""
        prediction = self.post(**inputs).json()
        assert prediction.get("status") == "succeeded", json.dumps(prediction)[:500]
        output: dict[str, Any] = prediction["output"]
        return output

    def embed(self, texts: list[str], task: str, **inputs: Any) -> npt.NDArray[np.float32]:
        """Return the vectors of texts, [texts, dimension]."""
        output = self.predict(texts=texts, task=task, **inputs)
        return np.frombuffer(base64.b64decode(output["embedding"]), "<f4").reshape(output["shape"])


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    changes = {"EMBEDDINGGEMMA_CACHE": str(folder / "cache")}
    with LocalServer(folder / "log", weights="small", changes=changes) as started:
        yield Server(started.url, started.log)


def command_line(process: psutil.Process) -> list[str]:
    """Return a process's command line; nothing of one that has ended since it was found."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


@pytest.fixture
def file_server() -> Iterator[FaultyServer]:
    """A server with the tiny model's files below /cdn."""
    with FaultyServer() as started:
        started.publish("cdn", FILES)
        yield started


@pytest.fixture
def no_pget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PATH without pget; what a test puts into the folder bin is on it."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@contextmanager
def running_gateway(command: Sequence[str | Path]) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Run scripts/replicate_gateway by a command; yield the URL that it says it serves, and its process."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = (re.search(r"running on (http://127\.0\.0\.1:\d+)", line) for line in process.stderr)
            yield next(found[1] for found in said if found), process
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def gateway(server: Server) -> Iterator[str]:
    """The URL of scripts/replicate_gateway in front of the server."""
    with running_gateway([SCRIPTS / "replicate_gateway", "--container", server.url, "--port", "0"]) as (url, _):
        yield url


@pytest.fixture
def replicate_model(gateway: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a model that replicate.run() finds: the container, behind the gateway."""
    monkeypatch.setattr(replicate, "run", replicate.client.Client(api_token="none", base_url=gateway).run)
    return "your-name/embeddinggemma-300m"


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The folder in which Node.js finds what tests/package.json pins."""
    folder = PROJECT / ".cache" / "node"
    folder.mkdir(parents=True, exist_ok=True)
    package = (PROJECT / "tests" / "package.json").read_text()
    if not (folder / "node_modules").exists() or (folder / "package.json").read_text() != package:
        (folder / "package.json").write_text(package)
        subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund"], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="session")
def chromium() -> None:
    """Debian's Chromium, installed where it is missing."""
    if shutil.which("chromium") is not None:
        return
    if os.geteuid() != 0:
        pytest.fail("the tests in a browser need Debian's package chromium: sudo apt-get install chromium")
    subprocess.run(["apt-get", "update", "--quiet"], check=True)
    subprocess.run(["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", "chromium"], check=True)


@pytest.fixture(scope="session")
def browser(chromium: None, node_modules: Path) -> Browser:  # noqa: ARG001
    return Browser(node_modules)


@pytest.fixture(scope="session")
def playground(server: Server) -> Iterator[str]:
    """The URL of scripts/playground in front of the server."""
    with running_gateway([SCRIPTS / "playground", "--container", server.url, "--port", "0"]) as (url, _):
        yield url
