"""The native encoder against sentence-transformers on the same token ids, and against itself in other batches."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from embeddinggemma.engine import linear
from embeddinggemma.engine.encoder import has_bfloat16
from embeddinggemma.engine.model import EmbeddingGemma
from embeddinggemma.engine.reference import SentenceTransformersModel
from tests.support.token_ids import random_texts

CPU = torch.device("cpu")
LENGTHS = (3, 16, 255, 256, 257, 258, 259, 511, 512, 513, 514, 1000, 2047, 2048)


@pytest.fixture(scope="module")
def native(model: Path) -> EmbeddingGemma:
    return EmbeddingGemma.load(model, CPU, torch.float32)


@pytest.fixture(scope="module")
def expected(model: Path) -> torch.Tensor:
    reference = SentenceTransformersModel(model, CPU, torch.float32)
    return F.normalize(torch.cat([reference.encode([ids]) for ids in random_texts(LENGTHS)]))


def test_each_length_alone_gives_the_references_vector(native: EmbeddingGemma, expected: torch.Tensor) -> None:
    alone = torch.cat([native.encode([ids]) for ids in random_texts(LENGTHS)])
    assert (F.normalize(alone) - expected).abs().max() <= 2e-6


def test_a_mixed_batch_gives_the_references_vectors(native: EmbeddingGemma, expected: torch.Tensor) -> None:
    mixed = native.encode([*random_texts((16, 16, 60, 300), seed=1), *random_texts(LENGTHS)[::-1]])
    assert (F.normalize(mixed)[4:].flip(0) - expected).abs().max() <= 2e-6


def test_bfloat16_keeps_a_cosine_of_0_9995(model: Path, expected: torch.Tensor) -> None:
    tried = len(LENGTHS) if has_bfloat16(CPU) else 3  # emulated, the long texts would take minutes
    vectors = EmbeddingGemma.load(model, CPU, torch.bfloat16).encode(random_texts(LENGTHS)[:tried])
    assert vectors.dtype == torch.float32
    assert (F.normalize(vectors) * expected[:tried]).sum(-1).min() >= 0.9995


def test_a_batch_moves_a_vector_by_rounding_at_most(native: EmbeddingGemma) -> None:
    ids = random_texts((3, 12, 12, 12, 60, 60, 130, 300))
    alone = torch.cat([native.encode([text]) for text in ids])
    assert (F.normalize(native.encode(ids)) - F.normalize(alone)).abs().max() <= 3e-7


@pytest.fixture(scope="module")
def small(small_model: Path) -> EmbeddingGemma:
    return EmbeddingGemma.load(small_model, CPU, torch.float32)


def test_no_texts_give_no_vectors(small: EmbeddingGemma) -> None:
    assert small.encode([]).shape == (0, 768)


def test_every_layer_counts(small: EmbeddingGemma, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of the reference model, not of the code: with a layer that did nothing, parity would prove nothing."""
    ids = random_texts((16,))
    whole = F.normalize(small.encode(ids))
    for index in range(len(small.layers)):
        with monkeypatch.context() as patch:
            patch.setattr(small, "layers", small.layers[:index] + small.layers[index + 1 :])
            assert (F.normalize(small.encode(ids)) - whole).abs().max() > 0.01


def test_a_bfloat16_file_is_read_as_its_float32_values(small_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(small_model, tmp_path / "model")
    rounded = {key: value.bfloat16() for key, value in load_file(folder / "model.safetensors").items()}
    save_file({key: value.float() for key, value in rounded.items()}, folder / "model.safetensors")
    widened = EmbeddingGemma.load(folder, CPU, torch.float32).encode(random_texts((20,)))
    save_file(rounded, folder / "model.safetensors")
    assert torch.equal(EmbeddingGemma.load(folder, CPU, torch.float32).encode(random_texts((20,))), widened)


def test_without_onednn_the_vectors_are_the_same(
    small: EmbeddingGemma, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = random_texts((5, 300))
    with_onednn = small.encode(ids)
    monkeypatch.setattr(linear, "onednn_works", lambda _: False)
    plain = EmbeddingGemma.load(small_model, CPU, torch.float32)
    assert not plain.projection.prepacked
    torch.testing.assert_close(plain.encode(ids), with_onednn, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("ids", [[], [0] * 2049, [262144], [-1]])
def test_ids_the_model_cannot_read_are_refused(small: EmbeddingGemma, ids: list[int]) -> None:
    with pytest.raises(ValueError, match=r"a text has (0|2,049) tokens|token id (262144|-1) is outside the vocabulary"):
        small.encode([[2, 1], ids])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_bidirectional_attention", False),
        ("attention_bias", True),
        ("attn_logit_softcapping", 50.0),
        ("num_key_value_heads", 2),
        ("hidden_activation", "silu"),
        ("rope_scaling", {"type": "linear", "factor": 8.0}),
        ("intermediate_size", 95),
        ("layer_types", ["full_attention"]),
    ],
)
def test_a_config_it_does_not_implement_is_refused(small_model: Path, tmp_path: Path, key: str, value: object) -> None:
    for file in small_model.iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((tmp_path / "config.json").read_text()) | {key: value}
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config\.json|needed"):
        EmbeddingGemma.load(tmp_path, CPU, torch.float32)
