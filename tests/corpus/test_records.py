"""Streams to records, against the libraries that read the same bytes at once."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from embeddinggemma.corpus import records, streams
from embeddinggemma.corpus.records import CsvFormat, csv_records, json_array_start, json_elements
from embeddinggemma.corpus.streams import ByteStream

CSV = CsvFormat(",", quotes=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.sampled_from('ab"\\[]{}, \n机🤖'), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records") / "file"


def _stream(file: Path, data: bytes) -> ByteStream:
    file.write_bytes(data)
    return ByteStream(file, "utf-8")


def _elements(file: Path, data: bytes) -> Iterator[bytes]:
    stream = _stream(file, data)
    stream.skip_to(json_array_start(stream) or 0)
    return json_elements(stream)


@settings(deadline=None, database=None)
@given(values=st.lists(JSON, max_size=6), indent=st.sampled_from([None, 1]), mark=st.booleans())
@example(values=["\\", '"', '\\"'], indent=None, mark=False)
def test_the_elements_of_an_array_are_those_of_json(
    file: Path, values: list[object], indent: int | None, mark: bool
) -> None:
    data = "\ufeff" * mark + " \n" + json.dumps(values, indent=indent, ensure_ascii=False) + "\n"
    assert [json.loads(element[:-1]) for element in _elements(file, data.encode())] == values


def test_elements_are_found_wherever_the_buffer_ends(file: Path) -> None:
    values = [{"text": "\\" * length + '"],[{' + "机" * length} for length in range(1500)]
    data = json.dumps(values, ensure_ascii=False).encode()
    assert len(data) > 3 * 2**20
    assert [json.loads(element[:-1]) for element in _elements(file, data)] == values


def test_reading_begins_at_any_element(file: Path) -> None:
    data = b'[{"a": 1}, {"b": [2, 3]} ,{"c": "x,]"}]'
    sizes = [len(element) for element in _elements(file, data)]
    assert sum(sizes) + 1 == len(data)
    stream = ByteStream(file, "utf-8")
    stream.skip_to(1 + sizes[0])
    assert [json.loads(element[:-1]) for element in json_elements(stream)] == [{"b": [2, 3]}, {"c": "x,]"}]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'[{"a": 1}, {"a": "x}]', "a quote or a bracket in element 2 is not closed"),
        (b'[{"a": 1}, {"a": 2}', "in element 2 is not closed"),
        (b'[{"a": 1}}', "in element 1 is not closed"),
        (b"[", "in element 1 is not closed"),
        (b'[{"a": 1}][{"a": 2}]', "something follows its array, which ends after element 1"),
    ],
)
def test_an_array_without_a_right_end_is_an_error(file: Path, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(_elements(file, data))


@given(
    st.lists(
        st.lists(st.text(st.sampled_from('ab",;\r\n机'), max_size=6), min_size=2, max_size=2), min_size=1, max_size=5
    )
)
def test_the_records_of_csv_are_those_of_its_writer(file: Path, rows: list[list[str]]) -> None:
    written = io.StringIO(newline="")
    csv.writer(written).writerows(rows)
    data = written.getvalue().encode()
    records = list(csv_records(_stream(file, data), CSV, columns=2))
    assert [fields for fields, _ in records] == rows
    assert sum(size for _, size in records) == len(data)


@pytest.mark.parametrize(
    ("data", "line", "why"),
    [
        (b'a,b\nc,"d\ne,f\n', 2, "has no end"),
        (b'a,b\nc,"d', 2, "has no end"),
        (b'a,"b\nb"\n"d\ne",f\ng,"h\n\n', 5, "has no end"),
        (b'"a\nb","c\nd\n', 2, "has no end"),
        (b'a,b\n"c,d\ne,f\n"g",h\ni,j\n', 2, "ends in line 4, and what comes then makes no right row"),
        (b'a,b\nc,"d\ne,f\ng,",h\ni,j\n', 2, "ends in line 4, and what comes then makes no right row"),
    ],
)
def test_a_quote_that_swallows_rows_is_an_error_with_its_line(file: Path, data: bytes, line: int, why: str) -> None:
    with pytest.raises(ValueError, match=f"the quote that opens in line {line} {why}; mend it, or give --no-quotes"):
        list(csv_records(_stream(file, data), CSV, columns=2))


def test_without_quotes_they_are_ordinary_characters(file: Path) -> None:
    records = csv_records(_stream(file, b'5" pipe\t"x\n"y\tz"\n'), CsvFormat("\t", quotes=False))
    assert [fields for fields, _ in records] == [['5" pipe', '"x'], ['"y', 'z"']]


ENDLESS: dict[str, tuple[bytes, bytes, Callable[[ByteStream], Iterable[object]], str]] = {
    "quote": (
        b'a\n"',
        b"b\n",
        lambda stream: csv_records(stream, CSV),
        "opens in line 2 has no end within 99,999 bytes",
    ),
    "line": (b"", b"x", lambda stream: iter(stream.read_line, b""), "a line of it has more than 99,999 bytes"),
    "element": (b'[{"a": "', b"x", json_elements, "element 1 of its array has more than 99,999 bytes"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_has_no_end_is_not_read_to_the_end_of_the_file(
    file: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (streams, records):
        monkeypatch.setattr(module, "MAX_ROW_BYTES", 99_999)
    begin, endless, read, message = ENDLESS[name]
    stream = _stream(file, begin + endless * 4_000_000)
    with pytest.raises(ValueError, match=message):
        list(read(stream))
    assert stream.position < 2 * 2**20
