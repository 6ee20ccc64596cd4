"""The container under test, and the evidence that its tests leave."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from local_server import LocalServer
from tests.promises.container import Container
from tests.promises.evidence import Evidence


@pytest.fixture(scope="session")
def container(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """One server for all, so that whatever harms it is seen by the tests that follow too."""
    assert small_model
    folder = tmp_path_factory.mktemp("container")
    changes = {"EMBEDDINGGEMMA_CACHE": str(folder / "cache")}
    with LocalServer(folder / "log", weights="small", changes=changes) as server:
        yield Container(server)


@pytest.fixture
def unharmed(container: Container) -> Iterator[None]:
    """Check after the test that the server is as it was."""
    yield
    container.check_unharmed()


@pytest.fixture(scope="session")
def evidence(request: pytest.FixtureRequest) -> Iterator[Evidence]:
    gathered = Evidence()
    yield gathered
    path: Path | None = request.config.getoption("--evidence")
    if path:
        gathered.write(path)
