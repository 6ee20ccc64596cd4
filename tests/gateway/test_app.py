"""scripts/gateway in front of the real server, over plain HTTP: shapes, refusals, webhooks."""

import json
import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from starlette.testclient import TestClient

from tests.support.gateways import gateway_to
from tests.support.replicate import MODEL, VERSION
from tests.support.servers import HeldServer, RunningServer, running_gateway
from tools import SCRIPTS
from tools.client import wait_until

PATH = f"/v1/models/{MODEL}/predictions"


def create(gateway: str, inputs: dict[str, Any], prefer: str | None = None, **body: Any) -> requests.Response:
    url = f"{gateway}{PATH}"
    return requests.post(url, json={"input": inputs, **body}, headers={"Prefer": prefer} if prefer else {}, timeout=600)


def test_a_client_that_does_not_wait_long_enough_can_poll(held: HeldServer) -> None:
    with TestClient(gateway_to(held.url)) as gateway, held.held():
        response = gateway.post(PATH, json={"input": {"text": "a"}}, headers={"Prefer": "wait=1"})
        created = response.json()
        assert (response.status_code, created["status"]) == (202, "starting")
        wait_until(lambda: held.waiting() == 1)
        wait_until(lambda: gateway.get(created["urls"]["get"]).json()["status"] == "processing")
        assert gateway.post(created["urls"]["cancel"]).json()["status"] == "canceled"


def test_an_unknown_prediction_is_404(gateway: str) -> None:
    for response in (
        requests.get(f"{gateway}/v1/predictions/unknown", timeout=600),
        requests.post(f"{gateway}/v1/predictions/unknown/cancel", timeout=600),
    ):
        expected = {"title": "Not Found", "detail": "Prediction not found", "status": 404}
        assert (response.status_code, response.json()) == (404, expected)


def test_predictions_are_listed_newest_first(gateway: str) -> None:
    created = [create(gateway, {"text": "a"}).json()["id"] for _ in range(2)]
    listed = requests.get(f"{gateway}/v1/predictions", timeout=600).json()
    assert [prediction["id"] for prediction in listed["results"][:2]] == created[::-1]
    assert listed["next"] is None


def test_a_prediction_has_replicates_shape(gateway: str) -> None:
    prediction = create(gateway, {"text": "a"}, prefer="wait").json()
    url = f"{gateway}/v1/predictions/{prediction['id']}"
    assert prediction["output"].pop("shape") == [768]
    assert prediction["metrics"]["tokens"] == 9
    assert prediction["created_at"] < prediction["started_at"] < prediction["completed_at"]
    assert 0 < prediction["metrics"]["predict_time"] < prediction["metrics"]["total_time"]
    del prediction["output"], prediction["metrics"], prediction["id"]
    del prediction["created_at"], prediction["started_at"], prediction["completed_at"]
    assert prediction == {
        "model": MODEL,
        "version": "local",
        "status": "succeeded",
        "input": {"text": "a"},
        "error": None,
        "logs": "",
        "data_removed": False,
        "urls": {"get": url, "cancel": f"{url}/cancel"},
    }


def test_a_version_may_name_its_model(gateway: str) -> None:
    for version, model in ((VERSION, "local/container"), (f"{MODEL}:{VERSION}", MODEL)):
        body = {"version": version, "input": {"text": "a"}}
        prediction = requests.post(f"{gateway}/v1/predictions", json=body, timeout=600).json()
        assert (prediction["model"], prediction["version"]) == (model, VERSION)


def test_logs_report_truncation(gateway: str) -> None:
    prediction = create(gateway, {"text": "word " * 3000}, prefer="wait").json()
    assert prediction["logs"] == "texts[0] has 3,009 tokens; the first 2,048 were kept\n"


@pytest.fixture
def webhook() -> Iterator[tuple[str, "queue.Queue[dict[str, Any]]"]]:
    """A server's URL, and the bodies that are posted to it."""
    received: queue.Queue[dict[str, Any]] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as receiver:
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{receiver.server_port}/", received
        receiver.shutdown()


Webhook = tuple[str, "queue.Queue[dict[str, Any]]"]


def test_a_webhook_gets_each_event_in_order(gateway: str, webhook: Webhook) -> None:
    url, received = webhook
    prediction = create(gateway, {"text": "word " * 3000}, webhook=url).json()
    events = [received.get(timeout=600) for _ in range(4)]
    assert [event["status"] for event in events] == ["processing", "processing", "processing", "succeeded"]
    assert [event["output"] is None for event in events] == [True, False, False, False]
    assert events[-1] == requests.get(events[-1]["urls"]["get"], timeout=600).json()
    assert events[-1]["id"] == prediction["id"]


