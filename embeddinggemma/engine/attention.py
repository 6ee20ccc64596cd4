"""Attention among packed texts: the tokens of a batch lie end to end, and each text attends only to itself.

The model has one key/value head, shared by all query heads. The CPU therefore treats the heads of a token as separate
rows of one query matrix, and needs one product per text, or per band of a long text, for all heads at once.
"""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import groupby

import torch
import torch.nn.functional as F

from embeddinggemma.engine.linear import product
from embeddinggemma.engine.packing import Packing

# Queries per band: as many as the window, so a sliding layer's band meets 768 keys; the scores stay in the caches.
BAND = 256
# Tokens; for longer texts a product per text is faster than a batched product (measured, float32). Lower than the
# window, so that batched texts need no mask.
MAX_BATCHED_TOKENS = 128


# (query [tokens, heads, head_dim], key [tokens, head_dim], value [tokens, head_dim], packing, window)
# -> [tokens, heads * head_dim]. The scale is already in the query. A window of w lets a token see the tokens at most w
# places away on either side; None lets it see its whole text.
Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Packing, int | None], torch.Tensor]


def grouped_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, window: int | None
) -> torch.Tensor:
    """Attend among texts of about the same length, padded to the longest: on any device, in any dtype; see `Attention`.

    Measured on an H100 in float32: 1.2 to 5 ms a layer for 16,384 tokens, where one masked square takes 33 ms.
    """
    attended = torch.empty_like(query, memory_format=torch.contiguous_format)
    attend = _by_products if query.dtype == torch.float32 else _by_sdpa
    for group in packing.groups:
        texts, longest = group.valid.shape
        visible = group.valid[:, None]
        if window is not None and longest > window + 1:
            place = torch.arange(longest, device=query.device)
            visible = visible & ((place[:, None] - place).abs() <= window)
        padded = attend(query[group.rows], key[group.rows], value[group.rows], visible)
        attended[group.packed] = padded.reshape(texts * longest, *query.shape[1:])[group.places]
    return attended.flatten(1)


def _by_sdpa(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Return [texts, longest, heads, head_dim] of a query of this shape; key and value are [texts, longest, head_dim].

    visible, [texts, 1 or longest, longest], says which keys a query sees.
    """
    query = query.transpose(1, 2)
    key, value = (shared[:, None].expand_as(query) for shared in (key, value))
    mask = visible[:, None].expand(-1, 1, query.shape[2], -1)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0).transpose(1, 2)


def _by_products(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """See _by_sdpa, whose kernels are off by up to 1e-3 in float32 on an H200 (a text of 513 tokens)."""
    texts, longest, heads, _ = query.shape
    scores = torch.bmm(query.flatten(1, 2), key.transpose(1, 2)).view(texts, longest, heads, longest)
    scores.masked_fill_(~visible[:, :, None], -torch.inf)
    return torch.bmm(scores.softmax(-1).view(texts, -1, longest), value).view(query.shape)


def banded_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, window: int | None
) -> torch.Tensor:
    """Attend with plain products and a softmax between them, on the CPU (three times as fast as SDPA); see `Attention`.

    Short texts of equal length that lie side by side are one batched product. A long text is cut into bands of 256
    queries, and each band meets only the keys that its window reaches.
    """
    value = value.contiguous()  # as `product` requires
    batched = MAX_BATCHED_TOKENS if window is None else min(MAX_BATCHED_TOKENS, window)
    attended: list[torch.Tensor] = []
    for start, texts, length in _runs(packing.lengths):
        if length <= batched:
            rows = slice(start, start + texts * length)
            attended.append(_whole_texts(query[rows], key[rows], value[rows], texts))
            continue
        for first in range(start, start + texts * length, length):
            rows = slice(first, first + length)
            attended += _bands(query[rows], key[rows], value[rows], window)
    return torch.cat(attended) if len(attended) > 1 else attended[0]


def _runs(lengths: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
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
