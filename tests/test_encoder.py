"""The encoder against the model's own reference, sentence-transformers, on the same weights."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from embeddinggemma.encoder import load_encoder
from embeddinggemma.prompts import TASKS, add_prompt
from embeddinggemma.tokenizer import Tokenizer
from embeddinggemma.vectors import DIMENSIONS, Float32Array, finish

TOLERANCE = 2e-6
TEXTS = [
    "Which planet is known as the Red Planet?",
    "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
    "機械学習はコンピュータがデータを理解するのを助けます。",
    "def embed(texts):\n    return [model(text) for text in texts]",
    "🤖",
    "  surrounded by white space \n",
    "long " * 300,
]

Embed = Callable[[Sequence[str]], Float32Array]


@pytest.fixture(scope="module")
def embed(model: Path) -> Embed:
    """Prompted texts to raw vectors, through our own stages."""
    tokenizer, encoder = Tokenizer(model), load_encoder(model)
    return lambda prompted: encoder.encode([one.ids for one in tokenizer.encode(prompted)])


@pytest.fixture(scope="module")
def reference(model: Path) -> SentenceTransformer:
    return SentenceTransformer(str(model), device="cpu", local_files_only=True)


@pytest.fixture(scope="module")
def raw(embed: Embed) -> Float32Array:
    return embed(TEXTS)


@pytest.fixture(scope="module")
def raw_reference(reference: SentenceTransformer) -> Float32Array:
    """What the reference gives before its last module, Normalize."""
    without_normalize = SentenceTransformer(modules=list(reference)[:4], device="cpu")
    return np.asarray(without_normalize.encode(TEXTS, batch_size=1), dtype=np.float32)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_gives_the_references_vectors(embed: Embed, reference: SentenceTransformer, task: str) -> None:
    expected = reference.encode(TEXTS, prompt=add_prompt("", task), batch_size=1)
    ours = finish(embed([add_prompt(text, task) for text in TEXTS]), 768, True, "float32")
    assert np.abs(ours - expected).max() <= TOLERANCE


def test_a_titled_document_gives_the_references_vectors(embed: Embed, reference: SentenceTransformer) -> None:
    expected = reference.encode(TEXTS, prompt="title: The planets | text: ", batch_size=1)
    ours = embed([add_prompt(text, "retrieval_document", "The planets") for text in TEXTS])
    assert np.abs(finish(ours, 768, True, "float32") - expected).max() <= TOLERANCE


@pytest.mark.parametrize("dimension", DIMENSIONS)
@pytest.mark.parametrize("normalize", [True, False])
def test_every_dimension_gives_the_references_vectors(
    raw: Float32Array, raw_reference: Float32Array, dimension: int, normalize: bool
) -> None:
    cut = raw_reference[:, :dimension]
    expected = cut / np.linalg.norm(cut, axis=1, keepdims=True) if normalize else cut
    ours = finish(raw, dimension, normalize, "float32")
    assert np.abs(ours - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


def test_a_texts_vector_does_not_depend_on_its_neighbours(embed: Embed, raw: Float32Array) -> None:
    together = finish(raw, 768, True, "float32")
    alone = np.concatenate([finish(embed([text]), 768, True, "float32") for text in TEXTS])
    assert np.abs(together - alone).max() <= TOLERANCE
