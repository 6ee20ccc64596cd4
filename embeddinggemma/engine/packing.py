"""A batch without padding: the tokens of all texts lie end to end, in one buffer with what says which text is where."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

# Queries that the fused attention handles together; every text begins a tile of its own.
TILE = 64
_ALIGNMENT = 4  # int32 values: Triton's fast loads and stores begin at a multiple of 16 bytes

Int32Array = npt.NDArray[np.int32]
Buffer = TypeVar("Buffer", Int32Array, torch.Tensor)


@dataclass(frozen=True)
class Batch:
    """The texts of one forward pass, the shortest first: neighbours of equal length share a product in attention."""

    ids: npt.NDArray[np.integer[Any]]
    """The token ids of all texts, end to end."""
    lengths: Int32Array
    """Tokens per text, ascending."""
    order: list[int]
    """The caller's position of each text."""

    @classmethod
    def of(cls, token_ids: Sequence[Sequence[int]]) -> "Batch":
        """Sort the texts and lay them end to end."""
        order = sorted(range(len(token_ids)), key=lambda position: len(token_ids[position]))
        lengths = np.array([len(token_ids[position]) for position in order], np.int32)
        return cls(np.concatenate([np.asarray(token_ids[position]) for position in order]), lengths, order)


@dataclass(frozen=True, eq=False)
class Packing:
    """Which text each of the packed tokens belongs to. Tensors are int32, on the device."""

    lengths: tuple[int, ...]
    """Tokens per text, known to the host, so that the device is never asked for them. A recorded forward pass has
    other lengths in each replay, so nothing that reads `lengths` can be recorded."""
    positions: torch.Tensor
    """[tokens]: each token's place within its text, from 0."""
    cu_seqlens: torch.Tensor
    """[texts + 1]: text i is rows cu_seqlens[i] to cu_seqlens[i + 1]."""
    tile_rows: torch.Tensor
    """[tiles]: the first row of each tile of queries."""
    tile_texts: torch.Tensor
    """[tiles]: the text that each tile belongs to."""

    @cached_property
    def groups(self) -> "list[Group]":
        """Runs of texts of about the same length: at most an eighth of a group's rows are padding, or 8 rows a text."""
        groups, first, row = [], 0, 0
        for text, length in enumerate(self.lengths, 1):
            longest = self.lengths[first] + max(8, self.lengths[first] // 8)
            if text == len(self.lengths) or self.lengths[text] > longest:
                groups.append(Group.of(np.array(self.lengths[first:text]), row, length, self.positions.device))
                row += sum(self.lengths[first:text])
                first = text
        return groups


@dataclass(frozen=True)
class Group:
    """Neighbouring texts, each padded to the longest of them: for attention without packing."""

    packed: slice
    """The rows of these texts in the batch."""
    rows: torch.Tensor
    """int64 [texts, longest]: the row of each token; a text's last row stands for its padding."""
    valid: torch.Tensor
    """bool [texts, longest]: False for padding."""
    places: torch.Tensor
    """int64 [rows]: where each packed row is in the padded ones, [texts * longest]."""

    @classmethod
    def of(cls, lengths: npt.NDArray[np.int64], begin: int, longest: int, device: torch.device) -> "Group":
        """Lay out texts of these lengths, whose first row is `begin`."""
        place = np.arange(longest)
        valid = place < lengths[:, None]
        rows = begin + (np.cumsum(lengths) - lengths)[:, None] + np.minimum(place, lengths[:, None] - 1)
        tensors = (torch.from_numpy(array).to(device) for array in (rows, valid, np.flatnonzero(valid)))
        return cls(slice(begin, begin + int(lengths.sum())), *tensors)


@dataclass(frozen=True)
class Layout:
    """Where the inputs of up to `texts` texts, `tokens` tokens in all, lie in one int32 buffer: one copy sends them."""

    tokens: int
    texts: int

    @cached_property
    def _bounds(self) -> list[tuple[int, int]]:
        """Begin and end of: ids, positions, cu_seqlens, tile_rows, tile_texts."""
        tiles = self.tokens // TILE + self.texts
        bounds, begin = [], 0
        for size in (self.tokens, self.tokens, self.texts + 1, tiles, tiles):
            bounds.append((begin, begin + size))
            begin += -(-size // _ALIGNMENT) * _ALIGNMENT
        return bounds

    @property
    def size(self) -> int:
        """Values of the buffer."""
        return self._bounds[-1][1]

    def _sections(self, buffer: Buffer) -> list[Buffer]:
        return [buffer[begin:end] for begin, end in self._bounds]

    def fill(self, buffer: Int32Array, batch: Batch) -> None:
        """Write a batch over whatever the buffer holds; the tokens that fill it up belong to no text."""
        ids, positions, cu_seqlens, tile_rows, tile_texts = self._sections(buffer)
        tokens, texts = len(batch.ids), len(batch.lengths)
        ids[:tokens] = batch.ids
        ids[tokens:] = positions[tokens:] = 0  # any number that a table has a row for
        cu_seqlens[0] = 0
        np.cumsum(batch.lengths, out=cu_seqlens[1 : texts + 1])
        cu_seqlens[texts + 1 :] = tokens
        positions[:tokens] = np.arange(tokens, dtype=np.int32) - np.repeat(cu_seqlens[:texts], batch.lengths)
        # The longest text first: its tiles take longest, and nothing else should be left to do when they end.
        tiles = -(-batch.lengths[::-1] // TILE)
        used = int(tiles.sum())
        tile_texts[:used] = np.repeat(np.arange(texts, dtype=np.int32)[::-1], tiles)
        tile_texts[used:] = 0
        within_text = np.arange(used, dtype=np.int32) - np.repeat(np.cumsum(tiles) - tiles, tiles)
        tile_rows[:used] = cu_seqlens[tile_texts[:used]] + TILE * within_text
        tile_rows[used:] = tokens

    def views(self, buffer: torch.Tensor, lengths: tuple[int, ...]) -> tuple[torch.Tensor, Packing]:
        """Return the token ids [tokens] in a buffer, and how they are packed."""
        ids, *rest = self._sections(buffer)
        return ids, Packing(lengths, *rest)
