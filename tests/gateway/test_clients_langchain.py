"""LangChain's embedding classes for OpenAI and Ollama, against scripts/gateway in front of the real server."""

import asyncio
from pathlib import Path
from typing import Any

import ollama
import openai
import pytest
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_ollama import OllamaEmbeddings
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr, ValidationError

from langchain_search import EmbeddingGemma
from tests.support.clients import LONG, MODEL, PLANETS, QUESTION, assert_same
from tests.support.servers import RunningServer


def _openai(gateway: str, **options: Any) -> OpenAIEmbeddings:
    given: dict[str, Any] = {"model": MODEL, "api_key": "none", "check_embedding_ctx_length": False, **options}
    return OpenAIEmbeddings(base_url=f"{gateway}/v1", **given)


def test_openais_class_gives_the_containers_vectors(gateway: str, server: RunningServer) -> None:
    embeddings = _openai(gateway)
    assert_same(embeddings.embed_documents(PLANETS), server, texts=PLANETS)
    assert_same([embeddings.embed_query(QUESTION)], server, texts=[QUESTION])
    assert_same(asyncio.run(embeddings.aembed_documents(PLANETS)), server, texts=PLANETS)
    smaller = _openai(gateway, dimensions=256)
    assert_same(smaller.embed_documents(PLANETS), server, texts=PLANETS, embedding_dim=256)


def test_openais_class_can_name_the_task(gateway: str, server: RunningServer) -> None:
    query = {"texts": [QUESTION], "task": "retrieval_query"}
    assert_same([_openai(gateway, model=f"{MODEL}:retrieval_query").embed_query(QUESTION)], server, **query)
    assert_same([_openai(gateway).embed_query(QUESTION, model=f"{MODEL}:retrieval_query")], server, **query)
    embeddings = _openai(gateway, model_kwargs={"extra_body": {"task": "clustering"}})
    assert_same(embeddings.embed_documents(PLANETS), server, texts=PLANETS, task="clustering")


def test_the_examples_class_gives_queries_their_own_task(gateway: str, server: RunningServer) -> None:
    embeddings = EmbeddingGemma(
        model=MODEL, base_url=f"{gateway}/v1", api_key=SecretStr("none"), check_embedding_ctx_length=False
    )
    assert_same(embeddings.embed_documents(PLANETS), server, texts=PLANETS, task="retrieval_document")
    retriever = InMemoryVectorStore.from_texts(PLANETS, embeddings).as_retriever(search_kwargs={"k": 1})
    best = server.embed(PLANETS, "retrieval_document") @ server.embed([QUESTION], "retrieval_query")[0]
    for [document] in (retriever.invoke(QUESTION), asyncio.run(retriever.ainvoke(QUESTION))):
        assert document.page_content == PLANETS[int(best.argmax())]
    assert_same([embeddings.embed_query(QUESTION)], server, texts=[QUESTION], task="retrieval_query")


def test_openais_class_sends_its_texts_in_chunks(gateway: str, server: RunningServer) -> None:
    vectors = _openai(gateway, chunk_size=2).embed_documents(PLANETS)
    assert_same(vectors[:2], server, texts=PLANETS[:2])
    assert_same(vectors[2:], server, texts=PLANETS[2:])


@pytest.fixture
def tiktoken_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The token ids of OpenAI's models, which langchain-openai downloads otherwise; LlamaIndex comes with a copy."""
    import llama_index.core

    folder = Path(llama_index.core.__file__).parent / "_static" / "tiktoken_cache"
    assert any(folder.iterdir())
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(folder))


@pytest.mark.slow
@pytest.mark.usefixtures("tiktoken_cache")
def test_openais_class_sends_token_ids_by_default_and_our_error_names_its_option(gateway: str) -> None:
    with pytest.raises(openai.BadRequestError, match=r"token ids, .*OpenAIEmbeddings .*check_embedding_ctx_length=Fal"):
        _openai(gateway, check_embedding_ctx_length=True).embed_documents(PLANETS)


def test_openais_class_raises_openais_exceptions(gateway: str) -> None:
    with pytest.raises(openai.BadRequestError, match=r"input\[1\] is empty"):
        _openai(gateway).embed_documents(["a", ""])
    with pytest.raises(openai.BadRequestError, match=r"input\[0\] has 3,009 tokens"):
        _openai(gateway, model_kwargs={"extra_body": {"truncate": False}}).embed_query(LONG)
    with pytest.raises(openai.NotFoundError, match="the model 'other' does not exist here"):
        _openai(gateway, model="other").embed_query("a")


def test_ollamas_class_gives_the_containers_vectors(gateway: str, server: RunningServer) -> None:
    embeddings = OllamaEmbeddings(model="embeddinggemma", base_url=gateway, validate_model_on_init=True)
    assert_same(embeddings.embed_documents(PLANETS), server, texts=PLANETS, task="none")
    assert_same([asyncio.run(embeddings.aembed_query(QUESTION))], server, texts=[QUESTION], task="none")


def test_ollamas_class_can_name_the_task(gateway: str, server: RunningServer) -> None:
    model = "embeddinggemma:retrieval_query"
    embeddings = OllamaEmbeddings(model=model, base_url=gateway, dimensions=128, validate_model_on_init=True)
    query = {"texts": [QUESTION], "task": "retrieval_query", "embedding_dim": 128}
    assert_same([embeddings.embed_query(QUESTION)], server, **query)


def test_ollamas_class_raises_ollamas_exceptions(gateway: str) -> None:
    with pytest.raises(ollama.ResponseError, match=r"input\[1\] is empty"):
        OllamaEmbeddings(model="embeddinggemma", base_url=gateway).embed_documents(["a", ""])
    with pytest.raises(ollama.ResponseError, match="the model 'other' does not exist here"):
        OllamaEmbeddings(model="other", base_url=gateway).embed_query("a")
    with pytest.raises(ValidationError, match="Model `other` not found in Ollama"):
        OllamaEmbeddings(model="other", base_url=gateway, validate_model_on_init=True)
