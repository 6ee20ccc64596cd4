from functools import partial
from pathlib import Path

import pytest

from embeddinggemma.corpus.streams import ByteStream, likely_encoding, reader_at
from tests.support.corpora import pack

LINES = [f"line {number}: é文🤖\n" for number in range(50_000)]


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "utf-8-sig", "utf-16", "utf-32-be", "gb18030"])
@pytest.mark.parametrize("compression", [None, "gzip", "zstd", "bz2"])
def test_a_stream_is_utf_8_whatever_the_file_is(tmp_path: Path, encoding: str, compression: str | None) -> None:
    data = "".join(LINES).encode(encoding)
    (tmp_path / "file").write_bytes(pack(data, compression) if compression else data)
    stream = ByteStream(tmp_path / "file", encoding)
    lines = list(iter(stream.read_line, b""))
    assert [line.decode("utf-8-sig") for line in lines] == LINES
    assert (stream.lines, stream.position) == (len(LINES), sum(map(len, lines)))


def test_files_that_were_packed_one_by_one_are_one_stream(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(pack(b"one\n", "gzip") + pack(b"two\n", "gzip"))
    assert ByteStream(tmp_path / "file", "utf-8").read(99) == b"one\ntwo\n"


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_readers_go_on_where_they_are_and_never_back(tmp_path: Path, compression: str | None) -> None:
    data = "".join(LINES).encode()
    (tmp_path / "file").write_bytes(pack(data, compression) if compression else data)
    opened = []

    def read(start: int) -> bytes:
        def open_stream() -> ByteStream:
            opened.append(start)
            return ByteStream(tmp_path / "file", "utf-8")

        with reader_at((tmp_path, compression), start, open_stream) as stream:
            return stream.read(10)

    for start in (0, 10, 500, 1_000_000, 400, 1_000_010):
        assert read(start) == data[start : start + 10]
    assert opened == [0, 400]


def test_two_threads_never_share_a_reader(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("abcdef")
    open_stream = partial(ByteStream, tmp_path / "file", "utf-8")
    with reader_at(tmp_path, 1, open_stream) as first, reader_at(tmp_path, 1, open_stream) as second:
        assert first is not second
        assert (first.read(2), second.read(3)) == (b"bc", b"bcd")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_encodings_with_zeros_are_seen(encoding: str) -> None:
    assert likely_encoding("ab".encode(encoding)[:4]) == encoding
    assert likely_encoding("é".encode(encoding)[:4]) == encoding


@pytest.mark.parametrize("text", ["", "a", "abc", "é", "文字", "\ufeffa"])
def test_utf_8_is_not_taken_for_another_encoding(text: str) -> None:
    assert likely_encoding(text.encode()[:4]) is None
