"""The attentions agree, whatever the device each is for; packing tells them where each text begins."""

from pathlib import Path

import pytest
import torch

from embeddinggemma import attention
from embeddinggemma.attention import Packing
from embeddinggemma.model import EmbeddingGemma
from tests.test_model import CPU, texts

IDS = texts((3, 600, 3, 258))


@pytest.fixture(scope="module")
def small(small_model: Path) -> EmbeddingGemma:
    return EmbeddingGemma.load(small_model, CPU, torch.float32)


def varlen_on_cpu(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
) -> torch.Tensor:
    """torch 2.11's varlen_attn, spelled out: it knows of the texts what cu_seqlens says, no more."""
    assert query.shape == key.shape == value.shape
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert cu_seq_q.diff().max() <= max_q
    assert cu_seq_k.diff().max() <= max_k
    out = torch.empty_like(query)
    for begin, end in zip(cu_seq_q.tolist(), cu_seq_q.tolist()[1:], strict=False):
        scores = torch.einsum("qhd,khd->hqk", query[begin:end], key[begin:end]) * scale
        places = torch.arange(end - begin)
        if window_size != (-1, -1):
            ahead = places[None] - places[:, None]
            scores.masked_fill_((ahead < -window_size[0]) | (ahead > window_size[1]), -torch.inf)
        out[begin:end] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value[begin:end])
    return out


def test_varlen_attention_is_told_the_bounds_of_each_text(
    small: EmbeddingGemma, monkeypatch: pytest.MonkeyPatch
) -> None:
    banded = small.encode(IDS)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_on_cpu)
    monkeypatch.setattr(small, "attend", attention.varlen_attention)
    torch.testing.assert_close(small.encode(IDS), banded, atol=1e-4, rtol=1e-4)


def test_masked_attention_agrees_with_the_banded(small: EmbeddingGemma, monkeypatch: pytest.MonkeyPatch) -> None:
    banded = small.encode(IDS)
    monkeypatch.setattr(small, "attend", attention.masked_attention)
    torch.testing.assert_close(small.encode(IDS), banded, atol=1e-4, rtol=1e-4)


def test_packing_lays_texts_end_to_end() -> None:
    packing = Packing.of((2, 3), CPU)
    assert packing.cu_seqlens.tolist() == [0, 2, 5]
    assert packing.positions.tolist() == [0, 1, 0, 1, 2]
