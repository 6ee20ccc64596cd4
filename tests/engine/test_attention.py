"""The attention functions of all devices agree."""

from pathlib import Path

import pytest
import torch

from embeddinggemma.engine import attention
from embeddinggemma.engine.attention import grouped_attention
from embeddinggemma.engine.model import EmbeddingGemma
from tests.support.token_ids import random_texts

IDS = random_texts((3, 600, 3, 258, 513, 590))


@pytest.fixture(scope="module")
def small(small_model: Path) -> EmbeddingGemma:
    return EmbeddingGemma.load(small_model, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("way", ["_by_products", "_by_sdpa"])
def test_attention_in_padded_groups_agrees_with_the_banded(
    small: EmbeddingGemma, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    banded = small.encode(IDS)
    monkeypatch.setattr(attention, "_by_products", getattr(attention, way))
    monkeypatch.setattr(small.run, "attend", grouped_attention)
    torch.testing.assert_close(small.encode(IDS), banded, atol=1e-4, rtol=1e-4)
