import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embeddinggemma.corpus.embedding import Embedded, schema
from embeddinggemma.corpus.options import Options
from embeddinggemma.corpus.output import (
    OutputFolder,
    PartWriter,
    check_counts,
    make_folder,
    open_output,
    parquet_files,
    read_settings,
    repeated_ids,
)
from embeddinggemma.corpus.parts import Part
from embeddinggemma.corpus.rows import Reject, Slice

OPTIONS = Options(dimension=128)
SETTINGS = {"model": "m", "dtype": "float32", "dimension": 128}
SLICES = (Slice("jsonl", Path("rows.jsonl"), "rows.jsonl", 1, 3),)
PART = Part("rows.jsonl-00000", 3, "digest", SLICES)


def _embedded(ids: Sequence[str], rejects: int = 0) -> Embedded:
    count = len(ids)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(count * 128, np.float32)), 128)
    columns = [pa.array(ids, pa.string()), pa.array(["t"] * count, pa.string()), vectors]
    table = pa.table([*columns, pa.array([5] * count, pa.int32()), pa.array([False] * count)], schema=schema(OPTIONS))
    return Embedded(table, [Reject("r", "rows.jsonl", row, "broken") for row in range(rejects)], count, 0.0)


def _write(output: OutputFolder, *embedded: Embedded, part: Part = PART) -> None:
    writer = PartWriter(output, part, schema(OPTIONS))
    for rows in embedded:
        writer.add(rows)
    output.finished[part.name] = writer.finish()


def test_a_finished_part_is_a_parquet_file_and_its_rejects(tmp_path: Path) -> None:
    with open_output(tmp_path, SETTINGS, [PART]) as output:
        _write(output, _embedded(["a"]), _embedded(["b"], rejects=1))
    assert pq.read_table(tmp_path)["id"].to_pylist() == ["a", "b"]
    [reject] = (tmp_path / "_rejects" / f"{PART.name}.jsonl").read_text().splitlines()
    assert json.loads(reject) == {"id": "r", "file": "rows.jsonl", "row": 0, "reason": "broken"}
    assert check_counts(tmp_path, [PART]) == []
    with open_output(tmp_path, SETTINGS, [PART]) as again:
        assert again.finished == output.finished


def test_a_part_with_only_rejects_is_finished_too(tmp_path: Path) -> None:
    with open_output(tmp_path, SETTINGS, [PART]) as output:
        _write(output, _embedded([], rejects=3))
    assert output.finished[PART.name].rejected == 3
    assert pq.read_table(tmp_path).num_rows == 0
    assert check_counts(tmp_path, [PART]) == []


def test_a_lost_row_is_an_error_and_no_file(tmp_path: Path) -> None:
    message = "rows.jsonl had 3 rows in rows.jsonl-00000, but 1 were embedded and 1 rejected: it has changed"
    with open_output(tmp_path, SETTINGS, [PART]) as output, pytest.raises(ValueError, match=message):
        _write(output, _embedded(["a"], rejects=1))
    assert parquet_files(tmp_path) == []


def test_counts_that_do_not_add_up_afterwards_are_reported(tmp_path: Path) -> None:
    with open_output(tmp_path, SETTINGS, [PART]) as output:
        _write(output, _embedded(["a", "b"], rejects=1))
    (tmp_path / "_rejects" / f"{PART.name}.jsonl").unlink()
    [line] = check_counts(tmp_path, [PART])
    assert "of 3 rows 2 are embedded and 0 rejected" in line
    [line] = check_counts(tmp_path, [Part("other", 1, "digest", ())])
    assert line.endswith("other.parquet is missing")


def test_a_part_that_was_not_finished_leaves_nothing_behind(tmp_path: Path) -> None:
    with open_output(tmp_path, SETTINGS, [PART]) as output:
        PartWriter(output, PART, schema(OPTIONS)).add(_embedded(["a"]))
    assert len(list(tmp_path.glob(".incoming-*"))) == 1
    with open_output(tmp_path, SETTINGS, [PART]) as output:
        assert output.finished == {}
    assert [path.name for path in tmp_path.iterdir()] == ["_corpus.json"]


@pytest.mark.parametrize(
    ("settings", "parts", "message"),
    [
        (SETTINGS | {"dtype": "int8"}, [PART], "was begun with dtype 'float32', and now it is 'int8'"),
        (SETTINGS | {"model": "other"}, [PART], "was begun with model 'm', and now it is 'other'"),
        (SETTINGS, [Part(PART.name, 3, "changed", ())], "was made from files of INPUT that have changed"),
        (SETTINGS, [], "was made from files of INPUT that have changed"),
    ],
)
def test_another_run_cannot_continue(
    tmp_path: Path, settings: dict[str, object], parts: list[Part], message: str
) -> None:
    with open_output(tmp_path, SETTINGS, [PART]) as output:
        _write(output, _embedded(["a", "b", "c"]))
    with pytest.raises(ValueError, match=message), open_output(tmp_path, settings, parts):
        pass
    with open_output(tmp_path, SETTINGS, [PART]) as output:  # the refused run holds no lock
        assert list(output.finished) == [PART.name]


def test_a_new_shard_next_to_finished_shards_is_accepted(tmp_path: Path) -> None:
    with open_output(tmp_path, SETTINGS, [PART]) as output:
        _write(output, _embedded(["a", "b", "c"]))
    with open_output(tmp_path, SETTINGS, [Part("another-00000", 1, "digest", ()), PART]) as output:
        assert list(output.finished) == [PART.name]


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    message = "is not empty, and not the output of this program"
    with pytest.raises(ValueError, match=message), open_output(tmp_path, SETTINGS, [PART]):
        pass


def test_a_folder_that_cannot_be_made_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder, reason in (
        ("file", "it is a file"),
        ("file/out", "Not a directory"),
        ("x" * 300, "File name too long"),
    ):
        with pytest.raises(ValueError, match=rf"OUTPUT .*{folder} cannot be made: {reason}; choose another folder"):
            make_folder(tmp_path / folder)


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    with (
        open_output(tmp_path, SETTINGS, [PART]),
        pytest.raises(ValueError, match="another process writes to"),
        open_output(tmp_path, SETTINGS, [PART]),
    ):
        pass


def test_repeated_ids_are_counted(tmp_path: Path) -> None:
    with open_output(tmp_path, SETTINGS, [PART]) as output:
        _write(output, _embedded(["a", "b", "a"]))
        _write(output, _embedded(["a"]), part=Part("second", 1, "digest", ()))
    assert repeated_ids(tmp_path) == 2


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "\udcff", "[" * 100_000]
    + [json.dumps(SETTINGS | change) for change in ({"model": None}, {"dtype": "int4"}, {"dimension": "128"})],
)
def test_settings_of_another_program_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "_corpus.json").write_text(text, errors="surrogateescape")
    with pytest.raises(ValueError, match=r"has no readable _corpus\.json, so scripts/embed_corpus did not make it"):
        read_settings(tmp_path)
