"""What the tests run against: the reference models, and the real server with the small one."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from local_server import PROJECT, LocalServer

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
    changes = {"EMBEDDINGGEMMA_CACHE": str(folder / "cache")}
    with LocalServer(folder / "log", weights="small", changes=changes) as started:
        yield Server(started.url, started.log)
