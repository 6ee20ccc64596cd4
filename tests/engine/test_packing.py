"""A batch in one buffer: every text's rows are where cu_seqlens says, and what fills a buffer up belongs to no text."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embeddinggemma.engine.packing import TILE, Batch, Layout, Packing
from tests.support.token_ids import random_texts

CPU = torch.device("cpu")
LENGTHS = st.lists(st.integers(1, 400), min_size=1, max_size=12)
GARBAGE = 2**31 - 1


def _packed(texts: list[list[int]], spare_tokens: int = 0, spare_texts: int = 0) -> tuple[Batch, torch.Tensor, Packing]:
    """Pack texts into a buffer that was full of garbage and has room for more."""
    batch = Batch.of(texts)
    layout = Layout(len(batch.ids) + spare_tokens, len(texts) + spare_texts)
    buffer = np.full(layout.size, GARBAGE, np.int32)
    layout.fill(buffer, batch)
    return batch, *layout.views(torch.from_numpy(buffer), tuple(batch.lengths.tolist()))


@given(LENGTHS, st.integers(0, 300), st.integers(0, 9))
def test_every_text_is_where_cu_seqlens_says_and_counts_from_0(
    lengths: list[int], spare_tokens: int, spare_texts: int
) -> None:
    texts = random_texts([max(2, length) for length in lengths])
    batch, ids, packing = _packed(texts, spare_tokens, spare_texts)
    bounds = packing.cu_seqlens.tolist()
    for place, position in enumerate(batch.order):
        rows = slice(bounds[place], bounds[place + 1])
        assert ids[rows].tolist() == texts[position]
        assert packing.positions[rows].tolist() == list(range(len(texts[position])))
    assert bounds[len(texts) :] == [len(batch.ids)] * (spare_texts + 1)


@given(LENGTHS, st.integers(0, 300), st.integers(0, 9))
def test_the_tiles_cover_each_text_once_the_longest_first(
    lengths: list[int], spare_tokens: int, spare_texts: int
) -> None:
    batch, _, packing = _packed([[0] * length for length in lengths], spare_tokens, spare_texts)
    bounds = packing.cu_seqlens.tolist()
    covered: list[int] = []
    sizes: list[int] = []
    for text, first in zip(packing.tile_texts.tolist(), packing.tile_rows.tolist(), strict=True):
        if first < bounds[text + 1]:  # as the kernel decides that a tile is in use
            assert first >= bounds[text]
            covered += range(first, min(first + TILE, bounds[text + 1]))
            sizes.append(bounds[text + 1] - bounds[text])
    assert sorted(covered) == list(range(len(batch.ids)))
    assert sizes == sorted(sizes, reverse=True)


@given(LENGTHS, st.integers(0, 300))
def test_what_fills_a_buffer_up_is_a_row_of_every_table(lengths: list[int], spare: int) -> None:
    """Whatever the buffer held before: a number outside a table would be an illegal access, which ends the context."""
    batch, ids, packing = _packed([[7] * length for length in lengths], spare)
    assert ids[len(batch.ids) :].tolist() == [0] * spare
    assert packing.positions[len(batch.ids) :].tolist() == [0] * spare


@given(LENGTHS)
def test_the_parts_of_a_buffer_begin_at_multiples_of_16_bytes(lengths: list[int]) -> None:
    _, ids, packing = _packed([[7] * length for length in lengths])
    begins = [
        part.data_ptr() for part in (packing.positions, packing.cu_seqlens, packing.tile_rows, packing.tile_texts)
    ]
    assert all((begin - ids.data_ptr()) % 16 == 0 for begin in begins)


@given(LENGTHS)
def test_groups_hold_every_row_once_and_little_padding(lengths: list[int]) -> None:
    batch, _, packing = _packed([[7] * length for length in lengths])
    rows = torch.arange(len(batch.ids))
    seen = []
    for group in packing.groups:
        texts, longest = group.valid.shape
        padded = rows[group.rows]
        assert torch.equal(padded.reshape(texts * longest)[group.places], rows[group.packed])
        assert torch.equal(padded[group.valid], rows[group.packed])
        shortest = int(group.valid.sum(1).min())
        assert longest <= shortest + max(8, shortest // 8)
        seen.append(rows[group.packed])
    assert torch.equal(torch.cat(seen), rows)


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_ids_may_come_in_any_sequence(kind: type) -> None:
    batch = Batch.of([kind([5, 6, 7]), kind([8])])
    assert (batch.ids.tolist(), batch.lengths.tolist(), batch.order) == ([8, 5, 6, 7], [1, 3], [1, 0])
