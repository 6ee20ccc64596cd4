"""Token ids of random texts."""

from collections.abc import Sequence

import torch


def random_texts(lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    """Return random token ids of these lengths, <bos> and <eos> included."""
    generator = torch.Generator().manual_seed(seed)
    return [[2, *torch.randint(3, 262144, (n - 2,), generator=generator).tolist(), 1] for n in lengths]
