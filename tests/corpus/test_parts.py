import json
import os
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from embeddinggemma.corpus.options import Options
from embeddinggemma.corpus.parts import Part, plan_parts
from embeddinggemma.corpus.rows import Row, read_rows
from tests.support.corpora import pack, texts, texts_of, write_jsonl


def _write_csv(path: Path, rows: list[str]) -> None:
    path.write_text("text\n" + "".join(f'"{row}\n"\n' for row in rows))


def _write_parquet(path: Path, rows: list[str]) -> None:
    pq.write_table(pa.table({"text": rows}), path, row_group_size=700)


def _write_jsonl(path: Path, rows: list[str]) -> None:
    write_jsonl(path, [{"text": row} for row in rows])


def _write_json(path: Path, rows: list[str]) -> None:
    path.write_text(json.dumps([{"text": row} for row in rows], indent=1))


def _write_arrow(path: Path, rows: list[str]) -> None:
    with pa.ipc.new_stream(path, pa.schema({"text": pa.string()})) as writer:
        writer.write_table(pa.table({"text": rows}), max_chunksize=700)


def _write_arrow_file(path: Path, rows: list[str]) -> None:
    with pa.ipc.new_file(path, pa.schema({"text": pa.string()})) as writer:
        writer.write_table(pa.table({"text": rows}), max_chunksize=700)


def _write_texts(path: Path, rows: list[str]) -> None:
    path.mkdir()
    for number, row in enumerate(rows):
        (path / f"{number:05}").write_text(row)


WRITERS = [
    ("r.jsonl", _write_jsonl),
    ("r.json", _write_json),
    ("lines.json", _write_jsonl),
    ("r.csv", _write_csv),
    ("r.TSV", _write_csv),
    ("r.parquet", _write_parquet),
    ("r.arrow", _write_arrow),
    ("file.arrow", _write_arrow_file),
]
ROWS = [*texts(3000), "x" * 300_000, *texts(10)]


def _check_parts(path: Path) -> None:
    options = Options(rows_per_part=1000)
    parts = plan_parts(path, options)
    assert [part.rows for part in parts] == [1000, 1000, 1000, 11]
    slices = [part_slice for part in parts for part_slice in part.slices]
    assert max(part_slice.rows for part_slice in slices) > 100
    assert sum(part_slice.rows for part_slice in slices) == len(ROWS)
    by_slice = {part_slice: list(read_rows(part_slice, options)) for part_slice in reversed(slices)}
    for order in (slices, slices[::2]):  # a worker reads some slices, and another reads others
        for part_slice in order:
            assert list(read_rows(part_slice, options)) == by_slice[part_slice]
    rows = [row for part_slice in slices for row in by_slice[part_slice]]
    assert [row.text.strip() for row in rows if isinstance(row, Row)] == ROWS


@pytest.mark.parametrize(("name", "write"), [*WRITERS, ("r", _write_texts)])
def test_parts_and_slices_hold_every_row_once_and_in_order(
    tmp_path: Path, name: str, write: Callable[[Path, list[str]], None]
) -> None:
    write(tmp_path / name, ROWS)
    _check_parts(tmp_path / name)


@pytest.mark.parametrize(("name", "write"), WRITERS)
@pytest.mark.parametrize(("suffix", "compression"), [("gz", "gzip"), ("zst", "zstd"), ("BZ2", "bz2")])
def test_packed_files_are_read_like_others(
    tmp_path: Path, name: str, write: Callable[[Path, list[str]], None], suffix: str, compression: str
) -> None:
    write(tmp_path / name, ROWS)
    packed = pack((tmp_path / name).read_bytes(), compression)
    (tmp_path / f"{name}.{suffix}").write_bytes(packed)
    _check_parts(tmp_path / f"{name}.{suffix}")


def test_short_rows_share_slices_of_at_most_512_rows(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"text": "x"}] * 1100)
    [part] = plan_parts(tmp_path / "rows.jsonl", Options())
    assert [section.rows for section in part.slices] == [512, 512, 76]