def test_a_webhook_gets_no_event_that_its_filter_leaves_out(gateway: str, webhook: Webhook) -> None:
    url, received = webhook
    prediction = create(gateway, {"text": " "}, webhook=url, webhook_events_filter=["completed"]).json()
    event = received.get(timeout=600)
    assert (event["id"], event["status"]) == (prediction["id"], "failed")
    assert "text is empty" in event["error"]
    assert received.empty()


@pytest.mark.parametrize(
    ("body", "field", "description"),
    [
        ({"input": {"text": 5}}, "input.text", '5 is not of type "string"'),
        ({"input": "text"}, "input", '"text" is not of type "object"'),
        ({}, "", "input is required"),
        ({"input": {}, "webhook_events_filter": ["end"]}, "webhook_events_filter", "start, output, logs, completed"),
    ],
)
def test_a_bad_request_is_refused_in_replicates_shape(
    gateway: str, body: dict[str, Any], field: str, description: str
) -> None:
    response = requests.post(f"{gateway}/v1/models/{MODEL}/predictions", json=body, timeout=600)
    answer = response.json()
    assert (response.status_code, answer["status"], answer["title"]) == (422, 422, "Input validation failed")
    [invalid] = answer["invalid_fields"]
    assert invalid["field"] == field
    assert description in invalid["description"]
    assert answer["detail"] == f"- {field}: {invalid['description']}\n".replace("- : ", "- ")


def test_a_version_is_required_if_no_model_is_named(gateway: str) -> None:
    response = requests.post(f"{gateway}/v1/predictions", json={"input": {"text": "a"}}, timeout=600)
    assert (response.status_code, response.json()["detail"]) == (422, "- version is required\n")


def test_a_body_that_is_not_a_json_object_is_refused(gateway: str) -> None:
    for body in (b"{", b"[]"):
        response = requests.post(f"{gateway}/v1/predictions", data=body, timeout=600)
        assert (response.status_code, response.json()["status"]) == (400, 400)


def test_a_webhook_to_a_host_that_was_not_named_is_refused(gateway: str) -> None:
    for webhook in ("https://example.com/", "http://127.0.0.1@example.com/", "file:///etc/passwd", 5, "http://["):
        response = create(gateway, {"text": "a"}, webhook=webhook)
        assert response.status_code == 422
        assert response.json()["detail"].endswith("that this gateway allows (--webhook-host): 127.0.0.1")


def test_a_lone_surrogate_is_refused(gateway: str) -> None:
    response = requests.post(f"{gateway}{PATH}", data='{"input": {"text": "\\ud800"}}', timeout=600)
    assert response.status_code == 400
    assert response.json()["detail"] == "input.text has a lone surrogate; send valid Unicode"


def test_no_text_is_logged(server: RunningServer) -> None:
    with running_gateway([SCRIPTS / "gateway", "--container", server.url, "--port", "0"]) as (url, process):
        for inputs in ({"text": "marzipan"}, {"text": ["marzipan"]}, {"text": "marzipan", "texts": ["marzipan"]}):
            assert "marzipan" in create(url, inputs, prefer="wait").text
        process.terminate()
        _, log = process.communicate(timeout=600)
    assert "Finished server process" in log
    assert "marzipan" not in log


def test_a_container_that_is_not_there_is_named() -> None:
    with TestClient(gateway_to("http://127.0.0.1:9")) as gateway:
        url = f"/v1/models/{MODEL}/predictions"
        reason = "no container can answer: http://127.0.0.1:9 (it does not answer: ClientConnectorError)"
        for response in (
            gateway.post(url, json={"input": {}}, headers={"Prefer": "wait"}),
            gateway.post(url, json={"input": {}}),
            gateway.get("/openapi.json"),
        ):
            assert (response.status_code, response.json()["detail"]) == (503, reason)
            assert response.headers["Retry-After"] == "2"


def test_a_page_is_served_together_with_the_containers_schema(server: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<title>playground</title>")
    with TestClient(gateway_to(server.url, page=str(tmp_path))) as gateway:
        assert gateway.get("/").text == "<title>playground</title>"
        assert gateway.get("/openapi.json").content == requests.get(f"{server.url}/openapi.json", timeout=600).content
        assert gateway.get("/missing.js").status_code == 404
        assert gateway.get("/v1/predictions/unknown").json()["detail"] == "Prediction not found"
