import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embeddinggemma.corpus.options import Options
from embeddinggemma.corpus.parts import Part, plan_parts
from embeddinggemma.corpus.rows import Row, read_rows
from tests.support.corpora import texts, write_jsonl


def _write_csv(path: Path, rows: list[str]) -> None:
    path.write_text("text\n" + "".join(f'"{row}\n"\n' for row in rows))


def _write_parquet(path: Path, rows: list[str]) -> None:
    pq.write_table(pa.table({"text": rows}), path, row_group_size=700)


def _write_jsonl(path: Path, rows: list[str]) -> None:
    write_jsonl(path, [{"text": row} for row in rows])


def _write_texts(path: Path, rows: list[str]) -> None:
    path.mkdir()
    for number, row in enumerate(rows):
        (path / f"{number:05}").write_text(row)


@pytest.mark.parametrize(
    ("name", "write"),
    [("r.jsonl", _write_jsonl), ("r.csv", _write_csv), ("r.parquet", _write_parquet), ("r", _write_texts)],
)
def test_parts_and_slices_hold_every_row_once_and_in_order(
    tmp_path: Path, name: str, write: Callable[[Path, list[str]], None]
) -> None:
    rows = [*texts(3000), "x" * 300_000, *texts(10)]
    write(tmp_path / name, rows)
    options = Options(rows_per_part=1000)
    parts = plan_parts(tmp_path / name, options)
    assert [part.rows for part in parts] == [1000, 1000, 1000, 11]
    read = [row for part in parts for section in part.slices for row in read_rows(section, options)]
    assert [row.text.strip() for row in read if isinstance(row, Row)] == rows
    assert max(section.rows for part in parts for section in part.slices) > 100
    assert all(part.rows == sum(section.rows for section in part.slices) for part in parts)


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
    (tmp_path / "read.me").write_text("a text")
    with pytest.raises(ValueError, match=r"several formats \(text: 1, jsonl: 1\); choose one with --format"):
        plan_parts(tmp_path, Options())
    assert [part.name for part in plan_parts(tmp_path, Options(), "jsonl")] == ["rows.jsonl-00000"]
    assert [(part.name, part.rows) for part in plan_parts(tmp_path, Options(), "text")] == [("texts-00000", 2)]


def _sources(parts: list[Part]) -> dict[str, str]:
    return {part.name: part.source for part in parts}


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
        (lambda path: path.parent.mkdir(exist_ok=True), Options(), "does not exist; INPUT is a file or a folder"),
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


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_a_table_without_the_text_column_is_refused(tmp_path: Path, name: str) -> None:
    if name == "rows.csv":
        (tmp_path / name).write_text("body,n\nx,1\n")
    else:
        pq.write_table(pa.table({"body": ["x"], "n": [1]}), tmp_path / name)
    with pytest.raises(ValueError, match="no column 'text', only body, n; choose with --text-column"):
        plan_parts(tmp_path / name, Options())


def test_a_file_of_another_format_than_its_name_says_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_text(json.dumps({"text": "x"}))
    with pytest.raises(ValueError, match=r"rows\.parquet cannot be read as parquet"):
        plan_parts(tmp_path / "rows.parquet", Options())
