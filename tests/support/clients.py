"""What the tests of the gateway's clients share: texts, an API key, and the comparison with the container."""

import base64
from typing import Any

import numpy as np

from tools.client import Client

MODEL = "embeddinggemma-300m"
KEY = "quaggaQuaggaQUAGGA"
PLANETS = ["Mars is red.", "Venus is hot.", "Jupiter is large."]
QUESTION = "Which one is red?"
LONG = "word " * 3000
"""More than 2,048 tokens."""
MANY = [f"planet {number}" for number in range(2048)]
"""As many texts as a request to the gateway may have: two requests to the container."""


def assert_same(embeddings: Any, container: Client, **inputs: Any) -> int:
    """Assert that these vectors are, to the last bit, those of a prediction with these inputs; return its tokens."""
    output = container.predict(**inputs)
    expected = np.frombuffer(base64.b64decode(output["embedding"]), "<f4").reshape(output["shape"])
    assert np.array_equal(np.array(embeddings, np.float32), expected)
    return sum(output["tokens"])


def assert_own(embeddings: Any, container: Client, task: str) -> None:
    """Assert that each of MANY has its own vector of 128 numbers.

    Its last bits depend on what else was in its batch.
    """
    vectors = np.array(embeddings, np.float32)
    assert vectors.shape == (len(MANY), 128)
    for start in (0, len(MANY) // 2):
        expected = container.embed(MANY[start : start + 8], task, embedding_dim=128)
        assert np.abs(vectors[start : start + 8] - expected).max() < 1e-5
        assert (np.argmax(expected @ vectors.T, axis=1) == np.arange(start, start + 8)).all()
    assert len(np.unique(vectors, axis=0)) == len(MANY)
