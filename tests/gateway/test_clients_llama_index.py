"""LlamaIndex's embedding classes for OpenAI, text-embeddings-inference and Ollama, against scripts/gateway."""

import asyncio
from typing import TYPE_CHECKING, Any

import ollama
import openai
import pytest
from pydantic import ValidationError

from tests.support.clients import MODEL, PLANETS, QUESTION, assert_same
from tests.support.servers import RunningServer

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding

pytestmark = pytest.mark.slow  # LlamaIndex takes seconds to import, so that is done by the functions

INSTRUCTIONS = {"query_instruction": "task: search result | query:", "text_instruction": "title: none | text:"}
"""The words before a text, as LlamaIndex puts them there: with a blank between the two."""


def _openai(gateway: str, model: str = MODEL, **options: Any) -> "BaseEmbedding":
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding

    embedding: BaseEmbedding = OpenAILikeEmbedding(model_name=model, api_base=f"{gateway}/v1", **options)
    return embedding


def _tei(gateway: str, **options: Any) -> "BaseEmbedding":
    from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

    embedding: BaseEmbedding = TextEmbeddingsInference(model_name=MODEL, base_url=gateway, **options)
    return embedding


def _ollama(gateway: str, model: str = "embeddinggemma", **options: Any) -> "BaseEmbedding":
    from llama_index.embeddings.ollama import OllamaEmbedding

    embedding: BaseEmbedding = OllamaEmbedding(model_name=model, base_url=gateway, **options)
    return embedding


def test_openais_class_gives_the_containers_vectors(gateway: str, server: RunningServer) -> None:
    embedding = _openai(gateway)
    assert_same(embedding.get_text_embedding_batch(PLANETS), server, texts=PLANETS)
    assert_same([embedding.get_query_embedding(QUESTION)], server, texts=[QUESTION])
    assert_same(asyncio.run(embedding.aget_text_embedding_batch(PLANETS)), server, texts=PLANETS)
    smaller = _openai(gateway, f"{MODEL}:retrieval_query", dimensions=256)
    query = {"texts": [QUESTION], "task": "retrieval_query", "embedding_dim": 256}
    assert_same([smaller.get_query_embedding(QUESTION)], server, **query)


def test_openais_class_raises_openais_exceptions(gateway: str) -> None:
    with pytest.raises(openai.BadRequestError, match=r"input\[1\] is empty"):
        _openai(gateway).get_text_embedding_batch(["a", " "])
    with pytest.raises(openai.NotFoundError, match="the model 'other' does not exist here"):
        _openai(gateway, "other").get_text_embedding("a")


@pytest.mark.parametrize("embedding_class", [_tei, _ollama])
def test_a_class_with_instructions_gives_documents_and_queries_their_own_tasks(
    gateway: str, server: RunningServer, embedding_class: Any
) -> None:
    embedding = embedding_class(gateway, **INSTRUCTIONS)
    assert_same(embedding.get_text_embedding_batch(PLANETS), server, texts=PLANETS, task="retrieval_document")
    assert_same([embedding.get_query_embedding(QUESTION)], server, texts=[QUESTION], task="retrieval_query")
    documents, query = asyncio.run(_both(embedding))
    assert_same(documents, server, texts=PLANETS, task="retrieval_document")
    assert_same([query], server, texts=[QUESTION], task="retrieval_query")


async def _both(embedding: "BaseEmbedding") -> tuple[list[list[float]], list[float]]:
    return await embedding.aget_text_embedding_batch(PLANETS), await embedding.aget_query_embedding(QUESTION)


@pytest.mark.parametrize("embedding_class", [_tei, _ollama])
def test_a_class_without_instructions_adds_no_words(gateway: str, server: RunningServer, embedding_class: Any) -> None:
    vectors = embedding_class(gateway).get_text_embedding_batch(PLANETS)
    assert_same(vectors, server, texts=PLANETS, task="none")


def test_ollamas_class_raises_ollamas_exceptions(gateway: str) -> None:
    with pytest.raises(ollama.ResponseError, match=r"input\[1\] is empty"):
        _ollama(gateway).get_text_embedding_batch(["a", " "])
    with pytest.raises(ollama.ResponseError, match="the model 'other' does not exist here"):
        _ollama(gateway, "other").get_text_embedding("a")


def test_the_class_for_text_embeddings_inference_does_not_look_at_the_status(gateway: str) -> None:
    """It takes any server's error for vectors; where pydantic looks at them, its error has the begin of our message."""
    with pytest.raises(ValidationError, match=r"inputs\[1\] is e"):
        _tei(gateway).get_text_embedding_batch(["a", " "])
    with pytest.raises(KeyError):
        _tei(gateway).get_query_embedding(" ")
