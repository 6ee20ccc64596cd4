"""With a proxy in the environment and no NO_PROXY, this machine is asked directly; only downloads go through it."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.support.refusing_proxy import RefusingProxy, refusing_proxy
from tests.support.servers import RunningServer, running_gateway
from tools import SCRIPTS
from tools.reference_model import MANIFEST


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[RefusingProxy]:
    with refusing_proxy(tmp_path) as started:
        yield started


def test_the_proxy_refuses_and_counts(proxy: RefusingProxy) -> None:
    """Else the tests below would pass without it."""
    urls = {"http": proxy.environment["HTTP_PROXY"]}
    refused = requests.get("http://127.0.0.1:9/", proxies=urls, timeout=60)
    assert (refused.status_code, proxy.asked_for()) == (403, ["http://127.0.0.1:9/"])


def _run(proxy: RefusingProxy, variables: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    command: list[str | Path] = [SCRIPTS / "run", "a text"]
    environment = {**proxy.environment, **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)


def test_run_asks_its_server_directly(proxy: RefusingProxy, variables: dict[str, str]) -> None:
    ran = _run(proxy, variables)
    assert "vector: shape (768,), norm 1.000000" in ran.stdout, ran.stderr
    assert proxy.asked_for() == []


@pytest.mark.slow
def test_downloads_go_through_the_proxy_and_its_refusal_ends_them(
    proxy: RefusingProxy, small_model: Path, tmp_path: Path
) -> None:
    manifest = json.loads((small_model / MANIFEST).read_text())
    manifest["sources"] = [{"url": "https://weights.example/{path}"}]
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    ran = _run(
        proxy, {"EMBEDDINGGEMMA_MANIFEST": str(tmp_path / MANIFEST), "EMBEDDINGGEMMA_CACHE": str(tmp_path / "c")}
    )
    assert "the vectors MEAN NOTHING" in ran.stderr
    assert "vector: shape (768,), norm 1.000000" in ran.stdout
    assert set(proxy.asked_for()) == {"weights.example:443"}


def test_the_gateway_asks_its_container_directly(proxy: RefusingProxy, server: RunningServer) -> None:
    command: list[str | Path] = [SCRIPTS / "gateway", "--container", server.url, "--port", "0"]
    with running_gateway(command, environment=proxy.environment) as (url, _):
        answer = requests.post(
            f"{url}/v1/models/a/b/predictions", json={"input": {"text": "a"}}, headers={"Prefer": "wait"}, timeout=600
        )
    assert answer.json()["status"] == "succeeded"
    assert proxy.asked_for() == []
