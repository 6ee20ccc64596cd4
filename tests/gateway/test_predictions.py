"""Predictions between the gateway and a real container: how they wait for a slot, end, and are kept."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from gateway.doors import predictions
from tests.support.gateways import gateway_to
from tests.support.replicate import MODEL
from tests.support.servers import HeldServer, held_server
from tools.client import wait_until
from tools.reference_model import warm_cache

PATH = f"/v1/models/{MODEL}/predictions"
SHORT = {"text": "a"}
ENDED = ("succeeded", "failed", "canceled")


@pytest.fixture(scope="module")
def one_slot(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeldServer]:
    """A container that takes one prediction at a time, and can be held."""
    folder = tmp_path_factory.mktemp("one-slot")
    with held_server(folder, warm_cache(small_model, folder / "cache"), slots=1) as started:
        yield started


def one_slot_gateway(one_slot: HeldServer) -> ASGIApp:
    return gateway_to(one_slot.url, max_at_once=1, webhook_hosts=("127.0.0.1",))


@pytest.fixture
def gateway(one_slot: HeldServer) -> Iterator[TestClient]:
    with TestClient(one_slot_gateway(one_slot)) as client:
        yield client


def create(gateway: TestClient, inputs: dict[str, Any], prefer: str = "", **body: Any) -> dict[str, Any]:
    answer: dict[str, Any] = gateway.post(PATH, json={"input": inputs, **body}, headers={"Prefer": prefer}).json()
    return answer


def reload(gateway: TestClient, prediction: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = gateway.get(f"/v1/predictions/{prediction['id']}").json()
    return answer


def cancel(gateway: TestClient, prediction: dict[str, Any]) -> str:
    return str(gateway.post(f"/v1/predictions/{prediction['id']}/cancel").json()["status"])


def create_held(gateway: TestClient, held: HeldServer) -> dict[str, Any]:
    """Create a prediction in a held container, and return it once it waits there."""
    prediction = create(gateway, SHORT)
    wait_until(lambda: held.waiting() == 1)
    return prediction


def test_a_prediction_waits_for_a_slot_and_gets_that_of_a_canceled_prediction(
    gateway: TestClient, one_slot: HeldServer
) -> None:
    with one_slot.held():
        first = create_held(gateway, one_slot)
        second = create(gateway, SHORT)
        assert reload(gateway, second)["status"] not in ENDED
        assert reload(gateway, first)["status"] == "processing"
        assert cancel(gateway, first) == "canceled"
    wait_until(lambda: reload(gateway, second)["status"] in ENDED)
    assert reload(gateway, second)["status"] == "succeeded"


def test_a_prediction_that_waits_for_a_slot_can_be_canceled(gateway: TestClient, one_slot: HeldServer) -> None:
    with one_slot.held():
        first = create_held(gateway, one_slot)
        second = create(gateway, SHORT)
        assert cancel(gateway, second) == "canceled"
        assert reload(gateway, first)["status"] == "processing"
        assert cancel(gateway, first) == "canceled"


def test_a_running_prediction_is_canceled_in_the_container_when_the_gateway_ends(
    one_slot: HeldServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "DRAIN_TIMEOUT", 0.1)
    with one_slot.held():
        with TestClient(one_slot_gateway(one_slot)) as gateway:
            assert create_held(gateway, one_slot)["status"] == "starting"
        wait_until(lambda: one_slot.waiting() == 0)
    wait_until(lambda: one_slot.post(**SHORT).status == 200)  # the slot is free a moment after the prediction has ended


def test_ended_predictions_are_kept_up_to_a_number_of_bytes(
    one_slot: HeldServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "MAX_BYTES", 10_000)
    with TestClient(one_slot_gateway(one_slot)) as gateway:
        small = [create(gateway, SHORT, prefer="wait") for _ in range(3)]  # of about 4,300 bytes each
        assert [reload(gateway, prediction)["status"] for prediction in small] == [404, "succeeded", "succeeded"]
        large = create(gateway, {"texts": ["a"] * 10}, prefer="wait")
        statuses = [reload(gateway, prediction)["status"] for prediction in [*small, large]]
        assert statuses == [404, 404, 404, "succeeded"]


def test_ended_predictions_are_forgotten_in_time(one_slot: HeldServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "MAX_AGE", 0)
    with TestClient(one_slot_gateway(one_slot)) as gateway:
        assert reload(gateway, create(gateway, SHORT, prefer="wait"))["status"] == 404


def test_a_webhook_that_cannot_be_reached_is_logged_without_the_text(
    gateway: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    webhook = {"webhook": "http://127.0.0.1:9/", "webhook_events_filter": ["completed"]}
    prediction = create(gateway, {"text": "marzipan"}, prefer="wait", **webhook)
    assert prediction["status"] == "succeeded"
    wait_until(lambda: bool(caplog.records))
    assert f"the webhook of prediction {prediction['id']} was not delivered" in caplog.text
    assert "marzipan" not in caplog.text