def test_each_shard_of_a_folder_has_its_own_parts(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.jsonl", "_a.jsonl", "deep/c.ndjson"):
        write_jsonl(tmp_path / name, [{"text": "x"}])
    names = [part.name for part in plan_parts(tmp_path, Options())]
    assert names == ["%5Fa.jsonl-00000", "b.jsonl-00000", "deep%2Fc.ndjson-00000"]


def test_a_folder_of_several_formats_needs_the_option_format(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"text": "x"}])
    (tmp_path / "readme.md").write_text("a text")
    with pytest.raises(ValueError, match=r"several formats \(text: 1, jsonl: 1\); choose one with --format"):
        plan_parts(tmp_path, Options())
    assert [part.name for part in plan_parts(tmp_path, Options(), "jsonl")] == ["rows.jsonl-00000"]
    assert [(part.name, part.rows) for part in plan_parts(tmp_path, Options(), "text")] == [("texts-00000", 2)]


def _sources(parts: list[Part]) -> dict[str, str]:
    return {part.name: part.source for part in parts}


def test_the_time_stamp_of_a_file_does_not_matter(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"text": "x"}])
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "one").write_text("x")
    before = [_sources(plan_parts(path, Options())) for path in (file, tmp_path / "texts")]
    for path in (file, tmp_path / "texts" / "one"):
        os.utime(path, (1, 1))
    assert [_sources(plan_parts(path, Options())) for path in (file, tmp_path / "texts")] == before


def test_another_content_of_the_same_size_and_time_is_another_source(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"text": "x"}])
    before, status = _sources(plan_parts(file, Options())), file.stat()
    write_jsonl(file, [{"text": "y"}])
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert _sources(plan_parts(file, Options())) != before


def test_a_changed_file_changes_only_the_source_of_its_own_parts(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        write_jsonl(tmp_path / name, [{"text": "x"}])
    before = _sources(plan_parts(tmp_path, Options()))
    assert _sources(plan_parts(tmp_path, Options())) == before
    write_jsonl(tmp_path / "b.jsonl", [{"text": "xy"}])
    after = _sources(plan_parts(tmp_path, Options()))
    assert after["a.jsonl-00000"] == before["a.jsonl-00000"]
    assert after["b.jsonl-00000"] != before["b.jsonl-00000"]


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda path: path.parent.mkdir(exist_ok=True), Options(), "input does not exist"),
        (lambda path: path.mkdir(), Options(), "holds no file to embed"),
        (lambda path: _write_texts(path, ["x"]), Options(title_column="t"), "which text files do not have"),
    ],
)
def test_an_input_without_rows_is_refused(
    tmp_path: Path, make: Callable[[Path], None], options: Options, message: str
) -> None:
    make(tmp_path / "input")
    with pytest.raises(ValueError, match=message):
        plan_parts(tmp_path / "input", options)


def _write_table(path: Path, table: pa.Table) -> Path:
    if path.suffix == ".csv":
        pa.csv.write_csv(table, path)
    elif path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    return path


TABLES = ["rows.csv", "rows.parquet", "rows.arrow"]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_without_a_column_is_refused(tmp_path: Path, name: str) -> None:
    file = _write_table(tmp_path / name, pa.table({"body": ["x"], "n": ["1"]}))
    with pytest.raises(ValueError, match="no column 'text', only body, n; choose with --text-column"):
        plan_parts(file, Options())
    with pytest.raises(ValueError, match="no column 'titel', only body, n; choose with --title-column"):
        plan_parts(file, Options(text_column="body", title_column="titel"))


@pytest.mark.parametrize("name", TABLES)
def test_a_column_that_is_there_twice_is_refused_if_it_is_needed(tmp_path: Path, name: str) -> None:
    table = pa.table([["x"], ["1"], ["2"]], names=["text", "n", "n"])
    file = _write_table(tmp_path / name, table)
    assert [part.rows for part in plan_parts(file, Options())] == [1]
    with pytest.raises(ValueError, match="it has 2 columns 'n'; each needs a name of its own"):
        plan_parts(file, Options(id_column="n"))


