"""An index of LlamaIndex, through the gateway. Give a query, or try the example."""

import os
import sys

from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.embeddings.ollama import OllamaEmbedding

from client import run

URL = os.environ.get("EMBEDDINGGEMMA_GATEWAY", "http://127.0.0.1:8000")
DOCUMENTS = [
    "Venus is often called Earth's twin because of its similar size and proximity.",
    "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
    "Jupiter, the largest planet in our solar system, has a prominent red spot.",
]
QUERY = "Which planet is known as the Red Planet?"


def main() -> None:
    """Rank the documents. The instructions are the words that the model was trained with: see docs/api.md."""
    embedding = OllamaEmbedding(
        model_name="embeddinggemma",
        base_url=URL,
        text_instruction="title: none | text:",
        query_instruction="task: search result | query:",
        embed_batch_size=1024,  # texts of one request
    )  # and client_kwargs={"headers": {"Authorization": "Bearer ..."}}, if the gateway asks for a key
    index = VectorStoreIndex([TextNode(text=document) for document in DOCUMENTS], embed_model=embedding)
    query = " ".join(sys.argv[1:]) or QUERY
    print(query)
    for found in index.as_retriever(similarity_top_k=len(DOCUMENTS)).retrieve(query):
        print(f"{found.score:.4f}  {found.get_content()}")


if __name__ == "__main__":
    run(main, f"{URL}, EMBEDDINGGEMMA_GATEWAY: ")
