"""EmbeddingGemma for LlamaIndex; copy this file and client.py next to your own."""

import asyncio

from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import Field

import client


class EmbeddingGemma(BaseEmbedding):
    """Documents and queries, each with the prompt that the model was trained with.

    The asynchronous methods run the others in threads: requests sent at the same time are answered together, because
    the container batches them.
    """

    where: str = client.URL
    """A container's URL, or a model's name on Replicate ("your-name/embeddinggemma-300m")."""
    query_task: str = "retrieval_query"
    """retrieval_query, or question_answering, fact_verification or code_retrieval."""
    embedding_dim: int = 768
    """768, 512, 256 or 128."""
    model_name: str = "embeddinggemma-300m"
    embed_batch_size: int = Field(default=client.MAX_TEXTS, gt=0)

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex stores settings."""
        return "EmbeddingGemma"

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._embed(texts, "retrieval_document")

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._embed([query], self.query_task)[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    def _embed(self, texts: list[str], task: str) -> list[list[float]]:
        vectors: list[list[float]] = client.embed(texts, task, self.where, self.embedding_dim).tolist()
        return vectors
