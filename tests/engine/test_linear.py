import os
import subprocess
import sys

import pytest
import torch

from embeddinggemma.engine.encoder import has_bfloat16
from embeddinggemma.engine.linear import Linear, onednn_works
from tools import PROJECT

# Prints how many more bytes a process takes (psutil: resident, not shared) once it has computed products of new shapes.
_NEW_SHAPES = """
import psutil, torch
from embeddinggemma.engine.linear import Linear
linear = Linear(torch.ones(256, 256))
assert linear.prepacked
def compute(rows):
    for number in rows:
        linear(torch.ones(number, 256))
    return psutil.Process().memory_full_info().uss
before = compute(range(1, 400))
print(compute(range(400, 1000)) - before)
"""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 13, 128, 1024])
def test_the_prepacked_product_agrees_with_f_linear(dtype: torch.dtype, rows: int) -> None:
    if dtype == torch.bfloat16 and not has_bfloat16(torch.device("cpu")):
        pytest.skip("this CPU has no bfloat16")
    assert onednn_works(dtype), "this PyTorch no longer offers oneDNN's prepacked linear: it will be slower"
    x, weight = torch.randn(rows, 768, dtype=dtype), torch.randn(1280, 768, dtype=dtype) / 28
    torch.testing.assert_close(Linear(weight)(x), Linear(weight, prepack=False)(x), atol=1e-5, rtol=1e-2)


@pytest.mark.skipif(not onednn_works(torch.float32), reason="this PyTorch has no oneDNN")
def test_products_of_ever_new_shapes_take_no_more_memory() -> None:
    variables = {name: value for name, value in os.environ.items() if "CACHE_CAPACITY" not in name}
    command = [sys.executable, "-c", _NEW_SHAPES]
    printed = subprocess.run(command, cwd=PROJECT, env=variables, check=True, capture_output=True, text=True).stdout
    assert int(printed) < 250e6, "oneDNN keeps its code for too many shapes"  # seen: up to 80 MB; for all shapes 470
