"""FlashAttention over packed texts, written out for the CPU."""

import torch


def varlen_on_cpu(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
) -> torch.Tensor:
    """torch 2.11's varlen_attn, written out: cu_seqlens is all that it knows of the texts."""
    assert query.shape == key.shape == value.shape
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert cu_seq_q.diff().max() <= max_q
    assert cu_seq_k.diff().max() <= max_k
    out = torch.empty_like(query)
    for begin, end in zip(cu_seq_q.tolist(), cu_seq_q.tolist()[1:], strict=False):
        scores = torch.einsum("qhd,khd->hqk", query[begin:end], key[begin:end]) * scale
        places = torch.arange(end - begin)
        if window_size != (-1, -1):
            ahead = places[None] - places[:, None]
            scores.masked_fill_((ahead < -window_size[0]) | (ahead > window_size[1]), -torch.inf)
        out[begin:end] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value[begin:end])
    return out
