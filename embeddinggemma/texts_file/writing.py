"""Vectors to a file: .npy, or .parquet where rows have names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from embeddinggemma.corpus.rows import Reject, Row
from embeddinggemma.tokenizer import TokenizedText

ROW_BYTES = 8
"""Of a row of Parquet, besides its vector and its id: tokens and whether it was truncated."""


class VectorFile(Protocol):
    """A file that is being written."""

    def add(
        self,
        rows: Sequence[Row | Reject],
        kept: Sequence[int],
        vectors: npt.NDArray[Any],
        tokenized: Sequence[TokenizedText],
    ) -> None:
        """Write the next rows.

        Args:
            rows: all of them.
            kept: the positions of those that have a vector.
            vectors: their vectors.
            tokenized: their tokens.

        """

    def close(self) -> None:
        """Write the rest."""


class NpyFile:
    """An array [rows, width]; a row without a vector is NaN, or 0 if the number type has none."""

    def __init__(self, path: Path, rows: int, width: int, dtype: np.dtype[Any]) -> None:
        """Write the header."""
        self._width, self._dtype = width, dtype.newbyteorder("<")
        self._file = path.open("wb")
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (rows, width)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def add(
        self,
        rows: Sequence[Row | Reject],
        kept: Sequence[int],
        vectors: npt.NDArray[Any],
        tokenized: Sequence[TokenizedText],  # noqa: ARG002 - Parquet has them
    ) -> None:
        """Write the next rows."""
        missing = np.nan if self._dtype.kind == "f" else 0
        block = np.full((len(rows), self._width), missing, self._dtype)
        block[kept] = vectors
        self._file.write(block.tobytes())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class ParquetFile:
    """Columns id, vector, tokens and truncated; of a row without a vector only the id is not null."""

    def __init__(self, path: Path, width: int, dtype: np.dtype[Any]) -> None:
        """Begin the file."""
        self._width, self._dtype = width, dtype
        self._schema = pa.schema(
            [
                pa.field("id", pa.string()),
                pa.field("vector", pa.list_(pa.from_numpy_dtype(dtype), width)),
                pa.field("tokens", pa.int32()),
                pa.field("truncated", pa.bool_()),
            ]
        )
        self._writer = pq.ParquetWriter(path, self._schema, use_dictionary=False, compression="zstd")

    def add(
        self,
        rows: Sequence[Row | Reject],
        kept: Sequence[int],
        vectors: npt.NDArray[Any],
        tokenized: Sequence[TokenizedText],
    ) -> None:
        """Write the next rows."""
        missing = np.ones(len(rows), bool)
        missing[kept] = False
        numbers = np.zeros((len(rows), self._width), self._dtype)
        numbers[kept] = vectors
        tokens: list[int | None] = [None] * len(rows)
        truncated: list[bool | None] = [None] * len(rows)
        for position, text in zip(kept, tokenized, strict=True):
            tokens[position], truncated[position] = len(text.ids), text.truncated
        columns = [
            pa.array([row.id or None for row in rows], pa.string()),
            pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), self._width, mask=pa.array(missing)),
            pa.array(tokens, pa.int32()),
            pa.array(truncated, pa.bool_()),
        ]
        self._writer.write_table(pa.table(columns, schema=self._schema))

    def close(self) -> None:
        """Write the end of the file."""
        self._writer.close()
