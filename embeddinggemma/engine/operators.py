"""The steps of the network between its matrix products, on every device; `kernels.py` has them fused for a GPU."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F

from embeddinggemma.engine.attention import Attention, banded_attention, grouped_attention
from embeddinggemma.engine.checkpoint import Config
from embeddinggemma.engine.linear import Gated


@dataclass(frozen=True, eq=False)
class Rotation:
    """The rotary embedding of one batch."""

    table: torch.Tensor
    """complex64 [positions, head_dim / 2]: e^(i · position · frequency)."""
    positions: torch.Tensor
    """int32 [tokens]."""

    @cached_property
    def rows(self) -> torch.Tensor:
        """Each token's row of the table, [tokens, 1, head_dim / 2]."""
        return self.table[self.positions][:, None]


class GatedProduct(Protocol):
    """The first half of a layer's MLP, loaded."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return gelu(x @ gate.T) · (x @ up.T), [rows, inner], GELU by tanh."""

    def products(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the matrix products alone: the speed that nothing here can exceed."""


class Operators:
    """The steps as PyTorch operators.

    x is the residual stream, float32 [tokens, hidden]. What the matrix products read, "normed" [tokens, hidden], has
    their dtype. A factor [hidden] is applied after a norm, unless it is folded into the matrix that follows (None).
    """

    def __init__(self, config: Config, device: torch.device, dtype: torch.dtype) -> None:
        self.config, self.device, self.dtype = config, device, dtype
        self.attend: Attention = banded_attention if device.type == "cpu" else grouped_attention

    @property
    def name(self) -> str:
        """What they are made of, for people who compare machines."""
        return "plain"

    @property
    def recordable(self) -> bool:
        """Whether a graph can hold a forward pass: it never waits for the device, and reads no lengths on the host."""
        return False

    @property
    def factors_apart(self) -> bool:
        """Whether a norm's factor is applied by the norm, and not folded into the matrix that follows.

        Beside an activation of 800,000 the others leave the norm at 1e-4 and below, where float16 has few digits left;
        the factor brings them back before they are rounded.
        """
        return self.dtype == torch.float16

    def gated(self, gate: torch.Tensor, up: torch.Tensor) -> GatedProduct:
        """Take over both weights, [inner, hidden]."""
        return Gated(gate, up)

    def embed(
        self, ids: torch.Tensor, table: torch.Tensor, factor: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return x = table[ids] · sqrt(hidden), and norm(x) · factor."""
        x = F.embedding(ids, table).float() * math.sqrt(self.config.hidden_size)
        return x, self._normed(x, factor, self.dtype)

    def add_norm(
        self,
        x: torch.Tensor,
        update: torch.Tensor,
        weight: torch.Tensor,
        factor: torch.Tensor | None,
        dtype: torch.dtype,
        scale: float = 1.0,
    ) -> torch.Tensor:
        """Add norm(update / scale) · weight to x, in place, and return norm(x) · factor in `dtype`."""
        update = update.float()
        x.addcmul_(rms_norm(update, self.config.rms_norm_eps * scale**2, out=update), weight)
        return self._normed(x, factor, dtype)

    def turn(
        self, mixed: torch.Tensor, norms: torch.Tensor, rotation: Rotation
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the query [tokens, heads, head_dim], the key and the value [tokens, head_dim].

        mixed [tokens, (heads + 2) · head_dim] holds them in this order. Each head of the query and the key is
        normalised, multiplied by its row of norms [heads + 1, head_dim], and rotated as complex numbers.
        """
        heads, head_dim = norms.shape
        turned = mixed[:, :-head_dim].unflatten(1, (heads, head_dim)).float()
        turned = rms_norm(turned, self.config.rms_norm_eps, out=turned).mul_(norms)
        pairs = torch.view_as_complex(turned.unflatten(2, (-1, 2)))
        query = torch.view_as_real(pairs[:, :-1] * rotation.rows).flatten(2).to(self.dtype)
        key = torch.view_as_real(pairs[:, -1:] * rotation.rows).flatten(1).to(self.dtype)
        return query, key, mixed[:, -head_dim:]

    def pool(self, x: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
        """Return the mean of each text's rows (a "bag" of consecutive rows), [texts, hidden], of x [tokens, hidden]."""
        rows = torch.arange(len(x), device=x.device, dtype=cu_seqlens.dtype)
        return F.embedding_bag(rows, x, cu_seqlens, mode="mean", include_last_offset=True)

    def _normed(self, x: torch.Tensor, factor: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
        normed = rms_norm(x, self.config.rms_norm_eps)
        return (normed if factor is None else normed.mul_(factor)).to(dtype)


def rms_norm(x: torch.Tensor, eps: float, out: torch.Tensor | None = None) -> torch.Tensor:
    """Return x / sqrt(mean(x²) + eps) along the last dimension, in float32.

    `out` may be `x` itself; on the CPU that spares the caches another tensor.
    """
    if x.is_cuda:
        return F.rms_norm(x, x.shape[-1:], None, eps)  # one kernel on the GPU, seven passes on the CPU
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.mul(x, torch.addcmul(x.new_tensor(eps), norm, norm, value=1 / x.shape[-1]).rsqrt_(), out=out)
