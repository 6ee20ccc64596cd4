"""Gateways that refuse: one that asks for a key, and one that has no place left."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clients import KEY
from tests.support.gateways import gateway_process
from tests.support.servers import HeldServer, RunningServer
from tools.client import request_bytes, wait_until


@pytest.fixture(scope="session")
def keyed_gateway(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a gateway that asks for KEY."""
    folder, keys = tmp_path_factory.mktemp("keyed"), {"GATEWAY_API_KEYS": KEY}
    with gateway_process(folder, "--container", server.url, environment=keys) as gateway:
        yield gateway.url


@pytest.fixture
def full_gateway(held: HeldServer, tmp_path: Path) -> Iterator[str]:
    """The URL of a gateway whose only place is taken by a request that does not end, and where no other may wait."""
    options = ["--container", held.url, "--max-at-once", "1", "--max-waiting", "0"]
    with gateway_process(tmp_path, *options) as gateway, held.held():
        waiting = held.waiting()
        with gateway.open(request_bytes({"text": "a"})):
            wait_until(lambda: held.waiting() == waiting + 1)
            yield gateway.url
        wait_until(lambda: held.waiting() == waiting)
