"""What lies between the matrix products, as Triton kernels: on a GPU each step is one pass over its tensors.

PyTorch's operators write a float32 copy of the activations for each norm, cast, factor and sum: four fifths of a
forward pass on an H100. Here nothing leaves the registers between reading a step's inputs and writing its results. The
formulas are those of `operators.PlainOperators`, which these kernels have to agree with before they are used. They
compute in float32, whatever the dtype of the tensors.

One program of a kernel handles one token; of `_gelu_gated`, a block of values; of `_attend`, a tile of queries.
Triton's ranges are powers of two, so `PADDED` covers a size and a mask cuts it. Names in capitals are known when a
kernel is compiled.
"""

import math

import torch
import triton
import triton.language as tl

from embeddinggemma.engine.checkpoint import Config
from embeddinggemma.engine.linear import Linear
from embeddinggemma.engine.operators import GatedProduct, Operators, Rotation
from embeddinggemma.engine.packing import TILE, Packing

_LOG2_E = tl.constexpr(1.4426950408889634)
_SQRT_2_OVER_PI = tl.constexpr(0.7978845608028654)


@triton.jit
def _row(matrix, row, column, SIZE: tl.constexpr):
    """Return row `row` of matrix [rows, SIZE] as float32, 0 beyond its end."""
    return tl.load(matrix + row * SIZE + column, mask=column < SIZE, other=0.0).to(tl.float32)


@triton.jit
def _put_normed(normed, row, column, values, factor, eps, SIZE: tl.constexpr):
    """Write norm(values), times `factor` [SIZE] if there is one, as row `row` of normed [rows, SIZE]."""
    values = values * tl.rsqrt(tl.sum(values * values, 0) / SIZE + eps)
    if factor is not None:
        values *= _row(factor, 0, column, SIZE)
    tl.store(normed + row * SIZE + column, values.to(normed.dtype.element_ty), mask=column < SIZE)


@triton.jit
def _embed(ids, table, scale, x, factor, eps, normed, HIDDEN: tl.constexpr, PADDED: tl.constexpr):
    """x = table[id] · scale, and normed = norm(x) · factor. Saves a pass over x."""
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, PADDED)
    values = _row(table, tl.load(ids + row).to(tl.int64), column, HIDDEN) * scale
    tl.store(x + row * HIDDEN + column, values, mask=column < HIDDEN)
    _put_normed(normed, row, column, values, factor, eps, HIDDEN)


@triton.jit
def _add_norm(update, update_eps, weight, x, factor, eps, normed, HIDDEN: tl.constexpr, PADDED: tl.constexpr):
    """x += norm(update) · weight, and normed = norm(x) · factor. Saves five passes over x."""
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, PADDED)
    values = _row(update, row, column, HIDDEN)
    values *= tl.rsqrt(tl.sum(values * values, 0) / HIDDEN + update_eps)
    values = _row(x, row, column, HIDDEN) + values * _row(weight, 0, column, HIDDEN)
    tl.store(x + row * HIDDEN + column, values, mask=column < HIDDEN)
    _put_normed(normed, row, column, values, factor, eps, HIDDEN)


