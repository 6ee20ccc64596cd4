"""Ollama's own clients, from PyPI and from npm, against scripts/gateway in front of the real server."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from ollama import AsyncClient, Client, ResponseError

from embeddinggemma.prompts import TASKS
from tests.support.clients import LONG, MANY, PLANETS, QUESTION, assert_own, assert_same
from tests.support.javascript import JavaScript
from tests.support.servers import RunningServer

SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"input": QUESTION}, {"texts": [QUESTION], "task": "none"}),
    ({"input": PLANETS}, {"texts": PLANETS, "task": "none"}),
    ({"input": PLANETS, "dimensions": 256}, {"texts": PLANETS, "task": "none", "embedding_dim": 256}),
    ({"input": PLANETS, "options": {"num_ctx": 2048}, "keep_alive": "5m"}, {"texts": PLANETS, "task": "none"}),
    ({"input": PLANETS, "model": "embeddinggemma:latest"}, {"texts": PLANETS, "task": "none"}),
    ({"input": PLANETS, "model": "embeddinggemma:300m"}, {"texts": PLANETS, "task": "none"}),
    ({"input": QUESTION, "model": "embeddinggemma:retrieval_query"}, {"texts": [QUESTION], "task": "retrieval_query"}),
    ({"input": PLANETS, "model": "embeddinggemma-300m:clustering"}, {"texts": PLANETS, "task": "clustering"}),
    ({"input": LONG}, {"texts": [LONG], "task": "none"}),
]
"""What a client sends, and the inputs of the prediction that has the same vectors."""

REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"input": "a", "model": "nomic-embed-text"}, 404, "the model 'nomic-embed-text' does not exist here; there is"),
    ({"input": ["a", " "]}, 400, "input[1] is empty; every text needs at least one character"),
    ({"input": "a", "dimensions": 300}, 400, "dimensions is 300; it must be one of 768, 512, 256, 128"),
    ({"input": LONG, "truncate": False}, 400, "input[0] has 3,003 tokens, prompt included; the limit is 2,048"),
    ({"input": [*MANY, "a"]}, 413, "input has 2,049 texts; the limit is 2,048, so send several requests"),
]
"""What a client sends, the status of its error, and how the message begins."""


def _embed(client: Client, **fields: Any) -> Any:
    return client.embed(**{"model": "embeddinggemma", **fields})


@pytest.fixture
def python(gateway: str) -> Client:
    return Client(gateway)


@pytest.fixture(scope="module")
def javascript(gateway: str, node_modules: Path) -> JavaScript:
    """The npm client, as `ollama`; `embed` asks it, and `refusal` is what its error holds."""
    before = f"""
        import {{ Ollama }} from "ollama";
        const ollama = new Ollama({{ host: "{gateway}" }});
        const embed = (fields) => ollama.embed({{ model: "embeddinggemma", ...fields }});
        const refusal = (error) => [error.name, error.status_code, error.message];
    """
    return JavaScript(node_modules, before)


@pytest.mark.parametrize(("fields", "inputs"), SAME)
def test_python_gets_the_containers_vectors(
    python: Client, server: RunningServer, fields: dict[str, Any], inputs: dict[str, Any]
) -> None:
    response = _embed(python, **fields)
    assert response.prompt_eval_count == assert_same(response.embeddings, server, **inputs)
    assert response.model == fields.get("model", "embeddinggemma")
    assert response.total_duration > 0


def test_javascript_gets_the_containers_vectors(javascript: JavaScript, server: RunningServer) -> None:
    program = """
        const responses = [];
        for (const fields of all) responses.push(await embed(fields));
        answer(responses);
    """
    for response, (_, inputs) in zip(javascript(program, all=[fields for fields, _ in SAME]), SAME, strict=True):
        assert response["prompt_eval_count"] == assert_same(response["embeddings"], server, **inputs)


def test_the_asynchronous_client_gets_the_containers_vectors(gateway: str, server: RunningServer) -> None:
    response = asyncio.run(AsyncClient(gateway).embed("embeddinggemma", PLANETS))
    assert_same(response.embeddings, server, texts=PLANETS, task="none")


def test_the_older_form_gives_one_vector(python: Client, javascript: JavaScript, server: RunningServer) -> None:
    assert_same([python.embeddings("embeddinggemma", "a").embedding], server, texts=["a"], task="none")
    program = "answer([(await ollama.embeddings({ model: 'embeddinggemma', prompt: 'a' })).embedding]);"
    assert_same(javascript(program), server, texts=["a"], task="none")


def test_no_text_gives_no_vector(python: Client) -> None:
    assert _embed(python, input=[]).embeddings == []
    assert _embed(python, input="").embeddings == []
    assert python.embeddings("embeddinggemma", "").embedding == []


@pytest.mark.slow
def test_2048_texts_each_get_their_own_vector(python: Client, server: RunningServer) -> None:
    assert_own(_embed(python, input=MANY, dimensions=128).embeddings, server, "none")


@pytest.mark.parametrize(("fields", "status", "message"), REFUSED)
def test_pythons_exceptions_carry_our_message(
    python: Client, fields: dict[str, Any], status: int, message: str
) -> None:
    with pytest.raises(ResponseError) as refused:
        _embed(python, **fields)
    assert refused.value.status_code == status
    assert refused.value.error.startswith(message)


def test_javascripts_exceptions_carry_our_message(javascript: JavaScript) -> None:
    program = """
        const errors = [];
        for (const fields of all) errors.push(await embed(fields).catch(refusal));
        answer(errors);
    """
    for error, (_, status, message) in zip(
        javascript(program, all=[fields for fields, *_ in REFUSED]), REFUSED, strict=True
    ):
        assert error[:2] == ["ResponseError", status]
        assert error[2].startswith(message)


def test_the_model_is_listed_with_its_tasks_and_can_be_pulled(python: Client, javascript: JavaScript) -> None:
    names = [str(model.model) for model in python.list().models]
    assert names == [f"embeddinggemma:{variant}" for variant in ("latest", "300m", *TASKS)]
    assert javascript("answer((await ollama.list()).models.map((model) => model.name));") == names
    for name in ("embeddinggemma", names[-1]):
        shown = python.show(name)
        assert shown.capabilities == ["embedding"]
        assert shown.modelinfo is not None
        assert shown.modelinfo["gemma3.embedding_length"] == 768
        assert python.pull(name).status == "success"
        assert [progress.status for progress in python.pull(name, stream=True)] == ["success"]
    with pytest.raises(ResponseError, match="the model 'llama3' does not exist here"):
        python.pull("llama3")
    assert javascript("answer((await ollama.pull({ model: 'embeddinggemma' })).status);") == "success"


def test_a_route_that_there_is_not_is_named(python: Client) -> None:
    with pytest.raises(ResponseError, match="POST /api/generate: Not Found"):
        python.generate("embeddinggemma", "a")
