"""Attention among packed texts: the tokens of a batch lie end to end, and each text attends only to itself.

The model has one key/value head, shared by all query heads. The CPU therefore treats the heads of a token as separate
rows of one query matrix, and needs one product per text, or per band of a long text, for all heads at once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import cast

import torch
import torch.nn.functional as F

from embeddinggemma.engine.linear import product

# Queries per band: as many as the window, so a sliding layer's band meets 768 keys; the scores stay in the caches.
BAND = 256
# Tokens; for longer texts a product per text is faster than a batched product (measured, float32). Lower than the
# window, so that batched texts need no mask.
MAX_GROUPED_TOKENS = 128


@dataclass(frozen=True)
class Packing:
    """Which text each of the packed tokens belongs to."""

    lengths: tuple[int, ...]
    """Tokens per text, known to the host, so that the device is never asked for them."""
    cu_seqlens: torch.Tensor
    """int32 [texts + 1] on the device: text i is rows cu_seqlens[i] to cu_seqlens[i + 1]."""
    positions: torch.Tensor
    """int64 [tokens] on the device: each token's place within its text, from 0."""

    @classmethod
    def of(cls, lengths: tuple[int, ...], device: torch.device) -> "Packing":
        """Lay texts of these lengths end to end, in this order."""
        ends = torch.tensor((0, *lengths)).cumsum(0)
        positions = torch.cat([torch.arange(length) for length in lengths])
        return cls(lengths, ends.to(device, torch.int32), positions.to(device))


# (query [tokens, heads, head_dim], key [tokens, head_dim], value [tokens, head_dim], packing, window)
# -> [tokens, heads * head_dim]. The scale is already in the query. A window of w lets a token see the tokens at most w
# places away on either side; None lets it see its whole text.
Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Packing, int | None], torch.Tensor]


def attention_for(device: torch.device, dtype: torch.dtype) -> Attention:
    """Return the fastest attention that runs on this device in this dtype."""
    if device.type == "cpu":
        return banded_attention
    if device.type == "cuda" and dtype == torch.bfloat16 and torch.cuda.get_device_capability(device) >= (8, 0):
        return varlen_attention
    return masked_attention


def varlen_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, window: int | None
) -> torch.Tensor:
    """Attend with FlashAttention over the packed rows (bfloat16, compute capability 8.0 and up); see `Attention`."""
    from torch.nn.attention.varlen import varlen_attn  # registers CUDA operators: only when they are needed

    longest, side = max(packing.lengths), -1 if window is None else window
    # torch 2.11 has no enable_gqa, so the key/value head is repeated for each query head: a stride of 0, not a copy.
    key, value = (shared[:, None].expand(query.shape) for shared in (key, value))
    cu_seqlens = packing.cu_seqlens
    attended = varlen_attn(
        query, key, value, cu_seqlens, cu_seqlens, longest, longest, scale=1.0, window_size=(side, side)
    )
    return cast(torch.Tensor, attended).flatten(1)  # a tuple only if auxiliary outputs are asked for


def masked_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, window: int | None
) -> torch.Tensor:
    """Attend with one square of scores for the whole batch, masked to each text: for devices without `varlen_attn`."""
    rows = torch.arange(len(query), device=query.device, dtype=torch.int32)
    text = torch.bucketize(rows, packing.cu_seqlens, right=True)
    visible = text[:, None] == text
    if window is not None:
        visible &= (rows[:, None] - rows).abs() <= window
    key, value = (shared[None].expand(query.shape[1], -1, -1) for shared in (key, value))
    attended = F.scaled_dot_product_attention(query.transpose(0, 1), key, value, attn_mask=visible, scale=1.0)
    return attended.transpose(0, 1).flatten(1)


def banded_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, window: int | None
) -> torch.Tensor:
    """Attend with plain products and a softmax between them, on the CPU (three times as fast as SDPA); see `Attention`.

    Short texts of equal length that lie side by side are one batched product. A long text is cut into bands of 256
    queries, and each band meets only the keys that its window reaches.
    """
    value = value.contiguous()  # as `product` requires
    grouped = MAX_GROUPED_TOKENS if window is None else min(MAX_GROUPED_TOKENS, window)
    attended: list[torch.Tensor] = []
    for start, texts, length in _groups(packing.lengths):
        if length <= grouped:
            rows = slice(start, start + texts * length)
            attended.append(_whole_texts(query[rows], key[rows], value[rows], texts))
            continue
        for first in range(start, start + texts * length, length):
            rows = slice(first, first + length)
            attended += _bands(query[rows], key[rows], value[rows], window)
    return torch.cat(attended) if len(attended) > 1 else attended[0]


def _groups(lengths: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """Yield (first row, texts, tokens per text) of each run of neighbouring texts of equal length."""
    start = 0
    for length, run in groupby(lengths):
        texts = len(list(run))
        yield start, texts, length
        start += texts * length


def _whole_texts(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, texts: int) -> torch.Tensor:
    """Return the attention of `texts` short texts of equal length, each to its whole self; shapes as in `Attention`."""
    tokens, _, head_dim = query.shape
    key, value = key.view(texts, -1, head_dim), value.view(texts, -1, head_dim)
    scores = torch.bmm(query.view(texts, -1, head_dim), key.transpose(1, 2))
    return torch.bmm(torch.softmax(scores, -1), value).view(tokens, -1)


def _bands(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None) -> Iterator[torch.Tensor]:
    """Yield the attention of one text to itself, a band of queries at a time; shapes as in `Attention`."""
    length, heads, head_dim = query.shape
    reach = length if window is None else window
    for begin in range(0, length, BAND):
        end = min(begin + BAND, length)
        low, high = max(0, begin - reach), min(length, end + reach)
        scores = product(query[begin:end].reshape(-1, head_dim), key[low:high])
        if window is not None and high - low > window + 1:
            first = low - (begin - window)  # the mask's column for the first key; above 0 near a text's start
            mask = _window_mask(window, query.dtype)[: end - begin, :, first : first + high - low]
            scores.unflatten(0, (-1, heads)).add_(mask)
        yield product(torch.softmax(scores, -1), value[low:high].t()).view(end - begin, -1)


@cache
def _window_mask(window: int, dtype: torch.dtype) -> torch.Tensor:
    """Return [BAND, 1, BAND + 2 * window]: 0 where visible, -inf elsewhere; key 0 is `window` before the band."""
    distance = torch.arange(BAND + 2 * window) - window - torch.arange(BAND)[:, None]
    mask = torch.zeros(BAND, 1, BAND + 2 * window, dtype=dtype)
    return mask.masked_fill_((distance.abs() > window)[:, None], -torch.inf)