def test_a_key_that_only_some_rows_or_files_have_is_fine(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": "x"}, {"text": "y", "title": "t"}])
    write_jsonl(tmp_path / "b.jsonl", [{"text": "x", "key": 1}])
    options = Options(title_column="title", id_column="key")
    assert [part.rows for part in plan_parts(tmp_path, options)] == [2, 1]
    with pytest.raises(ValueError, match=r"no row of .*b.jsonl has 'title', only text, key; choose with --title-col"):
        plan_parts(tmp_path / "b.jsonl", options)


def test_at_most_twenty_columns_are_named(tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(30)]
    (tmp_path / "rows.csv").write_text(",".join(names) + "\n")
    with pytest.raises(ValueError, match=r"only c0, .*, c19, \.\.\.; choose"):
        plan_parts(tmp_path / "rows.csv", Options())


OTHERS = {
    "rows.parquet": (b'{"text": "x"}', r"rows\.parquet cannot be read as parquet"),
    "rows.arrow": (b'{"text": "x"}', r"rows\.arrow cannot be read as arrow"),
    "rows.json": (b'{\n"data": [\n1]}', "it is neither an array of objects nor an object per line"),
    "columns.json": (b'{"data": [{"text": "x"}]}', "no row of .* has 'text', only data"),
    "open.json": (b'[{"text": "x"}, {"text": "y"}', "its array does not end"),
    "rows.csv": (b"", "it does not begin with the names of its columns"),
    "quoted.csv": (b'"id";"text"\n1;x\n', "the names of its columns; with --delimiter ';' it has its columns"),
    "tabs.csv": (b"id\ttext\n1\tx\n", r"only 'id\\ttext'; choose with --text-column; with --delimiter '\\t' it has"),
    "cut.jsonl.gz": (pack(b'{"text": "x"}\n' * 99, "gzip")[:-9], "cut.jsonl.gz cannot be read: Truncated compressed"),
    "cut.parquet.zst": (pack(b"PAR1" * 99, "zstd")[:-9], "cut.parquet.zst cannot be read: Truncated compressed"),
    "marked.jsonl": ('{"text": "x"}\n'.encode("utf-16"), "it is not UTF-8, but utf-16; give --encoding utf-16"),
    "wide.csv": ("text\nx\n".encode("utf-32-be"), "it is not UTF-8, but utf-32-be; give --encoding utf-32-be"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path, name: str) -> None:
    data, message = OTHERS[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        plan_parts(tmp_path / name, Options())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("r.jsonl", Options(delimiter=";"), "--delimiter and --no-quotes are for csv and tsv, and INPUT is jsonl"),
        ("r.jsonl", Options(quotes=False), "--delimiter and --no-quotes are for csv and tsv, and INPUT is jsonl"),
        ("r.parquet", Options(encoding="latin-1"), "--encoding is for files of text, and INPUT is parquet"),
    ],
)
def test_options_that_would_change_nothing_are_refused(
    tmp_path: Path, name: str, options: Options, message: str
) -> None:
    (_write_parquet if name == "r.parquet" else _write_jsonl)(tmp_path / name, ["x"])
    with pytest.raises(ValueError, match=message):
        plan_parts(tmp_path / name, options)


def test_the_parts_of_long_names_have_short_names_and_each_its_own(tmp_path: Path) -> None:
    for name in ("文" * 80, "文" * 79 + "字", "a\u0301" * 80):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": "x"}])
    names = [part.name for part in plan_parts(tmp_path, Options())]
    assert len(set(names)) == 3
    assert max(len(f".incoming-{name}.parquet") for name in names) < 200


def test_a_large_row_group_is_not_read_at_once(tmp_path: Path) -> None:
    rows = [f"{row} {'x' * 500}" for row in range(40_000)]
    pq.write_table(pa.table({"text": rows}), tmp_path / "r.parquet", row_group_size=len(rows))
    slices = [part_slice for part in plan_parts(tmp_path / "r.parquet", Options()) for part_slice in part.slices]
    before = pa.total_allocated_bytes()
    most = 0
    for part_slice, first in zip(slices, accumulate((member.rows for member in slices), initial=0), strict=False):
        read = texts_of(list(read_rows(part_slice, Options())))
        assert read == rows[first : first + part_slice.rows]
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 8 * 2**20
