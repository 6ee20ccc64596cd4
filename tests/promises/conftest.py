"""The container under test."""

from collections.abc import Iterator

import pytest

from tests.support.servers import TOKEN, HeldServer
from tools.observed_server import ObservedServer
from tools.server import LocalServer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Compare the table in the docs last, when every promise has been tested."""
    items.sort(key=lambda item: item.path.name == "test_table.py")


@pytest.fixture(scope="session")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObservedServer]:
    """One server for all tests, so that the later tests notice any harm to it too; it has a token."""
    folder = tmp_path_factory.mktemp("container")
    changes = {"EMBEDDINGGEMMA_CACHE": str(folder / "cache"), "HF_TOKEN": TOKEN}
    with LocalServer(folder / "log", weights="small", changes=changes) as server:
        yield ObservedServer(server.url, server.process.pid, server.log)


@pytest.fixture
def unharmed(container: ObservedServer) -> Iterator[None]:
    """Check after the test that the server is unharmed."""
    yield
    container.check_unharmed()


@pytest.fixture
def held_unharmed(held: HeldServer) -> Iterator[None]:
    """Check after the test that the held server is unharmed."""
    yield
    held.check_unharmed()
