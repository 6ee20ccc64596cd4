"""examples/langchain_embeddings.py, with LangChain itself."""

import asyncio

import numpy as np
import pytest
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_embeddings import EmbeddingGemma
from tests.support.answers import PROXYS_PAGE, answering
from tests.support.servers import RunningServer

DOCUMENTS = ["Mars is red.", "Venus is hot.", "Jupiter is large.", "Saturn has rings."]
QUERY = "Which planet is red?"


def test_documents_and_queries_have_their_own_tasks(server: RunningServer) -> None:
    embeddings = EmbeddingGemma(server.url)
    documents = embeddings.embed_documents(DOCUMENTS)
    assert np.abs(documents - server.embed(DOCUMENTS, "retrieval_document")).max() < 1e-5
    query = embeddings.embed_query(QUERY)
    assert np.abs(query - server.embed([QUERY], "retrieval_query")[0]).max() < 1e-5
    assert isinstance(query[0], float)


def test_the_query_task_and_the_dimension_can_be_chosen(server: RunningServer) -> None:
    embeddings = EmbeddingGemma(server.url, query_task="question_answering", embedding_dim=256)
    query = server.embed([QUERY], "question_answering", embedding_dim=256)[0]
    assert np.abs(embeddings.embed_query(QUERY) - query).max() < 1e-5
    documents = server.embed(DOCUMENTS, "retrieval_document", embedding_dim=256)
    assert np.abs(embeddings.embed_documents(DOCUMENTS) - documents).max() < 1e-5


def test_asynchronous_calls_give_the_same_vectors(server: RunningServer) -> None:
    embeddings = EmbeddingGemma(server.url)

    async def both() -> tuple[list[list[float]], list[float]]:
        return await asyncio.gather(embeddings.aembed_documents(DOCUMENTS), embeddings.aembed_query(QUERY))

    documents, query = asyncio.run(both())
    assert np.abs(np.array(documents) - embeddings.embed_documents(DOCUMENTS)).max() < 1e-5
    assert np.abs(np.array(query) - embeddings.embed_query(QUERY)).max() < 1e-5


def test_a_vector_store_finds_what_numpy_finds(server: RunningServer) -> None:
    store = InMemoryVectorStore(EmbeddingGemma(server.url))
    store.add_texts(DOCUMENTS)
    found = store.similarity_search_with_score(QUERY, k=3)
    similarities = server.embed(DOCUMENTS, "retrieval_document") @ server.embed([QUERY], "retrieval_query")[0]
    best = np.argsort(-similarities)[:3]
    assert [document.page_content for document, _ in found] == [DOCUMENTS[position] for position in best]
    assert [score for _, score in found] == pytest.approx(similarities[best].tolist(), abs=1e-5)


def test_more_documents_than_a_request_may_hold(server: RunningServer) -> None:
    documents = [f"document {number}" for number in range(1030)]
    store = InMemoryVectorStore(EmbeddingGemma(server.url, embedding_dim=128))
    assert len(store.add_texts(documents)) == 1030
    last = EmbeddingGemma(server.url, embedding_dim=128).embed_documents(documents[-1:])[0]
    [found] = store.similarity_search_by_vector(last, k=1)
    assert found.page_content == "document 1029"


def test_no_documents_give_no_vectors(server: RunningServer) -> None:
    assert EmbeddingGemma(server.url).embed_documents([]) == []


def test_the_containers_refusal_is_raised(server: RunningServer) -> None:
    with pytest.raises(RuntimeError, match=r"texts\[1\] is empty"):
        EmbeddingGemma(server.url).embed_documents(["one", ""])


def test_a_proxys_page_is_raised_with_its_status() -> None:
    with answering(*PROXYS_PAGE) as url, pytest.raises(RuntimeError, match="answers HTTP 502: <html>"):
        EmbeddingGemma(url).embed_documents(["one"])


def test_a_model_on_replicate_gives_the_containers_vectors(server: RunningServer, replicate_model: str) -> None:
    embeddings = EmbeddingGemma(replicate_model)
    documents = embeddings.embed_documents(DOCUMENTS)
    assert np.abs(documents - server.embed(DOCUMENTS, "retrieval_document")).max() < 1e-5
    query = asyncio.run(embeddings.aembed_query(QUERY))
    assert np.abs(query - server.embed([QUERY], "retrieval_query")[0]).max() < 1e-5
