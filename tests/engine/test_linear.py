import pytest
import torch

from embeddinggemma.engine.encoder import has_bfloat16
from embeddinggemma.engine.linear import Linear, onednn_works


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 13, 128, 1024])
def test_the_prepacked_product_agrees_with_f_linear(dtype: torch.dtype, rows: int) -> None:
    if dtype == torch.bfloat16 and not has_bfloat16(torch.device("cpu")):
        pytest.skip("this CPU has no bfloat16")
    assert onednn_works(dtype), "this PyTorch no longer offers oneDNN's prepacked linear: it will be slower"
    x, weight = torch.randn(rows, 768, dtype=dtype), torch.randn(1280, 768, dtype=dtype) / 28
    torch.testing.assert_close(Linear(weight)(x), Linear(weight, prepack=False)(x), atol=1e-5, rtol=1e-2)
