"""scripts/replicate_gateway in front of the real server: what Replicate's own clients see, and what HTTP says."""

import asyncio
import base64
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import requests
from replicate.client import Client
from replicate.exceptions import ModelError, ReplicateError
from starlette.testclient import TestClient

from embeddinggemma.vectors import OUTPUT_DTYPES
from gateway import gateway_app
from tests.conftest import Server

MODEL = "someone/embeddinggemma-300m"
VERSION = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"
REFS = [MODEL, f"{MODEL}:{VERSION}"]
SIXTY_FOUR = [f"{number} words about {number % 7} planets" for number in range(64)]
PLANETS = {"texts": ["Mars is red.", "Venus is hot."]}
INPUTS: list[dict[str, Any]] = [
    {"text": "Mars is red."},
    {"text": "Which one is red?", "task": "retrieval_query", "output_format": "array", "embedding_dim": 128},
    {**PLANETS, "task": "retrieval_document", "title": "Planets", "output_format": "array"},
    *({**PLANETS, "output_dtype": dtype} for dtype in OUTPUT_DTYPES),
]
EMPTY, EMPTY_MESSAGE = {"text": " "}, "text is empty; every text needs at least one character that is not white space"
REFUSED = {"text": "a", "embedding_dim": 300}
REFUSED_MESSAGE = "- input.embedding_dim: 300 is not one of [768,512,256,128]\n"
LONG = {"texts": ["word " * 1500] * 1024, "output_dtype": "ubinary"}  # a minute's work, where nothing cancels it
ENDED = ("succeeded", "failed", "canceled")


@pytest.fixture
def python(gateway: str) -> Client:
    client = Client(base_url=gateway)
    client.poll_interval = 0.02
    return client


