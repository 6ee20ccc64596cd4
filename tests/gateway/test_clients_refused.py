"""Keys and a full gateway, as each client's users see them: in its own exceptions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ollama
import openai
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from langchain_ollama import OllamaEmbeddings
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from tests.support.clients import KEY, MODEL, assert_same
from tests.support.javascript import JavaScript
from tests.support.servers import RunningServer

Ask = Callable[[str, str], Any]
"""Ask the gateway at this URL with this key for the vector of `a`."""


def _openai(gateway: str, key: str) -> Any:
    client = openai.OpenAI(base_url=f"{gateway}/v1", api_key=key, max_retries=0)
    return client.embeddings.create(model=MODEL, input="a").data[0].embedding


def _langchain_openai(gateway: str, key: str) -> Any:
    embeddings = OpenAIEmbeddings(
        model=MODEL,
        base_url=f"{gateway}/v1",
        api_key=SecretStr(key),
        check_embedding_ctx_length=False,
        max_retries=0,
    )
    return embeddings.embed_query("a")


def _huggingface(gateway: str, key: str) -> Any:
    return InferenceClient(gateway, token=key).feature_extraction("a", prompt_name="document")[0]


def _headers(key: str) -> dict[str, str]:
    """Return what Ollama's clients send a key in: they have no option for it."""
    return {"Authorization": f"Bearer {key}"}


def _ollama(gateway: str, key: str) -> Any:
    client = ollama.Client(gateway, headers=_headers(key))
    return client.embed("embeddinggemma:retrieval_document", "a").embeddings[0]


def _langchain_ollama(gateway: str, key: str) -> Any:
    model = "embeddinggemma:retrieval_document"
    options = {"headers": _headers(key)}
    return OllamaEmbeddings(model=model, base_url=gateway, client_kwargs=options).embed_query("a")


CLIENTS: dict[Ask, tuple[type[Exception], type[Exception]]] = {
    _openai: (openai.AuthenticationError, openai.RateLimitError),
    _langchain_openai: (openai.AuthenticationError, openai.RateLimitError),
    _huggingface: (HfHubHTTPError, HfHubHTTPError),
    _ollama: (ollama.ResponseError, ollama.ResponseError),
    _langchain_ollama: (ollama.ResponseError, ollama.ResponseError),
}
"""Each client with the exceptions for a wrong key, and for a gateway that is full."""


@pytest.mark.parametrize("ask", CLIENTS)
def test_a_key_opens_the_gateway(keyed_gateway: str, server: RunningServer, ask: Ask) -> None:
    assert_same([ask(keyed_gateway, KEY)], server, texts=["a"])


@pytest.mark.parametrize("ask", CLIENTS)
def test_a_wrong_key_is_said_to_be_wrong(keyed_gateway: str, ask: Ask) -> None:
    exception, _ = CLIENTS[ask]
    with pytest.raises(exception, match="the API key is wrong") as refused:
        ask(keyed_gateway, "wrong")
    assert _status(refused.value) == 401


def test_a_missing_key_is_said_to_be_missing(keyed_gateway: str) -> None:
    with pytest.raises(ollama.ResponseError, match="an API key is needed: Authorization: Bearer KEY"):
        ollama.Client(keyed_gateway).list()


def test_every_client_says_that_the_gateway_is_full(full_gateway: str) -> None:
    for ask, (_, exception) in CLIENTS.items():
        with pytest.raises(exception, match="0 requests are waiting; the limit is reached") as refused:
            ask(full_gateway, "none")
        assert _status(refused.value) == 429


def _status(error: Any) -> Any:
    return error.status_code if hasattr(error, "status_code") else error.response.status_code


JAVASCRIPT = """
import OpenAI from "openai";
import { Ollama } from "ollama";
const answers = async (baseURL, key) => {
  const openai = new OpenAI({ baseURL: `${baseURL}/v1`, apiKey: key, maxRetries: 0 });
  const ollama = new Ollama({ host: baseURL, headers: { Authorization: `Bearer ${key}` } });
  const refusal = (error) => [error.constructor.name, error.status ?? error.status_code, error.message];
  return [
    await openai.embeddings.create({ model, input: "a" }).then(({ data }) => data[0].embedding).catch(refusal),
    await ollama.embed({ model, input: "a" }).then(({ embeddings }) => embeddings[0]).catch(refusal),
  ];
};
"""


@pytest.fixture(scope="module")
def javascript(node_modules: Path) -> JavaScript:
    """`answers` gives the vectors, or what the exceptions hold, of OpenAI's and of Ollama's client."""
    return JavaScript(node_modules, JAVASCRIPT + f'const model = "{MODEL}:clustering";\n')


def test_a_key_opens_the_gateway_in_javascript(
    keyed_gateway: str, server: RunningServer, javascript: JavaScript
) -> None:
    opened, wrong = javascript(
        "answer([await answers(url, key), await answers(url, 'x')]);", url=keyed_gateway, key=KEY
    )
    for vector in opened:
        assert_same([vector], server, texts=["a"], task="clustering")
    assert wrong[0] == ["AuthenticationError", 401, "401 the API key is wrong"]
    assert wrong[1] == ["ResponseError", 401, "the API key is wrong"]


def test_a_full_gateway_is_said_to_be_full_in_javascript(full_gateway: str, javascript: JavaScript) -> None:
    full = javascript("answer(await answers(url, 'none'));", url=full_gateway)
    message = "0 requests are waiting; the limit is reached"
    assert full == [["RateLimitError", 429, f"429 {message}"], ["ResponseError", 429, message]]


def test_openais_client_reads_when_to_ask_again(full_gateway: str) -> None:
    with pytest.raises(openai.RateLimitError) as refused:
        _openai(full_gateway, "none")
    assert refused.value.response.headers["Retry-After"] == "1"