@triton.jit
def _turn(mixed, norms, eps, rotation, positions, HEADS: tl.constexpr, PADDED: tl.constexpr, SIZE: tl.constexpr):
    """Each head = norm(head) · its norm, times e^(i · angle), in place; a head is SIZE / 2 complex numbers.

    mixed [tokens, HEADS + 1, SIZE] holds the queries' heads and the key, which are turned, and the value, which is not.
    rotation [positions, SIZE] holds cosine and sine in turns. Saves a float32 copy and six passes over it.
    """
    row = tl.program_id(0).to(tl.int64)
    head, column = tl.arange(0, PADDED)[:, None], tl.arange(0, SIZE)[None, :]
    place, inside = mixed + (row * (HEADS + 1) + head) * SIZE + column, head < HEADS
    values = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    values *= tl.rsqrt(tl.sum(values * values, 1) / SIZE + eps)[:, None]
    values *= tl.load(norms + head * SIZE + column, mask=inside, other=0.0)
    real, imaginary = tl.split(tl.reshape(values, (PADDED, SIZE // 2, 2)))
    angle = tl.load(rotation + tl.load(positions + row) * SIZE + tl.arange(0, SIZE))
    cosine, sine = tl.split(tl.reshape(angle, (1, SIZE // 2, 2)))
    turned = tl.join(real * cosine - imaginary * sine, real * sine + imaginary * cosine)
    tl.store(place, tl.reshape(turned, (PADDED, SIZE)).to(mixed.dtype.element_ty), mask=inside)


@triton.jit
def _gelu_gated(gate_up, gated, count, INNER: tl.constexpr, BLOCK: tl.constexpr):
    """gated = gelu(gate) · up, GELU by tanh; gate_up [tokens, 2 · INNER] holds both. Saves two passes."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside, gate_place = place < count, place + place // INNER * INNER
    gate = tl.load(gate_up + gate_place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + gate_place + INNER, mask=inside, other=0.0).to(tl.float32)
    # 1 + tanh(y) = 2 - 2 / (e^2y + 1), which is right for an e^2y of 0 and of infinity too.
    y = _SQRT_2_OVER_PI * (gate + 0.044715 * gate * gate * gate)
    values = gate * (1 - 1 / (tl.exp(2 * y) + 1)) * up
    tl.store(gated + place, values.to(gated.dtype.element_ty), mask=inside)


@triton.jit
def _attend(
    query, key, value, attended, cu_seqlens, tile_rows, tile_texts, window,
    STRIDE: tl.constexpr, HEADS: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """attended = softmax(query · keyᵀ) · value within each text, for one head and one tile of ROWS queries.

    query [tokens, HEADS, SIZE], key and value [tokens, SIZE] have rows STRIDE values apart. The softmax is summed up
    over blocks of KEYS keys, so no score is ever written (FlashAttention, arXiv 2205.14135). A grid made of tiles saves
    the empty programs that a grid for the longest text has for every shorter text.
    """
    head, tile = tl.program_id(0) % HEADS, tl.program_id(0) // HEADS
    text, first = tl.load(tile_texts + tile), tl.load(tile_rows + tile)
    begin, end = tl.load(cu_seqlens + text), tl.load(cu_seqlens + text + 1)
    if first >= end:  # a batch with fewer tiles than its graph has the rest of them outside every text
        return
    # From here on rows are counted within the text, so that their products with a stride fit into 32 bits.
    text_begin = begin.to(tl.int64)
    length, first = end - begin, first - begin
    column = tl.arange(0, SIZE)[None, :]
    row = first + tl.arange(0, ROWS)
    # A row outside the text is read as the text's last; it is masked below, or not written.
    place = tl.minimum(row, length - 1)[:, None]
    queries = tl.load(query + text_begin * STRIDE + head * SIZE + place * STRIDE + column)
    most = tl.full((ROWS,), -1e30, tl.float32)  # finite: a block may hide all its keys from a row
    total = tl.zeros((ROWS,), tl.float32)
    result = tl.zeros((ROWS, SIZE), tl.float32)
    keys, values = key + text_begin * STRIDE, value + text_begin * STRIDE
    last = tl.minimum(length, first + ROWS + window)
    for start in tl.range(tl.maximum(0, first - window), last, KEYS):
        other = start + tl.arange(0, KEYS)
        block = tl.minimum(other, length - 1)[:, None] * STRIDE + column
        scores = tl.dot(queries, tl.load(keys + block).T) * _LOG2_E
        distance = row[:, None] - other[None, :]
        visible = (other[None, :] < last) & (distance <= window) & (distance >= -window)
        scores = tl.where(visible, scores, float("-inf"))
        higher = tl.maximum(most, tl.max(scores, 1))
        weights, shrink = tl.exp2(scores - higher[:, None]), tl.exp2(most - higher)
        total = total * shrink + tl.sum(weights, 1)
        result = result * shrink[:, None]
        result = tl.dot(weights.to(value.dtype.element_ty), tl.load(values + block), result)
        most = higher
    result = (result / total[:, None]).to(attended.dtype.element_ty)
    written = attended + text_begin * (HEADS * SIZE) + head * SIZE
    tl.store(written + row[:, None] * (HEADS * SIZE) + column, result, mask=row[:, None] < length)


@triton.jit
def _mean_pool(x, cu_seqlens, pooled, HIDDEN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """pooled = the mean of each text's rows of x [tokens, HIDDEN], 0 if it has none; one program for COLUMNS of a text.

    Saves the list of rows, and the long texts' time: PyTorch's operator adds up a column in one thread.
    """
    text, column = tl.program_id(0), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    begin, end = tl.load(cu_seqlens + text), tl.load(cu_seqlens + text + 1)
    length, rows = end - begin, x + begin.to(tl.int64) * HIDDEN
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in tl.range(0, length, ROWS):
        row = start + tl.arange(0, ROWS)[:, None]
        total += tl.load(rows + row * HIDDEN + column, mask=(row < length) & (column < HIDDEN), other=0.0)
    mean = tl.sum(total, 0) / tl.maximum(length, 1)
    tl.store(pooled + text.to(tl.int64) * HIDDEN + column, mean, mask=column < HIDDEN)


_NO_WINDOW = 1 << 30
_POOLED_ROWS, _POOLED_COLUMNS = 32, 128  # of one step of _mean_pool
_BLOCK = 1024  # values of one program of _gelu_gated


class FusedOperators(Operators):
    """The steps as kernels; formulas and arguments as in Operators."""

    def __init__(self, config: Config, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(config, device, dtype)
        self._hidden = {"HIDDEN": config.hidden_size, "PADDED": triton.next_power_of_2(config.hidden_size)}

    @property
    def name(self) -> str:
        """See Operators."""
        return "triton" if self.recordable else "triton, attention plain"

    @property
    def recordable(self) -> bool:
        """See Operators."""
        return isinstance(self.attend, TileAttention)

    def gated(self, gate: torch.Tensor, up: torch.Tensor) -> GatedProduct:
        """Take over both weights, [inner, hidden], as one matrix."""
        return FusedGated(gate, up)

    def embed(
        self, ids: torch.Tensor, table: torch.Tensor, factor: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See Operators."""
        x = torch.empty(len(ids), self.config.hidden_size, device=ids.device)
        normed = torch.empty_like(x, dtype=self.dtype)
        scale, eps = math.sqrt(self.config.hidden_size), self.config.rms_norm_eps
        _embed[len(ids),](ids, table, scale, x, factor, eps, normed, **self._hidden)
        return x, normed

    def add_norm(
        self,
        x: torch.Tensor,
        update: torch.Tensor,
        weight: torch.Tensor,
        factor: torch.Tensor | None,
        dtype: torch.dtype,
        scale: float = 1.0,
    ) -> torch.Tensor:
        """See Operators."""
        normed, eps = torch.empty_like(x, dtype=dtype), self.config.rms_norm_eps
        _add_norm[len(x),](update, eps * scale**2, weight, x, factor, eps, normed, **self._hidden)
        return normed

    def turn(
        self, mixed: torch.Tensor, norms: torch.Tensor, rotation: Rotation
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See Operators; query and key are parts of `mixed`, changed in place."""
        heads, size = norms.shape
        padded = triton.next_power_of_2(heads)
        table, eps = torch.view_as_real(rotation.table), self.config.rms_norm_eps
        _turn[len(mixed),](mixed, norms, eps, table, rotation.positions, HEADS=heads, PADDED=padded, SIZE=size)
        query, key, value = mixed.split(((heads - 1) * size, size, size), dim=1)
        return query.unflatten(1, (-1, size)), key, value

    def pool(self, x: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
        """See Operators."""
        texts, hidden = len(cu_seqlens) - 1, x.shape[1]
        pooled = torch.empty(texts, hidden, device=x.device)
        columns = triton.cdiv(hidden, _POOLED_COLUMNS)
        _mean_pool[texts, columns](x, cu_seqlens, pooled, HIDDEN=hidden, ROWS=_POOLED_ROWS, COLUMNS=_POOLED_COLUMNS)
        return pooled


class FusedGated:
    """gelu(x @ gate.T) · (x @ up.T) as one product, and one kernel behind it."""

    def __init__(self, gate: torch.Tensor, up: torch.Tensor) -> None:
        self._gate_up, self._inner = Linear(torch.cat([gate, up])), len(gate)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return [rows, inner] of x [rows, hidden]."""
        gate_up = self._gate_up(x)
        gated = torch.empty(len(x), self._inner, device=x.device, dtype=x.dtype)
        programs = triton.cdiv(gated.numel(), _BLOCK)
        _gelu_gated[programs,](gate_up, gated, gated.numel(), INNER=self._inner, BLOCK=_BLOCK)
        return gated

    def products(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the product alone; return its first half, [rows, inner]."""
        return self._gate_up(x)[:, : self._inner]


class TileAttention:
    """Attention for packed texts without padding, in bfloat16 or float16; see `attention.Attention`."""

    def __init__(self, keys: int, warps: int, stages: int) -> None:
        self._keys, self._launch = keys, {"num_warps": warps, "num_stages": stages}

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, window: int | None
    ) -> torch.Tensor:
        """Return [tokens, heads * head_dim]."""
        tokens, heads, size = query.shape
        attended = torch.empty(tokens, heads * size, device=query.device, dtype=query.dtype)
        _attend[heads * len(packing.tile_rows),](
            query, key, value, attended, packing.cu_seqlens, packing.tile_rows, packing.tile_texts,
            _NO_WINDOW if window is None else window, STRIDE=query.stride(0), HEADS=heads, SIZE=size, ROWS=TILE,
            KEYS=self._keys, **self._launch,
        )  # fmt: skip
        return attended
