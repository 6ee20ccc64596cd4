"""Matrix products with a fixed weight: oneDNN where it is faster, `F.linear` elsewhere.

On the CPU, float32 `F.linear` goes to MKL, which reaches 45 % of oneDNN's speed for the same product on an AMD EPYC
(215 against 480 GFLOP/s at 1,024 rows). In bfloat16, a weight that oneDNN has already laid out in its own blocks
("prepacked") saves up to a third of the time of a short text. oneDNN's answer for a row is also the same to the last
bit with any other rows in the product; MKL's is not. PyTorch offers both only under private names, which torch.compile
uses itself. They are used in this file alone, and only after `onednn_works` has tested them.
"""

import os
from functools import cache

import torch
import torch.nn.functional as F

# oneDNN asks how many rows to expect; measured, no value between 1 and 2,048 changes its speed.
_ROWS_HINT = 1024
# oneDNN writes code for each shape of a product, so for each number of rows. Two caches keep it: oneDNN's own, and that
# of PyTorch's layer above it. Their default of 1,024 products each takes 0.4 GB (measured) and splits the heap. A pass
# of 2,048 tokens has at most 40 different products in float32, which all layers share; in bfloat16, where oneDNN does
# those of attention, too, at most about 120, one pair for each length of text.
_KEPT_PRODUCTS = 128
for _capacity in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):  # read at the first product
    os.environ.setdefault(_capacity, str(_KEPT_PRODUCTS))


class Linear:
    """`x @ weight.T` for a fixed weight [out, in]; prepacked for oneDNN on a CPU that offers it."""

    def __init__(self, weight: torch.Tensor, *, prepack: bool = True) -> None:
        """Take over `weight` [out, in], its device and dtype; `prepack=False` forces `F.linear`."""
        self.columns = weight.shape[1]
        self.prepacked = prepack and weight.device.type == "cpu" and onednn_works(weight.dtype)
        self.weight = _pack(weight) if self.prepacked else weight

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the product [rows, out] of x [rows, in], in the dtype of the weight, which `x` must have too."""
        return _onednn_product(x, self.weight) if self.prepacked else F.linear(x, self.weight)


class Gated:
    """`gelu(x @ gate.T) * (x @ up.T)`, GELU by tanh; oneDNN does both while it writes out a product."""

    def __init__(self, gate: torch.Tensor, up: torch.Tensor) -> None:
        """Take over both weights, [inner, hidden]."""
        self.gate, self.up = Linear(gate), Linear(up)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return [rows, inner] of x [rows, hidden]."""
        if self.gate.prepacked and self.up.prepacked:
            return _onednn_gelu_gated(x, self.gate.weight, self.up.weight)
        return F.gelu(self.gate(x), approximate="tanh").mul_(self.up(x))

    def products(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the two products alone, or with what oneDNN does meanwhile; return [rows, inner] of any values."""
        if self.gate.prepacked and self.up.prepacked:
            return self(x)
        self.gate(x)
        return self.up(x)


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return `x @ weight.T` on the CPU for a `weight` [out, in] that is used only once; x is [rows, in].

    `weight` or its transpose must be contiguous: for any other strides oneDNN falls back to its reference code, which
    is a thousand times slower.
    """
    return _onednn_product(x, weight) if x.dtype == torch.float32 and onednn_works(x.dtype) else F.linear(x, weight)


@cache
def onednn_works(dtype: torch.dtype) -> bool:
    """Return whether PyTorch has the private operators for this dtype on this CPU, and they compute correctly."""
    x, weight = torch.linspace(-1, 1, 6).view(2, 3).to(dtype), torch.linspace(-1, 1, 12).view(4, 3).to(dtype)
    expected = F.linear(x, weight)
    gated = F.gelu(expected, approximate="tanh") * expected
    try:
        packed = _pack(weight)
        answers = (
            _onednn_product(x, packed),
            _onednn_product(x, weight),
            _onednn_gelu_gated(x, packed, packed),
        )
    except (AttributeError, RuntimeError, TypeError):
        return False
    pairs = zip(answers, (expected, expected, gated), strict=True)
    return all(torch.allclose(answer, right, rtol=0, atol=8 * torch.finfo(dtype).eps) for answer, right in pairs)


def _pack(weight: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS_HINT)


def _onednn_product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


def _onednn_gelu_gated(x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    gated = torch.ops.mkldnn._linear_pointwise(x, gate, None, "gelu", [], "tanh")
    return torch.ops.mkldnn._linear_pointwise.binary(x, gated, up, None, "mul")
