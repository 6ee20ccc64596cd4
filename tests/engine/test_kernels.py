"""The kernels in Triton's interpreter, on the CPU, against the plain operators; and what the compiler makes of them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from embeddinggemma.engine import model, proof
from embeddinggemma.engine.attention import grouped_attention
from embeddinggemma.engine.checkpoint import Config
from embeddinggemma.engine.kernels import FusedOperators, TileAttention
from embeddinggemma.engine.model import EmbeddingGemma
from embeddinggemma.engine.operators import Operators
from embeddinggemma.engine.packing import Batch, Layout
from tests.support.token_ids import random_texts
from tools import PROJECT

CPU = torch.device("cpu")
STEPS = (proof.norms, proof.heads, proof.gated_product)


@pytest.fixture(scope="module")
def config(small_model: Path) -> Config:
    return Config.load(small_model / "config.json")


def _interpreted(config: Config, device: torch.device, dtype: torch.dtype) -> FusedOperators:
    run = FusedOperators(config, device, dtype)
    run.attend = TileAttention(32, 4, 2)
    return run


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("compute", STEPS)
def test_every_step_agrees_with_its_formula(config: Config, dtype: torch.dtype, compute: proof.Compute) -> None:
    assert proof.failure(_interpreted(config, CPU, dtype), compute) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])  # the interpreter's products of bfloat16 are wrong
def test_attention_by_tiles_agrees_with_its_formula(config: Config, dtype: torch.dtype) -> None:
    assert proof.failure(_interpreted(config, CPU, dtype), proof.attention) is None


def test_the_whole_model_agrees_with_plain_operators(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = random_texts((3, 70, 3, 12))
    plain = EmbeddingGemma.load(small_model, CPU, torch.float32).encode(texts)
    monkeypatch.setattr(model, "proved_operators", _interpreted)
    monkeypatch.setattr(FusedOperators, "recordable", False)  # there are no graphs on a CPU
    fused = EmbeddingGemma.load(small_model, CPU, torch.float32).encode(texts)
    assert (F.normalize(fused) - F.normalize(plain)).abs().max() <= 3e-7


@pytest.mark.parametrize(
    ("step", "compute", "named"),
    [
        ("embed", proof.norms, "the embedding is wrong"),
        ("add_norm", proof.norms, "norm is wrong"),
        ("pool", proof.norms, "the mean is wrong"),
        ("turn", proof.heads, "the query is wrong"),
        ("gated", proof.gated_product, "the gated product is wrong"),
        ("attend", proof.attention, "attention within a window is wrong"),
    ],
)
def test_the_proof_notices_a_step_that_is_off_by_a_thousandth(
    config: Config, step: str, compute: proof.Compute, named: str
) -> None:
    run = Operators(config, CPU, torch.float32)
    if step == "attend":
        run.attend = grouped_attention
    assert proof.failure(run, compute) is None
    setattr(run, step, _off(getattr(run, step)))
    assert named in str(proof.failure(run, compute))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("step", "compute"), [("turn", proof.heads), ("gated", proof.gated_product), ("embed", proof.norms)]
)
def test_the_proof_notices_a_step_in_16_bits_that_is_off_by_a_tenth(
    config: Config, step: str, compute: proof.Compute, dtype: torch.dtype
) -> None:
    run = Operators(config, CPU, dtype)
    assert proof.failure(run, compute) is None
    setattr(run, step, _off(getattr(run, step), 1.1))
    assert "is wrong" in str(proof.failure(run, compute))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("window", [255, 257])
def test_the_proof_notices_a_window_that_is_off_by_one_in_16_bits(
    config: Config, dtype: torch.dtype, window: int
) -> None:
    run = Operators(config, CPU, dtype)
    run.attend = grouped_attention
    assert proof.failure(run, proof.attention) is None
    run.attend = lambda query, key, value, packing, of: grouped_attention(
        query, key, value, packing, window if of else None
    )
    assert "attention within a window is wrong" in str(proof.failure(run, proof.attention))


@pytest.mark.parametrize("spare", [0, 37])
def test_what_fills_a_recorded_pass_up_changes_no_vector(
    small_model: Path, monkeypatch: pytest.MonkeyPatch, spare: int
) -> None:
    """A recorded pass is larger than its batch, and its buffer holds the batch before: here, other texts."""
    monkeypatch.setattr(model, "proved_operators", _interpreted)
    monkeypatch.setattr(FusedOperators, "recordable", False)
    fused = EmbeddingGemma.load(small_model, CPU, torch.float32)
    layout = Layout(40 + spare, 7)
    buffer = np.zeros(layout.size, np.int32)
    for texts in (random_texts((13, 20), seed=5), random_texts((3, 9))):
        batch = Batch.of(texts)
        layout.fill(buffer, batch)
        with torch.inference_mode():
            vectors = fused.forward(*layout.views(torch.from_numpy(buffer), ()))[: len(texts)]
    assert (F.normalize(vectors) - F.normalize(fused.encode(texts))).abs().max() <= 3e-7


def _off(step: Callable[..., object], factor: float = 1.001) -> Callable[..., object]:
    def wrong(result: object) -> object:
        if isinstance(result, tuple):
            return tuple(map(wrong, result))
        return result * factor if isinstance(result, torch.Tensor) else _off(result, factor)  # type: ignore[arg-type]

    return lambda *arguments, **options: wrong(step(*arguments, **options))


@pytest.mark.parametrize(
    ("capability", "dtype", "shared_memory"),
    [(75, "fp16", 64), (80, "bf16", 163), (86, "bf16", 99), (89, "bf16", 99), (90, "bf16", 227)],
)
def test_the_full_size_compiles_for_every_card(capability: int, dtype: str, shared_memory: int) -> None:
    """It needs no card; `shared_memory` is what one of this compute capability has for a program, in kB."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.support.compiled", str(capability), dtype]
    printed = subprocess.run(command, cwd=PROJECT, env=environment, check=True, capture_output=True).stdout
    used = json.loads(printed)
    assert len(used) == (6 if capability >= 80 else 5)
    assert max(used.values()) <= shared_memory * 1024
