"""EmbeddingGemma for LangChain; copy this file and client.py next to your own."""

from langchain_core.embeddings import Embeddings

import client


class EmbeddingGemma(Embeddings):
    """Documents and queries, each with the prompt that the model was trained with.

    The asynchronous methods are LangChain's own, which run the methods here in threads: requests sent at the same time
    are answered together, because the container batches them.
    """

    def __init__(
        self, where: str = client.URL, *, query_task: str = "retrieval_query", embedding_dim: int = 768
    ) -> None:
        """Prepare; no request is sent yet.

        Args:
            where: a container's URL, or a model's name on Replicate ("your-name/embeddinggemma-300m").
            query_task: retrieval_query, or question_answering, fact_verification or code_retrieval.
            embedding_dim: 768, 512, 256 or 128.

        """
        self.where = where
        self.query_task = query_task
        self.embedding_dim = embedding_dim

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector of length 1 for each text; any number of texts."""
        return self._embed(texts, "retrieval_document")

    def embed_query(self, text: str) -> list[float]:
        """Return the query's vector, of length 1."""
        return self._embed([text], self.query_task)[0]

    def _embed(self, texts: list[str], task: str) -> list[list[float]]:
        vectors: list[list[float]] = client.embed(texts, task, self.where, self.embedding_dim).tolist()
        return vectors