class JavaScript:
    """The npm client in Node.js, as `replicate`."""

    def __init__(self, gateway: str, node_modules: Path) -> None:
        self.node_modules = node_modules
        self.before = (
            'import Replicate from "replicate";\n'
            f'const replicate = new Replicate({{ baseUrl: "{gateway}/v1", auth: "none" }});\n'
        )

    def __call__(self, program: str, **constants: Any) -> Any:
        """Run a program that uses these constants, and return what it passes to `answer`."""
        given = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in constants.items())
        answer = "const answer = (value) => console.log(JSON.stringify(value));\n"
        finished = subprocess.run(
            ["node", "--input-type=module", "-"],
            input=self.before + given + answer + program,
            cwd=self.node_modules,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        return json.loads(finished.stdout)


@pytest.fixture(scope="module")
def javascript(gateway: str, node_modules: Path) -> JavaScript:
    return JavaScript(gateway, node_modules)


@pytest.mark.parametrize("inputs", INPUTS)
def test_both_clients_give_the_containers_answer(
    python: Client, javascript: JavaScript, server: Server, inputs: dict[str, Any]
) -> None:
    for ref in REFS:
        assert_same(python.run(ref, input=inputs), server, inputs)
    for output in javascript(
        "answer(await Promise.all(refs.map((ref) => replicate.run(ref, { input }))));", refs=REFS, input=inputs
    ):
        assert_same(output, server, inputs)


@pytest.mark.parametrize("inputs", INPUTS)
def test_pythons_async_run_gives_the_containers_answer(python: Client, server: Server, inputs: dict[str, Any]) -> None:
    async def both() -> list[Any]:
        return [await python.async_run(ref, input=inputs) for ref in REFS]

    for output in asyncio.run(both()):
        assert_same(output, server, inputs)


def assert_same(output: Any, server: Server, inputs: dict[str, Any]) -> None:
    """Assert that an output is what the container gives without a gateway, but for rounding."""
    direct = server.predict(**inputs)
    varying = {"embedding": 0, "processing_time_ms": 0}
    assert {**output, **varying} == {**direct, **varying}
    dtype = inputs.get("output_dtype", "float32")
    ours, theirs = numbers(output, dtype), numbers(direct, dtype)
    if dtype == "ubinary":
        assert (np.unpackbits(ours) == np.unpackbits(theirs)).mean() > 0.98
    else:
        step = {"float32": 1e-5, "float16": 1e-3, "int8": 1}[dtype]
        assert np.abs(ours.astype(float) - theirs).max() <= step


def numbers(output: dict[str, Any], dtype: str) -> npt.NDArray[Any]:
    if output["output_format"] == "array":
        return np.array(output["embedding"])
    types = {"float32": "<f4", "float16": "<f2", "int8": "i1", "ubinary": "u1"}
    return np.frombuffer(base64.b64decode(output["embedding"]), types[dtype]).reshape(output["shape"])


def test_64_at_once_get_each_its_own_texts_vector_in_python(python: Client, server: Server) -> None:
    async def all_at_once() -> list[Any]:
        runs = (python.async_run(MODEL, input={"text": text}) for text in SIXTY_FOUR)
        return list(await asyncio.gather(*runs))

    assert_own(asyncio.run(all_at_once()), server)


def test_64_at_once_get_each_its_own_texts_vector_in_javascript(javascript: JavaScript, server: Server) -> None:
    program = "answer(await Promise.all(texts.map((text) => replicate.run(model, { input: { text } }))));"
    assert_own(javascript(program, model=MODEL, texts=SIXTY_FOUR), server)


def assert_own(outputs: list[dict[str, Any]], server: Server) -> None:
    """Assert that each of SIXTY_FOUR got its own vector, and none of the others'."""
    expected = numbers(server.predict(texts=SIXTY_FOUR), "float32")
    vectors = np.stack([numbers(output, "float32") for output in outputs])
    assert np.abs(vectors - expected).max() < 1e-5
    assert (np.argmax(vectors @ expected.T, axis=1) == np.arange(64)).all()


@pytest.mark.parametrize("wait", [True, False])
def test_pythons_exceptions_carry_our_message(python: Client, wait: bool) -> None:
    with pytest.raises(ModelError, match=EMPTY_MESSAGE) as failed:
        python.run(MODEL, input=EMPTY, wait=wait)
    assert failed.value.prediction.status == "failed"
    with pytest.raises(ReplicateError) as refused:
        python.run(MODEL, input=REFUSED, wait=wait)
    assert refused.value.status == 422
    assert refused.value.title == "Input validation failed"
    assert refused.value.detail == REFUSED_MESSAGE


@pytest.mark.parametrize("wait", ["block", "poll"])
def test_javascripts_exceptions_carry_our_message(javascript: JavaScript, wait: str) -> None:
    program = """
      const message = (input) => replicate.run(model, { input, wait: { mode } }).catch((error) => String(error));
      answer([await message(empty), await message(refused)]);
    """
    failed, refused = javascript(program, model=MODEL, mode=wait, empty=EMPTY, refused=REFUSED)
    assert failed.startswith("Error: Prediction failed: ")
    assert EMPTY_MESSAGE in failed
    assert refused.startswith("ApiError: Request to ")
    assert "failed with status 422" in refused
    assert json.dumps(REFUSED_MESSAGE) in refused


def test_the_python_client_finds_the_gateway_by_its_variable(gateway: str) -> None:
    program = f"import replicate; print(replicate.run({MODEL!r}, input={{'text': 'a'}})['shape'])"
    printed = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "REPLICATE_BASE_URL": gateway},
        check=True,
        capture_output=True,
    )
    assert printed.stdout == b"[768]\n"


def test_a_client_that_does_not_wait_polls(python: Client, javascript: JavaScript, server: Server) -> None:
    prediction = python.predictions.create(model=MODEL, input=PLANETS)
    assert prediction.status == "starting"
    assert prediction.output is None
    prediction.wait()
    assert python.predictions.get(prediction.id).status == "succeeded"
    assert_same(prediction.output, server, PLANETS)
    program = """
      const seen = [];
      const options = { input, wait: { mode: "poll", interval: 20 } };
      const output = await replicate.run(model, options, ({ status }) => seen.push(status));
      answer({ seen, output });
    """
    polled = javascript(program, model=MODEL, input=PLANETS)
    assert polled["seen"][0] == "starting"
    assert polled["seen"][-1] == "succeeded"
    assert_same(polled["output"], server, PLANETS)


