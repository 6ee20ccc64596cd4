"""Streams of UTF-8 to records: lines of JSONL, elements of a JSON array, records of CSV; each with where it ends.

Reading can begin at any record. What nobody can divide into rows with certainty is an error: a quote, a text or an
array without an end.
"""

import csv
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from embeddinggemma.corpus.streams import MAX_ROW_BYTES, ByteStream

csv.field_size_limit(sys.maxsize)  # a document may be longer than 131,072 characters

BOM = "\ufeff".encode()
_OUTSIDE_STRINGS = re.compile(rb'["\[\]{},]')
_IN_STRING = re.compile(rb'["\\]')


def lines(stream: ByteStream) -> Iterator[bytes]:
    """Yield each line with its end.

    Raises:
        ValueError: a line is too long.

    """
    return iter(stream.read_line, b"")


def json_array_start(stream: ByteStream) -> int | None:
    """Return where the first element of a JSON array begins; None: the file is no JSON array."""
    head = stream.peek()
    array = head.removeprefix(BOM).lstrip()
    return stream.position + len(head) - len(array) + 1 if array.startswith(b"[") else None


def json_elements(stream: ByteStream) -> Iterator[bytes]:
    """Yield each element of a JSON array together with the comma or the bracket that follows it.

    Args:
        stream: stands where an element begins.

    Raises:
        ValueError: the array does not end, or something follows it.

    """
    element, number, depth = bytearray(), 1, 0
    in_string = escaped = False
    while data := stream.peek():
        at, end = 0, b""
        while at < len(data) and not end:
            if escaped:
                at, escaped = at + 1, False
                continue
            found = (_IN_STRING if in_string else _OUTSIDE_STRINGS).search(data, at)
            if found is None:
                at = len(data)
                continue
            at, mark = found.end(), found[0]
            if mark == b"\\":
                escaped = True
            elif mark == b'"':
                in_string = not in_string
            elif mark in b"[{":
                depth += 1
            elif mark in b"]}" and depth:
                depth -= 1
            elif not depth:
                end = mark
        element += stream.read(at)
        if len(element) > MAX_ROW_BYTES:
            raise ValueError(f"element {number:,} of its array has more than {MAX_ROW_BYTES:,} bytes")
        if end == b",":
            yield bytes(element)
            element, number = bytearray(), number + 1
        elif end == b"]":
            if element[:-1].strip():
                yield bytes(element)
            if stream.peek().strip():
                raise ValueError(f"something follows its array, which ends after element {number:,}")
            return
        elif end:
            break
    raise ValueError(f"its array does not end: a quote or a bracket in element {number:,} is not closed")


@dataclass(frozen=True)
class CsvFormat:
    """How the fields of a record are divided."""

    delimiter: str
    quotes: bool
    """Whether a field may stand in quotes, and then hold delimiters, quotes (doubled) and line breaks."""


def csv_header(stream: ByteStream, format: CsvFormat) -> list[str]:
    """Return the names of the columns; the stream then stands before the first row.

    Raises:
        ValueError: the file does not begin with them.

    """
    header, _ = next(csv_records(stream, format), ([], 0))
    if isinstance(header, csv.Error) or not header:
        raise ValueError("it does not begin with the names of its columns")
    return [header[0].removeprefix("\ufeff"), *header[1:]]


def csv_records(
    stream: ByteStream, format: CsvFormat, columns: int | None = None
) -> Iterator[tuple[list[str] | csv.Error, int]]:
    """Yield the fields of each record, or the error in it, and its length in bytes, from the stream's position on.

    Bytes that are not UTF-8 are in the fields as surrogates.

    Args:
        stream: read from the file's start on, if errors are to have the right line.
        format: how fields are divided.
        columns: fields that each record should have, if that is known.

    Raises:
        ValueError: a quote has no end, or an end so far off that rows may lie in between; the message has its line.

    """
    taken: list[str] = []  # the lines of the record that is being read

    def next_lines() -> Iterator[str]:
        size = 0
        while line := stream.read_line():
            size = len(line) + (size if taken else 0)
            taken.append(line.decode("utf-8", "surrogateescape"))
            if size > MAX_ROW_BYTES:
                raise unclosed(taken, f"has no end within {MAX_ROW_BYTES:,} bytes")
            yield taken[-1]

    def unclosed(until: list[str], what: str) -> ValueError:
        open_fields = next(_csv_reader(until, format, strict=False))
        line = stream.lines - len(taken) + 1 + sum(field.count("\n") for field in open_fields[:-1])
        return ValueError(
            f"the quote that opens in line {line:,} {what}; mend it, or give --no-quotes if quotes are ordinary "
            "characters"
        )

    reader = _csv_reader(next_lines(), format, strict=True)
    while True:
        taken.clear()
        before = stream.position
        fields: list[str] | csv.Error
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if str(error) == "unexpected end of data":
                raise unclosed(taken, "has no end") from None
            fields = error
        if len(taken) > 1 and (isinstance(fields, csv.Error) or columns not in (None, len(fields))):
            raise unclosed(taken[:-1], f"ends in line {stream.lines:,}, and what comes then makes no right row")
        yield fields, stream.position - before


def _csv_reader(lines: Iterable[str], format: CsvFormat, *, strict: bool) -> Iterator[list[str]]:
    return csv.reader(
        lines,
        delimiter=format.delimiter,
        quoting=csv.QUOTE_MINIMAL if format.quotes else csv.QUOTE_NONE,
        strict=strict,
    )
