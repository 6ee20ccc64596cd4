"""What the tests run against: the reference models, and the real server with the small one."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import replicate.client
import requests

from local_server import PROJECT, LocalServer
from tests.replicate_stand_in import replicate_stand_in

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


@pytest.fixture
def replicate_model(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a model that replicate.run() finds: the container, behind a stand-in for Replicate."""
    with replicate_stand_in(server.url) as url:
        monkeypatch.setattr(replicate, "run", replicate.client.Client(api_token="none", base_url=url).run)
        yield "your-name/embeddinggemma-300m"
