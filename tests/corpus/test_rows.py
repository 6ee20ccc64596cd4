import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embeddinggemma.corpus.options import Options
from embeddinggemma.corpus.rows import Reject, Row
from tests.support.corpora import read_rows_of, texts_of

COLUMNS = Options(text_column="body", id_column="key", title_column="name")
EXPECTED = [
    ("a1", "a first text", "A title"),
    ("7", "naïve café, 機械\n\u2028two lines 🤖", None),
    ("c", 'quoted "words", and a comma', None),
]


def _rows(read: list[Row | Reject]) -> list[tuple[str, str, str | None]]:
    return [(row.id, row.text, row.title) for row in read if isinstance(row, Row)]


def _reasons(read: list[Row | Reject]) -> dict[int, str]:
    return {reject.row: reject.reason for reject in read if isinstance(reject, Reject)}


def test_jsonl_rows_areread_rows_of(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    keys: list[str | int] = ["a1", 7, "c"]
    lines = [
        json.dumps({"key": key, "body": body, "name": name, "other": [1]}, ensure_ascii=False)
        for key, (_, body, name) in zip(keys, EXPECTED, strict=True)
    ]
    file.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    assert _rows(read_rows_of(file, COLUMNS)) == EXPECTED


def test_csv_rows_areread_rows_of(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    quoted = [",".join(f'"{(value or "").replace(chr(34), chr(34) * 2)}"' for value in row) for row in EXPECTED]
    file.write_bytes(("\ufeffkey,body,name\r\n" + "\r\n".join(quoted)).encode())
    assert _rows(read_rows_of(file, COLUMNS)) == [(key, body, name or "") for key, body, name in EXPECTED]


@pytest.mark.parametrize("text_type", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_rows_areread_rows_of(tmp_path: Path, text_type: pa.DataType) -> None:
    keys, bodies, names = zip(*EXPECTED, strict=True)
    columns = {"key": pa.array(keys), "body": pa.array(bodies, pa.string()).cast(text_type), "name": pa.array(names)}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet", row_group_size=2)
    assert _rows(read_rows_of(tmp_path / "rows.parquet", COLUMNS)) == EXPECTED


def test_every_file_of_a_folder_of_texts_is_a_row_with_its_path_as_id(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "b").write_text("no suffix")
    (tmp_path / "deep" / "a.txt").write_text("\ufefftwo\r\nlines", newline="")
    (tmp_path / ".hidden").write_text("not a text of the user's")
    assert _rows(read_rows_of(tmp_path, Options())) == [("b", "no suffix", None), ("deep/a.txt", "two\r\nlines", None)]


def test_a_text_file_that_is_no_text_is_a_reject(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    (tmp_path / "windows.txt").write_bytes("caf\xe9".encode("utf-16"))
    (tmp_path / "unmarked.txt").write_bytes(b"c\0a\0f\0e\0")
    (tmp_path / "empty").write_text("")
    read = read_rows_of(tmp_path, Options())
    rejects = {reject.id: reject.reason for reject in read if isinstance(reject, Reject)}
    assert rejects == {
        "latin": "the file is not UTF-8 at byte 3; --encoding says what it is: often cp1252 or latin-1",
        "windows.txt": "the file is not UTF-8, but utf-16; give --encoding utf-16",
        "unmarked.txt": "the file is not UTF-8, but utf-16-le; give --encoding utf-16-le",
        "empty": "text is empty; every text needs at least one character that is not white space",
    }


def test_a_row_without_its_own_id_has_its_file_and_number(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "one"}\n{"text": "two", "id": null}\n{"text": "three", "id": "mine"}\n')
    ids = [row.id for row in read_rows_of(file, Options(id_column="id"))]
    assert ids == ["rows.jsonl:1", "rows.jsonl:2", "mine"]


SECRET = "words that no reason may repeat"  # noqa: S105
BROKEN_LINES = {
    "": "the line is empty",
    f'{{"text": "{SECRET}': "the line is not JSON",
    f'["{SECRET}"]': "the line is a list, not an object",
    f'{{"body": "{SECRET}"}}': "the row has no 'text'",
    '{"text": null}': "text is a NoneType; it must be a string",
    '{"text": 3}': "text is an int; it must be a string",
    '{"text": " \\n"}': "text is empty",
    f'{{"text": "{SECRET} \\ud800"}}': "text has a lone surrogate at character 32",
    '{"text": "x", "id": [1]}': "id is a list; an id must be a string, a number, a date, a time or a UUID",
    '{"text": "x", "id": "\\ud800"}': "id has a lone surrogate",
    '{"text": "x", "title": 3}': "title is an int; it must be a string",
    "9" * 5000: "the line is JSON, but nested too deeply or with a number too long",
    "[" * 200_000: "the line is JSON, but nested too deeply",
}


def test_a_broken_line_is_a_reject_whose_reason_quotes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes("\n".join(BROKEN_LINES).encode() + b'\n{"text": "caf\xe9"}\n{"text": "right"}\n')
    read = read_rows_of(file, Options(id_column="id", title_column="title"))
    reasons = _reasons(read)
    for row, begins in enumerate([*BROKEN_LINES.values(), "the line is not UTF-8 at byte 13"], 1):
        assert reasons.pop(row).startswith(begins)
    assert not reasons
    assert SECRET not in str([reject for reject in read if isinstance(reject, Reject)])
    assert [row.text for row in read if isinstance(row, Row)] == ["right"]


def test_a_broken_csv_row_is_a_reject_and_the_next_row_isread_rows_of(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b'text,n\n"a"b,1\nonly one\n\nthree,2,3\ncaf\xe9,1\nright,1\n')
    read = read_rows_of(file, Options())
    assert _reasons(read) == {
        1: "the row is not CSV: ',' expected after '\"'",
        2: "the row has 1 fields, the header has 2",
        3: "the line is empty",
        4: "the row has 3 fields, the header has 2",
        5: "the row is not UTF-8; --encoding says what it is: often cp1252 or latin-1",
    }
    assert [(row.number, row.text) for row in read if isinstance(row, Row)] == [(6, "right")]


def test_a_parquet_value_that_is_not_a_text_is_a_reject(tmp_path: Path) -> None:
    invalid = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"\xe9x")]
    )
    pq.write_table(pa.table({"text": invalid}), tmp_path / "invalid.parquet")
    assert _reasons(read_rows_of(tmp_path / "invalid.parquet", Options())) == {1: "the row is not UTF-8"}
    pq.write_table(pa.table({"text": [1, None]}), tmp_path / "numbers.parquet")
    assert list(_reasons(read_rows_of(tmp_path / "numbers.parquet", Options()))) == [1, 2]


IDS = {
    "a whole float": (pa.array([1.0, 2.0]), ["1", "2"]),
    "a float": (pa.array([0.5, 1e300]), ["0.5", str(int(1e300))]),
    "a missing float": (pa.array([float("nan"), None]), ["ids.parquet:1", "ids.parquet:2"]),
    "a whole number": (pa.array([-1, 2**63], pa.decimal128(20)), ["-1", str(2**63)]),
    "a decimal": (pa.array([Decimal("1.50"), Decimal("-20.00")]), ["1.50", "-20.00"]),
    "a date": (pa.array([date(2024, 2, 29), date(1, 1, 1)]), ["2024-02-29", "0001-01-01"]),
    "a time stamp": (
        pa.array([datetime(2024, 2, 29, 12, 30, tzinfo=UTC)] * 2, pa.timestamp("us", "UTC")),
        ["2024-02-29T12:30:00+00:00"] * 2,
    ),
    "nanoseconds": (
        pa.array([1_700_000_000_123_456_789] * 2, pa.timestamp("ns")),
        ["2023-11-14T22:13:20.123456789"] * 2,
    ),
    "a UUID": (
        pa.array([UUID(int=7).bytes, UUID(int=8).bytes], pa.uuid()),
        [str(UUID(int=7)), str(UUID(int=8))],
    ),
    "a category": (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
}


@pytest.mark.parametrize("name", IDS)
def test_an_id_of_any_simple_type_becomes_text(tmp_path: Path, name: str) -> None:
    column, expected = IDS[name]
    pq.write_table(pa.table({"text": ["x", "y"], "id": column}), tmp_path / "ids.parquet")
    assert [row.id for row in read_rows_of(tmp_path / "ids.parquet", Options(id_column="id"))] == expected


NO_IDS = {
    "a truth value": (pa.array([True]), "id is a bool; an id must be"),
    "a list": (pa.array([[1]]), "id is a list; an id must be"),
    "infinity": (pa.array([float("inf")]), "id is a float; an id must be"),
    "a year after 9999": (pa.array([2**62], pa.timestamp("us")), "id is a timestamp[us] that Python cannot hold"),
}


@pytest.mark.parametrize("name", NO_IDS)
def test_any_other_id_is_a_reject(tmp_path: Path, name: str) -> None:
    column, reason = NO_IDS[name]
    pq.write_table(pa.table({"text": ["x"], "id": column}), tmp_path / "ids.parquet")
    [found] = texts_of(read_rows_of(tmp_path / "ids.parquet", Options(id_column="id")))
    assert found.startswith(reason)
