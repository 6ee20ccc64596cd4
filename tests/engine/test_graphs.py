from pathlib import Path

import pytest
import torch

from embeddinggemma.engine import attention
from embeddinggemma.engine.graphs import Bucket
from embeddinggemma.engine.model import EmbeddingGemma
from tests.support.token_ids import random_texts
from tests.support.varlen import varlen_on_cpu

CPU = torch.device("cpu")


@pytest.mark.parametrize("length", [1, 3, 31, 32])
def test_the_tokens_that_fill_up_a_bucket_do_not_change_the_text(
    small_model: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    small = EmbeddingGemma.load(small_model, CPU, torch.float32)
    ids = random_texts((32,))[0][:length]
    alone = small.encode([ids])
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_on_cpu)
    monkeypatch.setattr(small, "attend", attention.varlen_attention)
    bucket = Bucket(32, CPU)
    for text in (random_texts((32,), seed=9)[0], ids):  # the first leaves its tokens behind
        bucket.fill(text)
    with torch.inference_mode():
        torch.testing.assert_close(small.forward(bucket.ids, bucket.packing)[:1], alone, atol=1e-4, rtol=1e-4)
