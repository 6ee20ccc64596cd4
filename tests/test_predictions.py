"""What becomes of predictions between the gateway and a real container: waiting for a slot, ending, being kept."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from starlette.testclient import TestClient

import predictions
from gateway import gateway_app
from local_server import health, running_container, wait_until_ready
from tests.conftest import Server

PATH = "/v1/models/someone/embeddinggemma-300m/predictions"
SHORT = {"text": "a"}
LONG = {"texts": ["word " * 1500] * 1024}  # a minute's work, where nothing cancels it
ENDED = ("succeeded", "failed", "canceled")


@contextmanager
def container_with_one_slot(server: Server, model: Path, log: Path) -> Iterator[tuple[Any, str]]:
    """Start a container on the weights that the server has verified; yield its process and URL."""
    changes = {
        "EMBEDDINGGEMMA_CACHE": str(server.log.parent / "cache"),
        "EMBEDDINGGEMMA_MANIFEST": str(model / "weights_manifest.json"),
    }
    with running_container(changes, log, slots=1) as running:
        yield running


@pytest.fixture(scope="module")
def one_slot(server: Server, small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a container that takes one prediction at a time."""
    with container_with_one_slot(server, small_model, tmp_path_factory.mktemp("one-slot") / "log") as (process, url):
        wait_until_ready(process, url)
        yield url


@pytest.fixture
def gateway(one_slot: str) -> Iterator[TestClient]:
    with TestClient(gateway_app(one_slot)) as client:
        yield client


def create(gateway: TestClient, inputs: dict[str, Any], prefer: str = "", **body: Any) -> dict[str, Any]:
    answer: dict[str, Any] = gateway.post(PATH, json={"input": inputs, **body}, headers={"Prefer": prefer}).json()
    return answer


def reload(gateway: TestClient, prediction: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = gateway.get(f"/v1/predictions/{prediction['id']}").json()
    return answer


def cancel(gateway: TestClient, prediction: dict[str, Any]) -> str:
    return str(gateway.post(f"/v1/predictions/{prediction['id']}/cancel").json()["status"])


def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds, which it must within half a minute."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline


def test_a_prediction_waits_for_a_container_that_starts(server: Server, small_model: Path, tmp_path: Path) -> None:
    with container_with_one_slot(server, small_model, tmp_path / "log") as (_, url):
        until(lambda: health(url) != "UNREACHABLE")
        assert health(url) == "STARTING"
        with TestClient(gateway_app(url)) as gateway:
            assert create(gateway, SHORT, prefer="wait")["status"] == "succeeded"


def test_a_prediction_waits_for_a_slot_which_a_canceled_one_frees(gateway: TestClient) -> None:
    first, second = create(gateway, LONG), create(gateway, SHORT)
    assert reload(gateway, second)["status"] not in ENDED
    assert reload(gateway, first)["status"] == "processing"
    assert cancel(gateway, first) == "canceled"
    until(lambda: reload(gateway, second)["status"] in ENDED)
    assert reload(gateway, second)["status"] == "succeeded"


def test_a_prediction_that_waits_for_a_slot_can_be_canceled(gateway: TestClient) -> None:
    first, second = create(gateway, LONG), create(gateway, SHORT)
    assert cancel(gateway, second) == "canceled"
    assert reload(gateway, first)["status"] == "processing"
    assert cancel(gateway, first) == "canceled"


def test_a_prediction_that_waits_too_long_for_a_slot_fails(
    gateway: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "QUEUE_SECONDS", 0.1)
    first = create(gateway, LONG)
    failed = create(gateway, SHORT, prefer="wait")
    assert failed["status"] == "failed"
    assert failed["error"] == "the container took nothing in 0.1 s: At capacity - all prediction slots busy"
    assert cancel(gateway, first) == "canceled"


def test_what_runs_is_canceled_in_the_container_when_the_gateway_ends(one_slot: str) -> None:
    with TestClient(gateway_app(one_slot)) as gateway:
        assert create(gateway, LONG)["status"] == "starting"
    ask = {"input": SHORT}
    until(lambda: requests.post(f"{one_slot}/predictions", json=ask, timeout=10).status_code == 200)


def test_ended_predictions_are_kept_as_far_as_their_bytes_allow(one_slot: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "KEPT_BYTES", 10_000)
    with TestClient(gateway_app(one_slot)) as gateway:
        small = [create(gateway, SHORT, prefer="wait") for _ in range(3)]  # of about 4,300 bytes each
        assert [reload(gateway, one)["status"] for one in small] == [404, "succeeded", "succeeded"]
        large = create(gateway, {"texts": ["a"] * 10}, prefer="wait")
        assert [reload(gateway, one)["status"] for one in [*small, large]] == [404, 404, 404, "succeeded"]


def test_ended_predictions_are_forgotten_in_time(one_slot: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "KEPT_SECONDS", 0)
    with TestClient(gateway_app(one_slot)) as gateway:
        assert reload(gateway, create(gateway, SHORT, prefer="wait"))["status"] == 404


def test_a_webhook_that_cannot_be_reached_is_logged_without_the_text(
    gateway: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    webhook = {"webhook": "http://127.0.0.1:9/", "webhook_events_filter": ["completed"]}
    prediction = create(gateway, {"text": "marzipan"}, prefer="wait", **webhook)
    assert prediction["status"] == "succeeded"
    until(lambda: bool(caplog.records))
    assert f"the webhook of prediction {prediction['id']} was not delivered" in caplog.text
    assert "marzipan" not in caplog.text
