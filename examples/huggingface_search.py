"""Search with huggingface_hub's client, through the gateway. Give a query, or try the example."""

import os
import sys

import numpy as np
from huggingface_hub import InferenceClient

from client import run

URL = os.environ.get("EMBEDDINGGEMMA_GATEWAY", "http://127.0.0.1:8000")
DOCUMENTS = [
    "Venus is often called Earth's twin because of its similar size and proximity.",
    "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
    "Jupiter, the largest planet in our solar system, has a prominent red spot.",
]
QUERY = "Which planet is known as the Red Planet?"


def main() -> None:
    """Rank the documents. Without a prompt_name, the model gets the bare text."""
    client = InferenceClient(URL)  # and token=..., if the gateway asks for a key
    query = " ".join(sys.argv[1:]) or QUERY
    documents = client.feature_extraction(DOCUMENTS, prompt_name="document", truncate=True)
    [asked] = client.feature_extraction(query, prompt_name="query")
    similarities = documents @ asked
    print(query)
    for position in np.argsort(-similarities):
        print(f"{similarities[position]:.4f}  {DOCUMENTS[position]}")


if __name__ == "__main__":
    run(main, f"{URL}, EMBEDDINGGEMMA_GATEWAY: ")
