"""Replicate's own clients, from PyPI and from npm, against scripts/gateway in front of the real server."""

import asyncio
import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import requests
from replicate.client import Client
from replicate.exceptions import ModelError, ReplicateError

from embeddinggemma.vectors import OUTPUT_DTYPES
from tests.support.javascript import JavaScript
from tests.support.replicate import MODEL, VERSION
from tests.support.servers import HeldServer, RunningServer, running_gateway
from tools import SCRIPTS
from tools.client import wait_until

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


@pytest.fixture
def python(gateway: str) -> Client:
    client = Client(base_url=gateway)
    client.poll_interval = 0.02
    return client


@pytest.fixture(scope="module")
def javascript(gateway: str, node_modules: Path) -> JavaScript:
    return _javascript(gateway, node_modules)


def _javascript(gateway: str, node_modules: Path) -> JavaScript:
    """Return the npm client, as `replicate`."""
    before = (
        'import Replicate from "replicate";\n'
        f'const replicate = new Replicate({{ baseUrl: "{gateway}/v1", auth: "none" }});\n'
    )
    return JavaScript(node_modules, before)


@pytest.mark.parametrize("inputs", INPUTS)
def test_both_clients_give_the_containers_answer(
    python: Client, javascript: JavaScript, server: RunningServer, inputs: dict[str, Any]
) -> None:
    for ref in REFS:
        assert_same(python.run(ref, input=inputs), server, inputs)
    for output in javascript(
        "answer(await Promise.all(refs.map((ref) => replicate.run(ref, { input }))));", refs=REFS, input=inputs
    ):
        assert_same(output, server, inputs)


@pytest.mark.parametrize("inputs", INPUTS)
def test_pythons_async_run_gives_the_containers_answer(
    python: Client, server: RunningServer, inputs: dict[str, Any]
) -> None:
    async def both() -> list[Any]:
        return [await python.async_run(ref, input=inputs) for ref in REFS]

    for output in asyncio.run(both()):
        assert_same(output, server, inputs)


def assert_same(output: Any, server: RunningServer, inputs: dict[str, Any]) -> None:
    """Assert that an output is the container's own without a gateway, except for rounding."""
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


def test_64_requests_at_once_each_get_their_own_vector_in_python(python: Client, server: RunningServer) -> None:
    async def all_at_once() -> list[Any]:
        runs = (python.async_run(MODEL, input={"text": text}) for text in SIXTY_FOUR)
        return list(await asyncio.gather(*runs))

    assert_own(asyncio.run(all_at_once()), server)


def test_64_requests_at_once_each_get_their_own_vector_in_javascript(
    javascript: JavaScript, server: RunningServer
) -> None:
    program = "answer(await Promise.all(texts.map((text) => replicate.run(model, { input: { text } }))));"
    assert_own(javascript(program, model=MODEL, texts=SIXTY_FOUR), server)


def assert_own(outputs: list[dict[str, Any]], server: RunningServer) -> None:
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


def test_a_client_that_does_not_wait_polls(python: Client, javascript: JavaScript, server: RunningServer) -> None:
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


@pytest.fixture
def held_gateway(held: HeldServer) -> Iterator[str]:
    """The URL of a gateway in front of a held server, whose predictions do not end by themselves."""
    with (
        running_gateway([SCRIPTS / "gateway", "--container", held.url, "--port", "0"]) as (url, _),
        held.held(),
    ):
        yield url


def test_python_cancels_a_running_prediction(held_gateway: str, held: HeldServer) -> None:
    python = Client(base_url=held_gateway)
    prediction = python.predictions.create(model=MODEL, input=PLANETS)
    wait_until(lambda: held.waiting() == 1)  # the server may lose a cancel that comes before its worker has begun
    prediction.cancel()
    assert prediction.status == "canceled"
    assert prediction.completed_at is not None
    assert python.predictions.get(prediction.id).status == "canceled"


def test_javascript_cancels_a_running_prediction_by_a_signal(
    held_gateway: str, held: HeldServer, node_modules: Path
) -> None:
    javascript = _javascript(held_gateway, node_modules)
    program = """
      const { readFileSync } = await import("node:fs");
      const begun = () => readFileSync(events, "utf8").split("begun").length - 1;
      const controller = new AbortController();
      const seen = [];
      const progress = ({ status }) => {
        seen.push(status);
        if (begun() > before) controller.abort();
      };
      const options = { input, wait: { mode: "poll", interval: 20 }, signal: controller.signal };
      answer({ output: await replicate.run(model, options, progress).catch(String), seen });
    """
    canceled = javascript(program, model=MODEL, input=PLANETS, events=str(held.events), before=held.begun())
    assert canceled["seen"][0] == "starting"
    assert canceled["seen"][-1] == "canceled"


def test_cancelling_an_ended_prediction_changes_nothing(python: Client) -> None:
    prediction = python.predictions.create(model=MODEL, input={"text": "a"})
    prediction.wait()
    before = prediction.dict()
    prediction.cancel()
    assert prediction.dict() == before


def test_an_unknown_prediction_is_404(python: Client, javascript: JavaScript) -> None:
    with pytest.raises(ReplicateError) as unknown:
        python.predictions.get("unknown")
    assert (unknown.value.status, unknown.value.detail) == (404, "Prediction not found")
    message = javascript("answer(await replicate.predictions.cancel('unknown').catch(String));")
    assert "failed with status 404 Not Found" in message
    assert "Prediction not found" in message


def test_the_clients_can_look_up_the_model_and_its_version(
    python: Client, javascript: JavaScript, server: RunningServer
) -> None:
    schema = requests.get(f"{server.url}/openapi.json", timeout=600).json()
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


FILE = "".join(f"{json.dumps(text)}\n" for text in SIXTY_FOUR)


def test_pythons_client_uploads_a_file_of_texts_and_reads_the_vectors(
    python: Client, server: RunningServer, tmp_path: Path
) -> None:
    (tmp_path / "texts.jsonl").write_text(FILE)
    with (tmp_path / "texts.jsonl").open("rb") as file:
        output: Any = python.run(MODEL, input={"texts_file": file})
    vectors = np.load(io.BytesIO(output["file"].read()))
    assert np.abs(vectors - numbers(server.predict(texts=SIXTY_FOUR), "float32")).max() < 1e-5


def test_javascripts_client_uploads_a_file_of_texts_and_reads_the_vectors(
    javascript: JavaScript, server: RunningServer
) -> None:
    program = """
      const output = await replicate.run(model, { input: { texts_file: new Blob([content]) } });
      const vectors = await output.file.blob();
      answer({ shape: output.shape, vectors: Buffer.from(await vectors.arrayBuffer()).toString("base64") });
    """
    answer = javascript(program, model=MODEL, content=FILE)
    vectors = np.load(io.BytesIO(base64.b64decode(answer["vectors"])))
    assert list(vectors.shape) == answer["shape"]
    assert np.abs(vectors - numbers(server.predict(texts=SIXTY_FOUR), "float32")).max() < 1e-5
