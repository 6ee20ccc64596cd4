"""huggingface_hub's client, as of a server of text-embeddings-inference, against scripts/gateway."""

import asyncio
from typing import Any

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from tests.support.clients import LONG, MANY, PLANETS, QUESTION, assert_own, assert_same
from tests.support.servers import RunningServer

SAME: list[tuple[str | list[str], dict[str, Any], dict[str, Any]]] = [
    (QUESTION, {}, {"task": "none"}),
    (PLANETS, {}, {"task": "none"}),
    (PLANETS, {"dimensions": 128}, {"task": "none", "embedding_dim": 128}),
    (PLANETS, {"normalize": False}, {"task": "none", "normalize": False}),
    (PLANETS, {"prompt_name": "document"}, {"task": "retrieval_document"}),
    (QUESTION, {"prompt_name": "query"}, {"task": "retrieval_query"}),
    (QUESTION, {"prompt_name": "STS"}, {"task": "semantic_similarity"}),
    (QUESTION, {"prompt_name": "question_answering"}, {"task": "question_answering"}),
    (LONG, {"truncate": True, "truncation_direction": "right"}, {"task": "none"}),
]
"""Texts, the options of feature_extraction, and the inputs of the prediction that has the same vectors."""

REFUSED: list[tuple[str | list[str], dict[str, Any], int, str]] = [
    (["a", " "], {}, 400, "inputs[1] is empty; every text needs at least one character"),
    ([], {}, 400, "inputs is empty; give at least one text"),
    ("a", {"dimensions": 300}, 400, "dimensions is 300; it must be one of 768, 512, 256, 128"),
    ("a", {"prompt_name": "search"}, 400, "prompt_name is 'search'; it must be one of query, document, "),
    (LONG, {}, 413, "inputs[0] has 3,003 tokens, prompt included; the limit is 2,048"),
    (LONG, {"truncate": True, "truncation_direction": "left"}, 400, "truncation_direction is 'left'; it must be one"),
    ([*MANY, "a"], {}, 413, "inputs has 2,049 texts; the limit is 2,048, so send several requests"),
]
"""Texts, the options, the status of the error, and what its message has."""


@pytest.fixture
def python(gateway: str) -> InferenceClient:
    return InferenceClient(gateway)


def _inputs(texts: str | list[str], inputs: dict[str, Any]) -> dict[str, Any]:
    return {"texts": [texts] if isinstance(texts, str) else texts, **inputs}


@pytest.mark.parametrize(("texts", "options", "inputs"), SAME)
def test_feature_extraction_gives_the_containers_vectors(
    python: InferenceClient,
    server: RunningServer,
    texts: str | list[str],
    options: dict[str, Any],
    inputs: dict[str, Any],
) -> None:
    assert_same(python.feature_extraction(texts, **options), server, **_inputs(texts, inputs))


def test_the_route_may_be_named(gateway: str, server: RunningServer) -> None:
    for client in (InferenceClient(f"{gateway}/embed"), InferenceClient(base_url=gateway)):
        assert_same(client.feature_extraction(PLANETS), server, texts=PLANETS, task="none")


def test_the_asynchronous_client_gives_the_containers_vectors(gateway: str, server: RunningServer) -> None:
    async def ask() -> Any:
        async with AsyncInferenceClient(gateway) as client:
            return await client.feature_extraction(PLANETS)

    assert_same(asyncio.run(ask()), server, texts=PLANETS, task="none")


@pytest.mark.slow
def test_2048_texts_each_get_their_own_vector(python: InferenceClient, server: RunningServer) -> None:
    assert_own(python.feature_extraction(MANY, dimensions=128), server, "none")


@pytest.mark.parametrize(("texts", "options", "status", "message"), REFUSED)
def test_its_exceptions_carry_our_message(
    python: InferenceClient, texts: str | list[str], options: dict[str, Any], status: int, message: str
) -> None:
    with pytest.raises(HfHubHTTPError) as refused:
        python.feature_extraction(texts, **options)
    assert refused.value.response.status_code == status
    assert message in str(refused.value)
