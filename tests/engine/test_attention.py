"""The attention functions of all devices agree; packing says where each text begins."""

from pathlib import Path

import pytest
import torch

from embeddinggemma.engine import attention
from embeddinggemma.engine.attention import Packing
from embeddinggemma.engine.model import EmbeddingGemma
from tests.support.token_ids import random_texts
from tests.support.varlen import varlen_on_cpu

CPU = torch.device("cpu")
IDS = random_texts((3, 600, 3, 258))


@pytest.fixture(scope="module")
def small(small_model: Path) -> EmbeddingGemma:
    return EmbeddingGemma.load(small_model, CPU, torch.float32)


def test_varlen_attention_gets_the_bounds_of_each_text(small: EmbeddingGemma, monkeypatch: pytest.MonkeyPatch) -> None:
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
