"""OpenAI's own clients, from PyPI and from npm, against scripts/gateway in front of the real server."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.support.clients import LONG, MANY, MODEL, PLANETS, QUESTION, assert_own, assert_same
from tests.support.javascript import JavaScript
from tests.support.servers import RunningServer

STANDARD = {"model", "input", "dimensions", "encoding_format", "user"}

SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"input": QUESTION}, {"texts": [QUESTION]}),
    ({"input": PLANETS}, {"texts": PLANETS}),
    ({"input": PLANETS, "encoding_format": "float", "user": "somebody"}, {"texts": PLANETS}),
    ({"input": PLANETS, "dimensions": 512}, {"texts": PLANETS, "embedding_dim": 512}),
    ({"input": PLANETS, "dimensions": 256}, {"texts": PLANETS, "embedding_dim": 256}),
    ({"input": PLANETS, "dimensions": 128, "encoding_format": "float"}, {"texts": PLANETS, "embedding_dim": 128}),
    ({"input": PLANETS, "model": f"google/{MODEL}"}, {"texts": PLANETS}),
    ({"input": QUESTION, "model": f"{MODEL}:retrieval_query"}, {"texts": [QUESTION], "task": "retrieval_query"}),
    ({"input": QUESTION, "task": "code_retrieval"}, {"texts": [QUESTION], "task": "code_retrieval"}),
    ({"input": QUESTION, "input_type": "query"}, {"texts": [QUESTION], "task": "retrieval_query"}),
    ({"input": PLANETS, "input_type": "document"}, {"texts": PLANETS, "task": "retrieval_document"}),
    ({"input": PLANETS, "title": "Planets"}, {"texts": PLANETS, "title": "Planets"}),
    ({"input": LONG}, {"texts": [LONG]}),
]
"""What a client sends besides the model, and the inputs of the prediction that has the same vectors."""

REFUSED: list[tuple[dict[str, Any], str, int, str | None, str | None, str]] = [
    ({"input": "a", "model": "other"}, "NotFoundError", 404, "model", "model_not_found", "the model 'other' does not"),
    ({"input": [" "]}, "BadRequestError", 400, "input", None, "input[0] is empty; every text needs at least one char"),
    ({"input": []}, "BadRequestError", 400, "input", None, "input is empty; give at least one text"),
    ({"input": [[1, 2], [3]]}, "BadRequestError", 400, "input", None, "input has token ids, which are another model's"),
    ({"input": "a", "dimensions": 300}, "BadRequestError", 400, "dimensions", None, "dimensions is 300; it must be"),
    ({"input": "a", "task": "search"}, "BadRequestError", 400, "task", None, "task is 'search'; it must be one of"),
    ({"input": "a", "title": "T", "task": "clustering"}, "BadRequestError", 400, None, None, "title goes with task"),
    (
        {"input": ["a", LONG], "truncate": False},
        *("BadRequestError", 400, "input", "context_length_exceeded"),
        "input[1] has 3,009 tokens, prompt included; the limit is 2,048",
    ),
]
"""What a client sends besides the model, and its error: class, status, param, code, and how the message begins."""


def create(client: OpenAI, **fields: Any) -> openai.types.CreateEmbeddingResponse:
    """Ask as its users do: what OpenAI has no word for goes into extra_body."""
    known = {"model": MODEL, **{name: value for name, value in fields.items() if name in STANDARD}}
    return client.embeddings.create(
        **known, extra_body={name: value for name, value in fields.items() if name not in STANDARD}
    )


@pytest.fixture
def python(gateway: str) -> OpenAI:
    return OpenAI(base_url=f"{gateway}/v1", api_key="none")


@pytest.fixture(scope="module")
def javascript(gateway: str, node_modules: Path) -> JavaScript:
    """The npm client, as `openai`; `create` asks it, and `refusal` is what its error holds."""
    before = f"""
        import OpenAI from "openai";
        const openai = new OpenAI({{ baseURL: "{gateway}/v1", apiKey: "none" }});
        const create = (fields) => openai.embeddings.create({{ model: "{MODEL}", ...fields }});
        const refusal = (error) => [error.constructor.name, error.status, error.param, error.code, error.message];
    """
    return JavaScript(node_modules, before)


@pytest.mark.parametrize(("fields", "inputs"), SAME)
def test_python_gets_the_containers_vectors(
    python: OpenAI, server: RunningServer, fields: dict[str, Any], inputs: dict[str, Any]
) -> None:
    response = create(python, **fields)
    assert [item.index for item in response.data] == list(range(len(inputs["texts"])))
    tokens = assert_same([item.embedding for item in response.data], server, **inputs)
    assert (response.usage.prompt_tokens, response.usage.total_tokens) == (tokens, tokens)
    assert response.model == fields.get("model", MODEL)


def test_javascript_gets_the_containers_vectors(javascript: JavaScript, server: RunningServer) -> None:
    program = """
        const responses = [];
        for (const fields of all) responses.push(await create(fields));
        answer(responses.map(({ data, usage }) => ({ vectors: data.map((item) => item.embedding), usage })));
    """
    for response, (_, inputs) in zip(javascript(program, all=[fields for fields, _ in SAME]), SAME, strict=True):
        assert response["usage"]["prompt_tokens"] == assert_same(response["vectors"], server, **inputs)


def test_the_asynchronous_client_gets_the_containers_vectors(gateway: str, server: RunningServer) -> None:
    async def ask() -> openai.types.CreateEmbeddingResponse:
        async with AsyncOpenAI(base_url=f"{gateway}/v1", api_key="none") as client:
            return await client.embeddings.create(model=MODEL, input=PLANETS)

    assert_same([item.embedding for item in asyncio.run(ask()).data], server, texts=PLANETS)


@pytest.mark.parametrize("dimension", [768, 256])
def test_base64_that_a_caller_asks_for_is_the_containers(python: OpenAI, server: RunningServer, dimension: int) -> None:
    response = create(python, input=PLANETS, encoding_format="base64", dimensions=dimension)
    rows = [np.frombuffer(base64.b64decode(str(item.embedding)), "<f4") for item in response.data]
    assert_same(rows, server, texts=PLANETS, embedding_dim=dimension)


@pytest.mark.slow
def test_2048_texts_each_get_their_own_vector(python: OpenAI, javascript: JavaScript, server: RunningServer) -> None:
    response = create(python, input=MANY, dimensions=128)
    program = "answer((await create({ input, dimensions: 128 })).data.map((item) => item.embedding));"
    assert_own([item.embedding for item in response.data], server, "retrieval_document")
    assert_own(javascript(program, input=MANY), server, "retrieval_document")


@pytest.mark.parametrize(("fields", "name", "status", "param", "code", "message"), REFUSED)
def test_pythons_exceptions_carry_our_message(
    python: OpenAI, fields: dict[str, Any], name: str, status: int, param: str | None, code: str | None, message: str
) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        create(python, **fields)
    error = refused.value
    assert (type(error).__name__, error.status_code, error.param, error.code) == (name, status, param, code)
    assert error.message.startswith(f"Error code: {status} - {message}")


def test_javascripts_exceptions_carry_our_message(javascript: JavaScript) -> None:
    program = """
        const errors = [];
        for (const fields of all) errors.push(await create(fields).catch(refusal));
        answer(errors);
    """
    for error, (_, *expected, message) in zip(
        javascript(program, all=[fields for fields, *_ in REFUSED]), REFUSED, strict=True
    ):
        assert error[:-1] == expected
        assert error[-1].startswith(f"{expected[1]} {message}")


def test_too_many_texts_are_refused(python: OpenAI, javascript: JavaScript) -> None:
    message = "413 - input has 2,049 texts; the limit is 2,048, so send several requests"
    with pytest.raises(openai.APIStatusError, match=message):
        create(python, input=[*MANY, "one more"])
    _, status, *_, said = javascript("answer(await create({ input }).catch(refusal));", input=[*MANY, "one more"])
    assert (status, said) == (413, message.replace(" - ", " "))


def test_the_models_are_listed_by_task(python: OpenAI, javascript: JavaScript) -> None:
    names = [model.id for model in python.models.list()]
    assert names[:3] == [MODEL, f"{MODEL}:retrieval_document", f"{MODEL}:retrieval_query"]
    assert javascript("answer((await openai.models.list()).data.map((model) => model.id));") == names
    for name in names:
        assert python.models.retrieve(name).id == name
    with pytest.raises(openai.NotFoundError, match="the model 'other' does not exist here; there is embeddinggemma"):
        python.models.retrieve("other")


def test_a_route_that_there_is_not_is_named(python: OpenAI, javascript: JavaScript) -> None:
    with pytest.raises(openai.NotFoundError, match="404 - POST /v1/chat/completions: Not Found"):
        python.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "a"}])
    program = "answer(await openai.chat.completions.create({ model: 'a', messages: [] }).catch(refusal));"
    name, status, *_, message = javascript(program)
    assert (name, status, message) == ("NotFoundError", 404, "404 POST /v1/chat/completions: Not Found")
