"""LiteLLM, asking OpenAI's door, vLLM's (the same) and Ollama's of scripts/gateway in front of the real server."""

from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

from tests.support.clients import KEY, LONG, MODEL, PLANETS, QUESTION, assert_same
from tests.support.servers import RunningServer

pytestmark = [
    pytest.mark.slow,  # LiteLLM takes seconds to import, so that is done by a fixture
    pytest.mark.filterwarnings("ignore:.*the `ReadOnly` qualifier:UserWarning"),  # of its types of Ollama's messages
]


@pytest.fixture(scope="module")
def litellm() -> ModuleType:
    """LiteLLM, which would fetch a list of prices otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        return import_module("litellm")


SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"model": f"openai/{MODEL}", "input": QUESTION}, {"texts": [QUESTION]}),
    ({"model": f"openai/{MODEL}", "input": PLANETS}, {"texts": PLANETS}),
    ({"model": f"hosted_vllm/{MODEL}", "input": PLANETS}, {"texts": PLANETS}),
    (
        {"model": f"openai/{MODEL}", "input": PLANETS, "dimensions": 256, "allowed_openai_params": ["dimensions"]},
        {"texts": PLANETS, "embedding_dim": 256},
    ),
    ({"model": f"openai/{MODEL}", "input": PLANETS, "task": "clustering"}, {"texts": PLANETS, "task": "clustering"}),
    (
        {"model": f"openai/{MODEL}", "input": QUESTION, "input_type": "query"},
        {"texts": [QUESTION], "task": "retrieval_query"},
    ),
    (
        {"model": f"openai/{MODEL}:retrieval_query", "input": QUESTION},
        {"texts": [QUESTION], "task": "retrieval_query"},
    ),
    ({"model": "ollama/embeddinggemma", "input": PLANETS}, {"texts": PLANETS, "task": "none"}),
    (
        {"model": "ollama/embeddinggemma:retrieval_query", "input": [QUESTION], "dimensions": 128},
        {"texts": [QUESTION], "task": "retrieval_query", "embedding_dim": 128},
    ),
]
"""What a caller gives, and the inputs of the prediction that has the same vectors."""

REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"model": f"openai/{MODEL}", "input": ["a", ""]}, "BadRequestError", "input[1] is empty"),
    ({"model": "openai/other", "input": "a"}, "NotFoundError", "the model 'other' does not exist here"),
    (
        {"model": f"openai/{MODEL}", "input": LONG, "truncate": False},
        *("BadRequestError", "input[0] has 3,009 tokens"),
    ),
    ({"model": "ollama/embeddinggemma", "input": ["a", ""]}, "BadRequestError", "input[1] is empty"),
    ({"model": "ollama/other", "input": ["a"]}, "NotFoundError", "the model 'other' does not exist here"),
]
"""What a caller gives, the class of the exception, and what its message has."""


def _embed(litellm: ModuleType, gateway: str, **given: Any) -> Any:
    base = gateway if given["model"].startswith("ollama/") else f"{gateway}/v1"
    return litellm.embedding(api_base=base, api_key="none", **given)


@pytest.mark.parametrize(("given", "inputs"), SAME)
def test_embedding_gives_the_containers_vectors(
    litellm: ModuleType, gateway: str, server: RunningServer, given: dict[str, Any], inputs: dict[str, Any]
) -> None:
    response = _embed(litellm, gateway, **given)
    tokens = assert_same([item["embedding"] for item in response.data], server, **inputs)
    assert response.usage.prompt_tokens == tokens


@pytest.mark.parametrize(("given", "name", "message"), REFUSED)
def test_its_exceptions_carry_our_message(
    litellm: ModuleType, gateway: str, given: dict[str, Any], name: str, message: str
) -> None:
    with pytest.raises(getattr(litellm, name)) as refused:
        _embed(litellm, gateway, **given)
    assert type(refused.value).__name__ == name
    assert message in str(refused.value)


def test_a_wrong_key_is_an_authentication_error(litellm: ModuleType, keyed_gateway: str, server: RunningServer) -> None:
    for model in (f"openai/{MODEL}", "ollama/embeddinggemma:retrieval_document"):
        base = keyed_gateway if model.startswith("ollama/") else f"{keyed_gateway}/v1"
        [item] = litellm.embedding(model=model, input=["a"], api_base=base, api_key=KEY).data
        assert_same([item["embedding"]], server, texts=["a"])
        with pytest.raises(litellm.AuthenticationError, match="the API key is wrong"):
            litellm.embedding(model=model, input=["a"], api_base=base, api_key="wrong")


def test_a_full_gateway_is_a_rate_limit_error(litellm: ModuleType, full_gateway: str) -> None:
    with pytest.raises(litellm.RateLimitError, match="0 requests are waiting; the limit is reached"):
        _embed(litellm, full_gateway, model=f"openai/{MODEL}", input="a", max_retries=0)
    with pytest.raises(litellm.RateLimitError, match="0 requests are waiting; the limit is reached"):
        _embed(litellm, full_gateway, model="ollama/embeddinggemma", input=["a"])
