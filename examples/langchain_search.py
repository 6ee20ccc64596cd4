"""A vector store of LangChain, through the gateway. Give a query, or try the example."""

import os
import sys
from typing import Any

from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from client import run

URL = os.environ.get("EMBEDDINGGEMMA_GATEWAY", "http://127.0.0.1:8000")
DOCUMENTS = [
    "Venus is often called Earth's twin because of its similar size and proximity.",
    "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
    "Jupiter, the largest planet in our solar system, has a prominent red spot.",
]
QUERY = "Which planet is known as the Red Planet?"


class EmbeddingGemma(OpenAIEmbeddings):
    """OpenAI's class, whose model knows one task; here a query has its own."""

    def embed_query(self, text: str, **options: Any) -> list[float]:
        """Return the query's vector."""
        return super().embed_query(text, model=f"{self.model}:retrieval_query", **options)

    async def aembed_query(self, text: str, **options: Any) -> list[float]:
        """Return the query's vector."""
        return await super().aembed_query(text, model=f"{self.model}:retrieval_query", **options)


def main() -> None:
    """Rank the documents."""
    embeddings = EmbeddingGemma(
        model="embeddinggemma-300m",
        base_url=f"{URL}/v1",
        api_key=SecretStr("none"),  # or a key, if the gateway asks for one
        check_embedding_ctx_length=False,  # or it sends token ids, which are those of OpenAI's models
    )
    store = InMemoryVectorStore(embeddings)
    store.add_texts(DOCUMENTS)
    query = " ".join(sys.argv[1:]) or QUERY
    print(query)
    for document, similarity in store.similarity_search_with_score(query):
        print(f"{similarity:.4f}  {document.page_content}")


if __name__ == "__main__":
    run(main, f"{URL}, EMBEDDINGGEMMA_GATEWAY: ")
