"""A file of texts to rows. Its content says what it is, as a URL need not have a name that does."""

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path

import pyarrow as pa

from embeddinggemma.corpus.options import Options
from embeddinggemma.corpus.records import BOM, json_array_start, json_elements, lines
from embeddinggemma.corpus.rows import RawRow, Reject, Row, checked, parse_json
from embeddinggemma.corpus.streams import ByteStream, likely_encoding, opened
from embeddinggemma.validation import a_type

FIELD = "texts_file"
_COLUMNS = Options(id_column="id", title_column="title")
_ARRAY = re.compile(rb'\[\s*["{\]]')
_CHARACTERS = 4_000_000
"""Of the texts that are in memory together; a single text may have more."""


class TextsFile:
    """A file of texts, which can be read again and again."""

    def __init__(self, path: Path) -> None:
        """Find out what the file is.

        Raises:
            ValueError: it cannot be unpacked.

        """
        self._path = path
        with _naming():
            with closing(opened(path)) as unpacked:
                self._encoding = likely_encoding(unpacked.read(4)) or "utf-8"
            with closing(ByteStream(path, self._encoding)) as stream:
                self.format = _format(stream)
                """One of jsonl, json and text."""

    def rows(self, most: int) -> Iterator[list[Row | Reject]]:
        """Yield all rows in order, in lists of at most so many; a row's number counts from 1.

        Raises:
            ValueError: the file cannot be unpacked, or it is not clear where a row ends.

        """
        with _naming(), closing(ByteStream(self._path, self._encoding)) as stream:
            numbered = enumerate(self._raw_rows(stream), 1)
            rows = (checked(raw, "", FIELD, number, _COLUMNS) for number, raw in numbered)
            while together := list(_some(rows, most)):
                yield together

    def _raw_rows(self, stream: ByteStream) -> Iterator[RawRow]:
        if self.format == "text":
            return (_text_row(line) for line in lines(stream))
        if self.format == "jsonl":
            return (_json_row("line", line) for line in lines(stream))
        stream.skip_to(json_array_start(stream) or 0)
        return (_json_row("element", element[:-1]) for element in json_elements(stream))


@contextmanager
def _naming() -> Iterator[None]:
    """Give each error that a file can cause the input's name."""
    try:
        yield
    except UnicodeError:
        raise ValueError(f"{FIELD} cannot be read: it begins as UTF-16 or UTF-32, and does not go on so") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ValueError(f"{FIELD} cannot be read: {reason}") from None


def _format(stream: ByteStream) -> str:
    """Return what the file begins as: an array, an object or a string of JSON; all else is plain text."""
    head = stream.peek().removeprefix(BOM).lstrip()
    if _ARRAY.match(head):
        return "json"
    if head.startswith(b"{"):
        return "jsonl"
    if head.startswith(b'"') and isinstance(parse_json("line", next(filter(bytes.strip, lines(stream)))), str):
        return "jsonl"
    return "text"


def _some(rows: Iterator[Row | Reject], most: int) -> Iterator[Row | Reject]:
    """Yield the next rows, until there are so many, or their texts are long together."""
    room = _CHARACTERS
    for row in islice(rows, most):
        yield row
        room -= len(row.text) if isinstance(row, Row) else 0
        if room <= 0:
            return


def _json_row(name: str, data: bytes) -> RawRow:
    value = parse_json(name, data)
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, dict | ValueError):
        return value
    return ValueError(f"the {name} is {a_type(value)}; it must be a string, or an object with text")


def _text_row(line: bytes) -> RawRow:
    try:
        return {"text": line.decode("utf-8-sig").rstrip("\r\n")}
    except UnicodeDecodeError as error:
        return ValueError(f"the line is not UTF-8 at byte {error.start}")
