"""What a file of texts is, by its content, and its rows."""

import bz2
import gzip
import json
from pathlib import Path

import pytest

from embeddinggemma.corpus.rows import Reject, Row
from embeddinggemma.texts_file.reading import TextsFile

TEXTS = ["Mars is red.", 'a "quoted" word', "木星は大きい。", "two\nlines"]
OBJECTS = [{"text": "Mars", "id": 7, "title": "Planets", "url": "more"}, "Venus", {"text": "Moon", "id": "m"}]


def _rows(path: Path, content: bytes, most: int = 1000) -> list[Row | Reject]:
    path.write_bytes(content)
    return [row for rows in TextsFile(path).rows(most) for row in rows]


def _texts(rows: list[Row | Reject]) -> list[str]:
    assert all(isinstance(row, Row) for row in rows), rows
    return [row.text for row in rows if isinstance(row, Row)]


def _reasons(rows: list[Row | Reject]) -> dict[int, str]:
    return {row.row: row.reason for row in rows if isinstance(row, Reject)}


@pytest.mark.parametrize(
    "content",
    [
        "".join(f"{json.dumps(text)}\n" for text in TEXTS),
        "\r\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in TEXTS),
        "\ufeff" + "\n".join(json.dumps(text) for text in TEXTS),
        json.dumps(TEXTS),
        json.dumps([{"text": text} for text in TEXTS], indent=2),
        f"\n\t{json.dumps(TEXTS, ensure_ascii=False)}\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_json_is_read_in_every_form(tmp_path: Path, content: str, encoding: str, pack: type[bytes]) -> None:
    assert _texts(_rows(tmp_path / "file", pack(content.encode(encoding)))) == TEXTS


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("Mars is red.\nVenus is hot.\n", ["Mars is red.", "Venus is hot."]),
        ("Mars is red.\r\n  Venus is hot.", ["Mars is red.", "  Venus is hot."]),
        ('"Mars is red," he said.\n', ['"Mars is red," he said.']),
        ("[1] A reference\n[2] Another\n", ["[1] A reference", "[2] Another"]),
        ("\ufeffé\n", ["é"]),
        ("木星\u2028は大きい。\x0b\n", ["木星\u2028は大きい。\x0b"]),
    ],
)
def test_plain_text_has_a_text_in_each_line(tmp_path: Path, content: str, texts: list[str]) -> None:
    assert _texts(_rows(tmp_path / "file.jsonl", content.encode())) == texts


def test_objects_have_ids_and_titles_and_may_stand_beside_strings(tmp_path: Path) -> None:
    rows = _rows(tmp_path / "file", "\n".join(map(json.dumps, OBJECTS)).encode())
    assert rows == [
        Row("7", "texts_file", 1, "Mars", "Planets"),
        Row("", "texts_file", 2, "Venus", None),
        Row("m", "texts_file", 3, "Moon", None),
    ]
    assert _rows(tmp_path / "file", json.dumps(OBJECTS).encode()) == rows


def test_rows_that_cannot_be_embedded_have_a_reason_without_the_text(tmp_path: Path) -> None:
    lines = ['{"text": "marzipan"}', "", '{"txt": "marzipan"}', "marzipan", '["marzipan"]', '{"text": " "}', "3"]
    lines += ['{"text": 3}', '{"text": "marzipan", "title": 1}', '{"text": "marzipan", "id": []}', '"\\ud800marzipan"']
    rows = _rows(tmp_path / "file", "\n".join(lines).encode() + b'\n"\xff"')
    assert _reasons(rows) == {
        2: "the line is empty",
        3: "the row has no 'text'",
        4: "the line is not JSON: Expecting value at character 0",
        5: "the line is a list; it must be a string, or an object with text",
        6: "text is empty; every text needs at least one character that is not white space",
        7: "the line is an int; it must be a string, or an object with text",
        8: "text is an int; it must be a string",
        9: "title is an int; it must be a string",
        10: "id is a list; an id must be a string, a number, a date, a time or a UUID",
        11: "text has a lone surrogate at character 0; send valid Unicode",
        12: "the line is not UTF-8 at byte 1",
    }
    plain = _rows(tmp_path / "file", b"marzipan\n\n \nmarzip\xe4n\n")
    assert list(_reasons(plain)) == [2, 3, 4]
    assert _reasons(plain)[4] == "the line is not UTF-8 at byte 6"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'["Mars", "Venus', "its array does not end: a quote or a bracket in element 2 is not closed"),
        (b'["Mars"] more', "something follows its array, which ends after element 1"),
        (gzip.compress(b"Mars\n" * 100_000)[:-100], "Truncated compressed stream"),
        (gzip.compress(b"Mars\n")[:-8] + bytes(8), "zlib inflate failed"),
        ("Mars\n".encode("utf-16")[:-1], "it begins as UTF-16 or UTF-32, and does not go on so"),
    ],
)
def test_a_file_that_is_broken_says_so(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"^texts_file cannot be read: .*{message}"):
        _rows(tmp_path / "file", content)


@pytest.mark.parametrize("content", [b"", gzip.compress(b""), b"[]", b"[ \n]"])
def test_an_empty_file_has_no_rows(tmp_path: Path, content: bytes) -> None:
    assert _rows(tmp_path / "file", content) == []


def test_rows_come_in_lists_that_are_short_in_rows_and_in_characters(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("a\n" * 25)
    assert [len(rows) for rows in TextsFile(path).rows(10)] == [10, 10, 5]
    path.write_text(f"{'a' * 3_000_000}\n" * 5)
    assert [len(rows) for rows in TextsFile(path).rows(10)] == [2, 2, 1]
