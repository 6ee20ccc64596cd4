"""Search with Ollama's client, through the gateway. Give a query, or try the example."""

import os
import sys

import numpy as np
from ollama import Client

from client import run

URL = os.environ.get("EMBEDDINGGEMMA_GATEWAY", "http://127.0.0.1:8000")
DOCUMENTS = [
    "Venus is often called Earth's twin because of its similar size and proximity.",
    "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
    "Jupiter, the largest planet in our solar system, has a prominent red spot.",
]
QUERY = "Which planet is known as the Red Planet?"


def main() -> None:
    """Rank the documents. The model's tag says the task; without one, the model gets the bare text."""
    client = Client(URL)  # and headers={"Authorization": "Bearer ..."}, if the gateway asks for a key
    query = " ".join(sys.argv[1:]) or QUERY
    documents = client.embed("embeddinggemma:retrieval_document", DOCUMENTS).embeddings
    [asked] = client.embed("embeddinggemma:retrieval_query", query).embeddings
    similarities = np.array(documents) @ asked
    print(query)
    for position in np.argsort(-similarities):
        print(f"{similarities[position]:.4f}  {DOCUMENTS[position]}")


if __name__ == "__main__":
    run(main, f"{URL}, EMBEDDINGGEMMA_GATEWAY: ")
