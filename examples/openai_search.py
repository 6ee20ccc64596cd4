"""Search with OpenAI's client, through the gateway. Give a query, or try the example."""

import os
import sys

import numpy as np
from openai import OpenAI

from client import run

URL = os.environ.get("EMBEDDINGGEMMA_GATEWAY", "http://127.0.0.1:8000")
DOCUMENTS = [
    "Venus is often called Earth's twin because of its similar size and proximity.",
    "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
    "Jupiter, the largest planet in our solar system, has a prominent red spot.",
]
QUERY = "Which planet is known as the Red Planet?"


def main() -> None:
    """Rank the documents. The model's name says the task; alone it means retrieval_document."""
    client = OpenAI(base_url=f"{URL}/v1", api_key="none")  # or a key, if the gateway asks for one
    query = " ".join(sys.argv[1:]) or QUERY
    documents = client.embeddings.create(model="embeddinggemma-300m", input=DOCUMENTS)
    asked = client.embeddings.create(model="embeddinggemma-300m:retrieval_query", input=query)
    similarities = np.array([item.embedding for item in documents.data]) @ asked.data[0].embedding
    print(query)
    for position in np.argsort(-similarities):
        print(f"{similarities[position]:.4f}  {DOCUMENTS[position]}")


if __name__ == "__main__":
    run(main, f"{URL}, EMBEDDINGGEMMA_GATEWAY: ")
