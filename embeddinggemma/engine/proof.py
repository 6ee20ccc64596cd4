"""Which operators a device gets: on a GPU the fused kernels, once they compile and agree with the plain operators.

No refusal ends a start. Without Triton, a compiler or a card that Triton knows, and where a kernel is wrong, the
plain operators take over, and the log says why.
"""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Lock

import numpy as np
import torch

from embeddinggemma.engine.attention import Attention, grouped_attention
from embeddinggemma.engine.checkpoint import Config
from embeddinggemma.engine.operators import Operators, Rotation
from embeddinggemma.engine.packing import TILE, Batch, Layout

log = logging.getLogger(__name__)

# Keys of a block, warps of a program and blocks on their way from memory. On an H200 the first is the fastest of ten
# for mixed texts (49 µs a layer for 16,000 tokens; FlashAttention 2 takes 68), and close to it for others. The second
# needs less shared memory.
_ATTENTION_CHOICES = ((32, 4, 2), (32, 4, 1))
# Times the dtype's epsilon, relative and absolute, for results of about 1. A result in 16 bits is off by its rounding
# and that of its operands; one in float32 by the order in which up to 768 products are summed up.
_TOLERANCE = {torch.float32: 64, torch.bfloat16: 4, torch.float16: 4}

_PROVING = Lock()

Results = dict[str, torch.Tensor]


class Draw:
    """Draws the same random values for a device and dtype as for another: bfloat16 and float16 hold them exactly."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._dice = device, torch.Generator().manual_seed(0)

    def __call__(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return a tensor of values from -2 to 2."""
        return (torch.randint(-16, 17, shape, generator=self._dice) / 8).to(self._device, dtype)


Compute = Callable[[Operators, Draw, bool], Results]


def proved_operators(config: Config, device: torch.device, dtype: torch.dtype) -> Operators:
    """Return the fastest operators that work on a device; they are proved once, whoever asks first.

    Attention by tiles needs matrix units for 16-bit numbers, which Triton uses from compute capability 8.0 on. Where it
    does not pass the comparison, attention stays as in Operators.
    """
    with _PROVING:
        return _proved_operators(config, device, dtype)


@cache
def _proved_operators(config: Config, device: torch.device, dtype: torch.dtype) -> Operators:
    plain = Operators(config, device, dtype)
    if device.type == "cpu":
        return plain
    try:
        from embeddinggemma.engine.kernels import FusedOperators, TileAttention
    except ImportError as error:
        log.warning("kernels: none, plain operators instead: %s", error)
        return plain
    started = time.perf_counter()
    fused = FusedOperators(config, device, dtype)
    tiled = dtype != torch.float32 and torch.cuda.get_device_capability(device) >= (8, 0)
    choices = [TileAttention(*choice) for choice in _ATTENTION_CHOICES] if tiled else []
    with ThreadPoolExecutor() as threads:  # most of the time is spent in compilers
        attends = threads.submit(_first_right, choices, config, device, dtype)
        reasons = list(threads.map(lambda compute: failure(fused, compute), (norms, heads, gated_product)))
    if wrong := [reason for reason in reasons if reason]:
        log.warning("kernels: none, plain operators instead: %s", "; ".join(wrong))
        return plain
    fused.attend = attends.result() or fused.attend
    log.info("kernels: %.2f s", time.perf_counter() - started)
    return fused


def _first_right(
    choices: Sequence[Attention], config: Config, device: torch.device, dtype: torch.dtype
) -> Attention | None:
    """Return the first attention that proves right; log what is wrong with those before it."""
    run = Operators(config, device, dtype)
    for choice in choices:
        run.attend = choice
        reason = failure(run, attention)
        if not reason:
            return choice
        log.warning("kernels: attention: %s", reason)
    return None


def failure(run: Operators, compute: Compute) -> str | None:
    """Return what is wrong with operators, or None: they are compared with float32 on the CPU."""
    exact = Operators(run.config, torch.device("cpu"), torch.float32)
    exact.attend = grouped_attention
    try:
        right, results = (compute(operators, Draw(operators.device), run.factors_apart) for operators in (exact, run))
        for name, ours in results.items():
            tolerance = _TOLERANCE[ours.dtype] * torch.finfo(ours.dtype).eps
            if not torch.allclose(ours.float().cpu(), right[name], rtol=tolerance, atol=tolerance):
                return f"{name} is wrong, off by {(ours.float().cpu() - right[name]).abs().max():.2g}"
    except Exception as error:  # Triton raises errors of many types
        return f"{type(error).__name__}: {error}"
    return None


def norms(run: Operators, draw: Draw, factors_apart: bool) -> Results:
    """Compute the steps that update the residual stream."""
    tokens, hidden = 5, run.config.hidden_size
    ids = torch.tensor([0, 3, 1, 2, 0], dtype=torch.int32, device=run.device)
    factor = draw(hidden) if factors_apart else None
    x, embedded = run.embed(ids, draw(4, hidden), factor)
    normed = run.add_norm(x, draw(tokens, hidden, dtype=run.dtype), draw(hidden), factor, run.dtype, scale=0.25)
    last = run.add_norm(x, draw(tokens, hidden, dtype=run.dtype), draw(hidden), None, torch.float32)
    cu_seqlens = torch.tensor([0, 4, tokens, tokens], dtype=torch.int32, device=run.device)
    return {
        "the embedding": embedded,
        "a norm": normed,
        "the last norm": last,
        "the residual stream": x.clone(),
        "the mean": run.pool(x, cu_seqlens),
    }


def heads(run: Operators, draw: Draw, _: bool) -> Results:
    """Compute query, key and value."""
    tokens, heads, size = 5, run.config.num_attention_heads, run.config.head_dim
    angles = torch.polar(torch.ones(tokens, size // 2), draw(tokens, size // 2).cpu()).to(run.device)
    rotation = Rotation(angles, torch.arange(tokens, dtype=torch.int32, device=run.device).flip(0))
    mixed = draw(tokens, (heads + 2) * size, dtype=run.dtype)
    query, key, value = run.turn(mixed, draw(heads + 1, size), rotation)
    return {"the query": query, "the key": key, "the value": value}


def gated_product(run: Operators, draw: Draw, _: bool) -> Results:
    """Compute the first half of the MLP."""
    hidden, inner = run.config.hidden_size, run.config.intermediate_size
    gated = run.gated(draw(inner, hidden, dtype=run.dtype) / 16, draw(inner, hidden, dtype=run.dtype) / 16)
    return {"the gated product": gated(draw(5, hidden, dtype=run.dtype))}


def attention(run: Operators, draw: Draw, _: bool) -> Results:
    """Compute attention on random values, within a window and without, with rows that belong to no text."""
    config, lengths = run.config, (1, 2, TILE, TILE + 1, 5 * TILE)
    heads, size = config.num_attention_heads, config.head_dim
    layout = Layout(sum(lengths) + TILE, len(lengths) + 3)
    buffer = np.zeros(layout.size, np.int32)
    layout.fill(buffer, Batch.of([[0] * length for length in lengths]))
    packing = layout.views(torch.from_numpy(buffer).to(run.device), lengths)[1]
    mixed = draw(layout.tokens, (heads + 2) * size, dtype=run.dtype)
    mixed[:, : heads * size] /= 4  # scores of about 5: large enough that one key more or less is seen
    query, key, value = mixed.split((heads * size, size, size), dim=1)
    query = query.unflatten(1, (heads, size))
    within = run.attend(query, key, value, packing, config.window)[: sum(lengths)]
    return {
        "attention within a window": within,
        "attention": run.attend(query, key, value, packing, None)[: sum(lengths)],
    }
