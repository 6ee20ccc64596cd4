"""examples/llama_index_embedding.py, with LlamaIndex itself: no language model, no network."""

import asyncio
from typing import Any

import numpy as np
import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode

from llama_index_embedding import EmbeddingGemma
from tests.support.answers import PROXYS_PAGE, answering
from tests.support.servers import RunningServer

DOCUMENTS = ["Mars is red.", "Venus is hot.", "Jupiter is large.", "Saturn has rings."]
QUERY = "Which planet is red?"


def test_documents_and_queries_have_their_own_tasks(server: RunningServer) -> None:
    embedding = EmbeddingGemma(where=server.url)
    expected = server.embed(DOCUMENTS, "retrieval_document")
    assert np.abs(embedding.get_text_embedding_batch(DOCUMENTS) - expected).max() < 1e-5
    assert np.abs(embedding.get_text_embedding(DOCUMENTS[0]) - expected[0]).max() < 1e-5
    query = server.embed([QUERY], "retrieval_query")[0]
    assert np.abs(embedding.get_query_embedding(QUERY) - query).max() < 1e-5


def test_the_query_task_and_the_dimension_can_be_chosen(server: RunningServer) -> None:
    embedding = EmbeddingGemma(where=server.url, query_task="code_retrieval", embedding_dim=128)
    query = server.embed([QUERY], "code_retrieval", embedding_dim=128)[0]
    assert np.abs(embedding.get_query_embedding(QUERY) - query).max() < 1e-5
    documents = server.embed(DOCUMENTS, "retrieval_document", embedding_dim=128)
    assert np.abs(embedding.get_text_embedding_batch(DOCUMENTS) - documents).max() < 1e-5


def test_asynchronous_calls_give_the_same_vectors(server: RunningServer) -> None:
    embedding = EmbeddingGemma(where=server.url)

    async def all_three() -> tuple[Any, Any, Any]:
        return await asyncio.gather(
            embedding.aget_text_embedding_batch(DOCUMENTS),
            embedding.aget_text_embedding(DOCUMENTS[0]),
            embedding.aget_query_embedding(QUERY),
        )

    documents, document, query = asyncio.run(all_three())
    expected = server.embed(DOCUMENTS, "retrieval_document")
    assert np.abs(documents - expected).max() < 1e-5
    assert np.abs(document - expected[0]).max() < 1e-5
    assert np.abs(query - server.embed([QUERY], "retrieval_query")[0]).max() < 1e-5


def test_an_index_finds_what_numpy_finds(server: RunningServer) -> None:
    nodes = [TextNode(text=document) for document in DOCUMENTS]
    index = VectorStoreIndex(nodes, embed_model=EmbeddingGemma(where=server.url))
    found = index.as_retriever(similarity_top_k=3).retrieve(QUERY)
    similarities = server.embed(DOCUMENTS, "retrieval_document") @ server.embed([QUERY], "retrieval_query")[0]
    best = np.argsort(-similarities)[:3]
    assert [node.get_content() for node in found] == [DOCUMENTS[position] for position in best]
    assert [node.score for node in found] == pytest.approx(similarities[best].tolist(), abs=1e-5)


@pytest.mark.parametrize("batch", [{}, {"embed_batch_size": 2048}])
def test_more_documents_than_a_request_may_hold(server: RunningServer, batch: dict[str, Any]) -> None:
    documents = [f"document {number}" for number in range(1030)]
    embedding = EmbeddingGemma(where=server.url, embedding_dim=128, **batch)
    vectors = embedding.get_text_embedding_batch(documents)
    assert len(vectors) == 1030
    assert np.abs(vectors[-1] - np.array(embedding.get_text_embedding(documents[-1]))).max() < 1e-5


def test_a_batch_is_one_request(server: RunningServer) -> None:
    assert EmbeddingGemma(where=server.url).embed_batch_size == 1024


def test_the_containers_refusal_is_raised(server: RunningServer) -> None:
    with pytest.raises(RuntimeError, match=r"texts\[1\] is empty"):
        EmbeddingGemma(where=server.url).get_text_embedding_batch(["one", ""])


def test_a_proxys_page_is_raised_with_its_status() -> None:
    with answering(*PROXYS_PAGE) as url, pytest.raises(RuntimeError, match="answers HTTP 502: <html>"):
        EmbeddingGemma(where=url).get_text_embedding_batch(["one"])


def test_a_model_on_replicate_gives_the_containers_vectors(server: RunningServer, replicate_model: str) -> None:
    embedding = EmbeddingGemma(where=replicate_model)
    expected = server.embed(DOCUMENTS, "retrieval_document")
    assert np.abs(embedding.get_text_embedding_batch(DOCUMENTS) - expected).max() < 1e-5
    query = asyncio.run(embedding.aget_query_embedding(QUERY))
    assert np.abs(query - server.embed([QUERY], "retrieval_query")[0]).max() < 1e-5
