"""Fixtures that all tests share: the reference models, and the real server with the small model."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import replicate.client
import torch

from embeddinggemma import Embedder
from embeddinggemma.settings import Settings
from predict import Predictor
from tests.support.faulty_server import FaultyServer
from tests.support.servers import TOKEN, HeldServer, RunningServer, held_server, running_gateway
from tests.support.tiny_model import FILES
from tools import SCRIPTS
from tools import browser as browser_module
from tools.browser import Browser
from tools.evidence import Evidence
from tools.reference_model import reference_model, warm_cache
from tools.server import LocalServer

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels run on the CPU; Triton reads it when it is imported

SLOTS = Predictor.predict.__cog_concurrent_max__


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="the promises at full length, not sampled")
    parser.addoption("--faults-page", type=Path, help="write the outcomes of the download faults to this file")
    parser.addoption("--evidence", type=Path, help="write the results of the promises' tests to this file, as JSON")


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether long runs have their real length."""
    return bool(request.config.getoption("--full"))


@pytest.fixture(scope="session")
def small_model() -> Path:
    return reference_model("small")


@pytest.fixture(scope="session", params=["small", pytest.param("full", marks=pytest.mark.slow)])
def model(request: pytest.FixtureRequest) -> Path:
    """Each reference model in turn: a test must hold for both."""
    return reference_model(request.param)


@pytest.fixture(scope="session")
def variables(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment variables of a program that finds the small reference model in its cache."""
    return warm_cache(small_model, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def embedder(variables: dict[str, str]) -> Embedder:
    """The library with the small reference model."""
    return Embedder.load(Settings.from_environment(variables))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("server")
    changes = {"EMBEDDINGGEMMA_CACHE": str(folder / "cache")}
    with LocalServer(folder / "log", weights="small", changes=changes) as started:
        yield RunningServer(started.url, started.log)


@pytest.fixture(scope="session")
def held(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeldServer]:
    """A server that a test can hold, with all slots of the image and a token."""
    folder = tmp_path_factory.mktemp("held")
    changes = warm_cache(small_model, folder / "cache") | {"HF_TOKEN": TOKEN}
    with held_server(folder, changes, slots=SLOTS) as started:
        yield started


@pytest.fixture
def file_server() -> Iterator[FaultyServer]:
    """A server with the tiny model's files below /cdn."""
    with FaultyServer() as started:
        started.publish("cdn", FILES)
        yield started


@pytest.fixture
def no_pget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATH without pget; it is the folder `bin`, into which a test can put programs."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@pytest.fixture(scope="session")
def gateway(server: RunningServer) -> Iterator[str]:
    """The URL of scripts/gateway in front of the server; its webhooks may go to this machine."""
    options = ["--container", server.url, "--port", "0", "--webhook-host", "127.0.0.1"]
    with running_gateway([SCRIPTS / "gateway", *options]) as (url, _):
        yield url


@pytest.fixture
def replicate_model(gateway: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a model that replicate.run() finds: the container, behind the gateway."""
    monkeypatch.setattr(replicate, "run", replicate.client.Client(api_token="none", base_url=gateway).run)
    return "your-name/embeddinggemma-300m"


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The folder in which Node.js finds the packages of tools/package.json."""
    return browser_module.node_modules()


@pytest.fixture(scope="session")
def chromium() -> None:
    """Debian's Chromium."""
    if shutil.which("chromium") is None:
        pytest.skip("there is no Chromium; install it with: apt-get install chromium")


@pytest.fixture(scope="session")
def browser(chromium: None, node_modules: Path) -> Browser:  # noqa: ARG001
    return Browser(node_modules)


@pytest.fixture(scope="session")
def playground(server: RunningServer) -> Iterator[str]:
    """The URL of scripts/playground in front of the server."""
    with running_gateway([SCRIPTS / "playground", "--container", server.url, "--port", "0"]) as (url, _):
        yield url


@pytest.fixture(scope="session")
def evidence(request: pytest.FixtureRequest) -> Iterator[Evidence]:
    gathered = Evidence()
    yield gathered
    path: Path | None = request.config.getoption("--evidence")
    if path:
        gathered.write(path)
