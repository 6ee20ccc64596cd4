"""float16 for cards without bfloat16, on a model whose activations are as large as the real one's."""

import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from embeddinggemma.engine import model as model_module
from embeddinggemma.engine.encoder import choose_dtype
from embeddinggemma.engine.float16 import Float16Model
from embeddinggemma.engine.model import EmbeddingGemma
from embeddinggemma.engine.operators import Operators
from tests.support.token_ids import random_texts

CPU = torch.device("cpu")
TEXTS = random_texts((3, 16, 60, 300))
OUTLIER = 7  # the channel
QUIET = 16  # how many times smaller the other channels are than in the small model


def _with_outliers(small_model: Path, folder: Path, scale: float) -> Path:
    """Write the small model with activations of `scale` in one channel, and outputs of its products as large."""
    shutil.copytree(small_model, folder)
    tensors = load_file(folder / "model.safetensors")
    hidden = tensors["norm.weight"].numel()
    tensors["embed_tokens.weight"] /= QUIET
    tensors["embed_tokens.weight"][:, OUTLIER] = scale / 2 / hidden**0.5  # the model multiplies by the square root
    for name, tensor in tensors.items():
        if "o_proj" in name or "down_proj" in name:
            tensor *= scale / 8  # a norm follows; some outputs are many times the usual one
        elif "post_attention_layernorm" in name or "post_feedforward_layernorm" in name:
            tensor.add_(1).div_(QUIET).sub_(1)
            tensor[OUTLIER] = scale / 20
        elif "input_layernorm" in name or "pre_feedforward_layernorm" in name or name == "norm.weight":
            tensor.add_(1).mul_(
                QUIET * scale / 8 / hidden**0.5
            )  # gives the other channels what the norm takes from them
            tensor[OUTLIER] = 0.1
            tensor.sub_(1)  # the file holds the factor minus 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def outliers(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _with_outliers(small_model, tmp_path_factory.mktemp("outliers") / "model", 800_000)


@pytest.fixture(scope="module")
def exact(outliers: Path) -> torch.Tensor:
    return EmbeddingGemma.load(outliers, CPU, torch.float32).encode(TEXTS)


def _worst_cosine(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((F.normalize(ours) * F.normalize(theirs)).sum(-1).min())


def test_the_model_has_activations_that_float16_cannot_hold(outliers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    largest: list[float] = []
    add_norm = Operators.add_norm

    def seen(run: Operators, x: torch.Tensor, update: torch.Tensor, *rest: object, **options: object) -> torch.Tensor:
        largest.extend((float(update.abs().max()), float(x.abs().max())))
        return add_norm(run, x, update, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Operators, "add_norm", seen)
    EmbeddingGemma.load(outliers, CPU, torch.float32).encode(TEXTS)
    updates, stream = max(largest[::2]), max(largest[1::2])
    assert 400_000 < updates < 2_000_000
    assert 400_000 < stream < 2_000_000


def test_its_texts_have_vectors_of_their_own(exact: torch.Tensor) -> None:
    """Otherwise agreement would prove nothing."""
    units = F.normalize(exact)
    assert (units @ units.T - torch.eye(len(TEXTS))).max() < 0.9


def test_it_agrees_with_float32_and_computes_nothing_again(outliers: Path, exact: torch.Tensor) -> None:
    half = Float16Model.load(outliers, CPU, torch.float16)
    assert _worst_cosine(half.encode(TEXTS), exact) >= 0.9999
    assert half.computed_again == 0


def test_plain_float16_overflows(outliers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the scale is for."""
    monkeypatch.setattr(model_module, "_FLOAT16_SCALE", 1.0)
    assert not EmbeddingGemma.load(outliers, CPU, torch.float16).encode(TEXTS).isfinite().all()


def test_a_folded_norm_loses_digits(outliers: Path, exact: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the norms' factors are kept apart for."""
    monkeypatch.setattr(Operators, "factors_apart", False)
    assert not _worst_cosine(EmbeddingGemma.load(outliers, CPU, torch.float16).encode(TEXTS), exact) >= 0.9999


def test_a_text_that_overflows_is_computed_again_in_float32(small_model: Path, tmp_path: Path) -> None:
    folder = _with_outliers(small_model, tmp_path / "model", 80_000_000)
    half = Float16Model.load(folder, CPU, torch.float16)
    assert not half.half.encode(TEXTS).isfinite().all()
    expected = EmbeddingGemma.load(folder, CPU, torch.float32).encode(TEXTS)
    torch.testing.assert_close(F.normalize(half.encode(TEXTS)), F.normalize(expected), atol=1e-3, rtol=0)
    assert half.computed_again >= 1


def test_both_models_share_the_token_embedding(outliers: Path) -> None:
    half = Float16Model.load(outliers, CPU, torch.float16)
    assert half.half.token_embedding.data_ptr() == half.exact.token_embedding.data_ptr()


def test_float16_is_for_gpus_and_never_chosen_by_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="float16, which is for GPUs without bfloat16; on a cpu use auto"):
        choose_dtype("float16", CPU)
    cuda = torch.device("cuda")
    assert choose_dtype("float16", cuda) == torch.float16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    assert choose_dtype("auto", cuda) == torch.float32