def test_a_client_that_waits_too_short_goes_on_polling(gateway: str, python: Client) -> None:
    response = create(gateway, LONG, prefer="wait=1")
    assert (response.status_code, response.json()["status"]) == (202, "starting")
    [prediction] = [one for one in python.predictions.list().results if one.id == response.json()["id"]]
    assert prediction.status == "processing"
    prediction.cancel()


def create(gateway: str, inputs: dict[str, Any], prefer: str | None = None, **body: Any) -> requests.Response:
    url = f"{gateway}/v1/models/{MODEL}/predictions"
    return requests.post(url, json={"input": inputs, **body}, headers={"Prefer": prefer} if prefer else {}, timeout=70)


def test_python_cancels_what_runs(python: Client) -> None:
    prediction = python.predictions.create(model=MODEL, input=LONG)
    prediction.cancel()
    assert prediction.status == "canceled"
    assert prediction.completed_at is not None
    assert python.predictions.get(prediction.id).status == "canceled"


def test_javascript_cancels_what_runs_by_a_signal(javascript: JavaScript) -> None:
    program = """
      const controller = new AbortController();
      const seen = [];
      const progress = ({ status }) => {
        seen.push(status);
        if (status === "processing") controller.abort();
      };
      const input = { texts: Array(1024).fill("word ".repeat(1500)) };
      const options = { input, wait: { mode: "poll", interval: 20 }, signal: controller.signal };
      answer({ output: await replicate.run(model, options, progress).catch(String), seen });
    """
    canceled = javascript(program, model=MODEL)
    assert canceled["seen"][0] == "starting"
    assert canceled["seen"][-1] == "canceled"


def test_to_cancel_what_has_ended_changes_nothing(python: Client) -> None:
    prediction = python.predictions.create(model=MODEL, input={"text": "a"})
    prediction.wait()
    before = prediction.dict()
    prediction.cancel()
    assert prediction.dict() == before


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


def test_logs_tell_of_truncation(gateway: str) -> None:
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
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as receiver:
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{receiver.server_port}/", received
        receiver.shutdown()


Webhook = tuple[str, "queue.Queue[dict[str, Any]]"]


def test_a_webhook_is_told_each_event_in_order(python: Client, webhook: Webhook) -> None:
    url, received = webhook
    prediction = python.predictions.create(model=MODEL, input={"text": "word " * 3000}, webhook=url)
    told = [received.get(timeout=30) for _ in range(4)]
    assert [one["status"] for one in told] == ["processing", "processing", "processing", "succeeded"]
    assert [one["output"] is None for one in told] == [True, False, False, False]
    assert told[-1] == requests.get(told[-1]["urls"]["get"], timeout=10).json()
    assert told[-1]["id"] == prediction.id


def test_a_webhook_is_told_no_event_that_its_filter_leaves_out(javascript: JavaScript, webhook: Webhook) -> None:
    url, received = webhook
    program = "answer((await replicate.predictions.create({ model, input, webhook, webhook_events_filter })).id);"
    identity = javascript(program, model=MODEL, input=EMPTY, webhook=url, webhook_events_filter=["completed"])
    told = received.get(timeout=30)
    assert (told["id"], told["status"]) == (identity, "failed")
    assert EMPTY_MESSAGE in told["error"]
    assert received.empty()


