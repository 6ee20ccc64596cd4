"""The encoder against the model's own reference, sentence-transformers, on the same weights."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from embeddinggemma.encoder import DTYPES, ENGINES, has_bfloat16, load_encoder
from embeddinggemma.model import EmbeddingGemma
from embeddinggemma.prompts import TASKS, add_prompt
from embeddinggemma.tokenizer import Tokenizer
from embeddinggemma.vectors import DIMENSIONS, Float32Array, finish
from local_server import PROJECT

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


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_engine_and_dtype_embeds(small_model: Path, engine: str, dtype: str) -> None:
    if dtype == "bfloat16" and not has_bfloat16(torch.device("cpu")):
        with pytest.raises(ValueError, match="bfloat16, which this cpu does not have"):
            load_encoder(small_model, engine, dtype)
        return
    ids = [one.ids for one in Tokenizer(small_model).encode(TEXTS)]
    exact = finish(load_encoder(small_model).encode(ids), 768, True, "float32")
    ours = finish(load_encoder(small_model, engine, dtype).encode(ids), 768, True, "float32")
    assert (ours * exact).sum(axis=1).min() > 0.99


@pytest.mark.parametrize(("engine", "dtype"), [("onnx", "auto"), ("native", "float16"), ("native", "int8")])
def test_an_engine_or_dtype_that_does_not_exist_is_refused(small_model: Path, engine: str, dtype: str) -> None:
    with pytest.raises(ValueError, match=r"EMBEDDINGGEMMA_(ENGINE|DTYPE) is .* must be one of"):
        load_encoder(small_model, engine, dtype)


def test_causal_attention_is_refused(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def first_token_only(_: EmbeddingGemma, token_ids: Sequence[int]) -> torch.Tensor:
        return torch.ones(len(token_ids), 64)

    monkeypatch.setattr(EmbeddingGemma, "token_states", first_token_only)
    with pytest.raises(RuntimeError, match="attention is causal"):
        load_encoder(small_model)


def test_the_native_engine_imports_neither_transformers_nor_sentence_transformers(small_model: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from embeddinggemma.encoder import load_encoder; "
        f"load_encoder(Path({str(small_model)!r})).encode([[2, 100, 1]]); "
        "assert not {'transformers', 'sentence_transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=PROJECT, check=True)