@pytest.mark.parametrize(
    ("body", "field", "description"),
    [
        ({"input": {"text": 5}}, "input.text", '5 is not of type "string"'),
        ({"input": "text"}, "input", '"text" is not of type "object"'),
        ({}, "", "input is required"),
        ({"input": {}, "webhook": "https://example.com/"}, "webhook", "sends webhooks to this machine only"),
        ({"input": {}, "webhook_events_filter": ["end"]}, "webhook_events_filter", "start, output, logs, completed"),
    ],
)
def test_what_cannot_be_is_refused_in_replicates_shape(
    gateway: str, body: dict[str, Any], field: str, description: str
) -> None:
    response = requests.post(f"{gateway}/v1/models/{MODEL}/predictions", json=body, timeout=10)
    told = response.json()
    assert (response.status_code, told["status"], told["title"]) == (422, 422, "Input validation failed")
    [invalid] = told["invalid_fields"]
    assert invalid["field"] == field
    assert description in invalid["description"]
    assert told["detail"] == f"- {field}: {invalid['description']}\n".replace("- : ", "- ")


def test_a_version_is_required_where_no_model_is_named(gateway: str) -> None:
    response = requests.post(f"{gateway}/v1/predictions", json={"input": {"text": "a"}}, timeout=10)
    assert (response.status_code, response.json()["detail"]) == (422, "- version is required\n")


def test_a_body_that_is_no_json_object_is_refused(gateway: str) -> None:
    for body in (b"{", b"[]"):
        response = requests.post(f"{gateway}/v1/predictions", data=body, timeout=10)
        assert (response.status_code, response.json()["status"]) == (400, 400)


def test_a_lone_surrogate_fails_the_prediction_and_nothing_else(gateway: str) -> None:
    body = '{"input": {"text": "\\ud800"}}'
    headers = {"Prefer": "wait"}
    prediction = requests.post(
        f"{gateway}/v1/models/{MODEL}/predictions", data=body, headers=headers, timeout=10
    ).json()
    assert prediction["status"] == "failed"
    assert prediction["input"] == {"text": "\ud800"}
    assert "input.text: unexpected end of hex escape" in prediction["error"]


def test_an_unknown_prediction_is_404(python: Client, javascript: JavaScript) -> None:
    with pytest.raises(ReplicateError) as unknown:
        python.predictions.get("unknown")
    assert (unknown.value.status, unknown.value.detail) == (404, "Prediction not found")
    message = javascript("answer(await replicate.predictions.cancel('unknown').catch(String));")
    assert "failed with status 404 Not Found" in message
    assert "Prediction not found" in message


def test_the_clients_can_look_up_the_model_and_its_version(
    python: Client, javascript: JavaScript, server: Server
) -> None:
    schema = requests.get(f"{server.url}/openapi.json", timeout=10).json()
    model = python.models.get(MODEL)
    assert (model.owner, model.name) == tuple(MODEL.split("/"))
    assert model.latest_version is not None
    assert model.versions.get(VERSION).id == VERSION
    [version] = model.versions.list()
    assert version.openapi_schema == schema
    owner, name = MODEL.split("/")
    assert (
        javascript(f"answer((await replicate.models.versions.get('{owner}', '{name}', 'x')).openapi_schema);") == schema
    )


def test_a_container_that_is_not_there_is_named() -> None:
    with TestClient(gateway_app("http://127.0.0.1:9")) as gateway:
        url = f"/v1/models/{MODEL}/predictions"
        prediction = gateway.post(url, json={"input": {}}, headers={"Prefer": "wait"}).json()
        assert prediction["status"] == "failed"
        assert prediction["error"].startswith("the container at http://127.0.0.1:9 did not answer: ConnectError")
        response = gateway.get("/openapi.json")
        assert (response.status_code, response.json()["title"]) == (502, "Bad Gateway")


def test_a_page_is_served_beside_the_containers_schema(server: Server, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<title>playground</title>")
    with TestClient(gateway_app(server.url, page=tmp_path)) as gateway:
        assert gateway.get("/").text == "<title>playground</title>"
        assert gateway.get("/openapi.json").content == requests.get(f"{server.url}/openapi.json", timeout=10).content
        assert gateway.get("/missing.js").json()["status"] == 404
        assert gateway.get("/v1/predictions/unknown").json()["detail"] == "Prediction not found"
