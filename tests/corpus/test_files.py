import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from embeddinggemma.corpus.files import FORMATS, find_files, size_and_digest
from tests.support.corpora import read_rows_of, texts_of


def _make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text('{"text": "x"}\n')


def _names(root: Path, format: str | None = None) -> list[str]:
    return [file.name for file in find_files(root, format)]


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.jsonl", "jsonl"),
        ("a.ndjson", "jsonl"),
        ("a.json", "json"),
        ("a.JSON.GZ", "json"),
        ("a.csv", "csv"),
        ("a.tsv.zst", "tsv"),
        ("a.parquet", "parquet"),
        ("a.b.parquet.bz2", "parquet"),
        ("data-00000-of-00001.arrow", "arrow"),
        ("README", "text"),
        ("a.txt", "text"),
        ("a.md.gz", "text"),
        ("a.rst", "text"),
    ],
)
def test_the_suffix_says_the_format(tmp_path: Path, name: str, format: str) -> None:
    _make(tmp_path, name)
    assert [file.format for file in find_files(tmp_path)] == [format]
    assert [file.format for file in find_files(tmp_path / name)] == [format]


@pytest.mark.parametrize("name", ["a.pdf", "a.jsonl.xz", "a.docx", "a.zip", "a.jsn"])
def test_an_unknown_suffix_is_refused_by_name_unless_the_format_is_given(tmp_path: Path, name: str) -> None:
    _make(tmp_path, name, "b.jsonl")
    suffix = Path(name).suffix
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(ValueError, match=f"{name} ends in {suffix}, which is none of .jsonl .*--format says how"):
            find_files(path)
    assert _names(tmp_path, "jsonl") == ["b.jsonl"]
    assert _names(tmp_path, "text") == [name, "b.jsonl"]
    assert [file.format for file in find_files(tmp_path / name, "jsonl")] == ["jsonl"]


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    _make(tmp_path, ".git/a.txt", ".DS_Store", "deep/b.txt", "a.txt")
    assert _names(tmp_path) == ["a.txt", "deep/b.txt"]


def test_a_linked_folder_is_followed_once(tmp_path: Path) -> None:
    _make(tmp_path, "elsewhere/b.txt", "in/a.txt", "in/real/c.txt")
    (tmp_path / "in" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "a_link").symlink_to("real")  # its name comes first, and the real one is better
    (tmp_path / "in" / "real" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "self").symlink_to(".")
    assert _names(tmp_path / "in") == ["a.txt", "again/b.txt", "real/c.txt"]


def test_linked_files_are_read(tmp_path: Path) -> None:
    _make(tmp_path, "elsewhere/b.txt")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked.txt").symlink_to(tmp_path / "elsewhere" / "b.txt")
    assert _names(tmp_path / "in") == ["linked.txt"]


@pytest.mark.parametrize("target", ["nowhere", "gone.txt"])
def test_a_link_that_leads_nowhere_is_an_error_with_its_name(tmp_path: Path, target: str) -> None:
    _make(tmp_path, "a.txt")
    (tmp_path / "gone.txt").symlink_to(tmp_path / target)
    with pytest.raises(ValueError, match=r"gone\.txt cannot be read: (No such file|Too many levels)"):
        read_rows_of(tmp_path)


@pytest.fixture
def unreadable() -> Iterator[Path]:
    """A folder of this user's, while the tests have no right to read all that there is."""
    folder = Path(tempfile.mkdtemp(prefix="embeddinggemma-", dir="/tmp"))
    user = os.geteuid()
    if user == 0:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    yield folder
    for path in (folder, *folder.iterdir()):
        path.chmod(0o700)
    os.seteuid(user)
    shutil.rmtree(folder)


def test_an_unreadable_folder_is_an_error_with_its_name(unreadable: Path) -> None:
    _make(unreadable, "a.txt", "secret/b.txt")
    (unreadable / "secret").chmod(0)
    with pytest.raises(ValueError, match=r"/secret cannot be read: Permission denied"):
        read_rows_of(unreadable)


@pytest.mark.parametrize("name", ["b.txt", "b.jsonl", "b.parquet"])
def test_an_unreadable_file_is_an_error_with_its_name(unreadable: Path, name: str) -> None:
    _make(unreadable, name)
    (unreadable / name).chmod(0)
    with pytest.raises(ValueError, match=rf"/{name} cannot be read: Permission denied"):
        read_rows_of(unreadable)


LATIN_1 = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv", ".arrow"])
def test_a_name_that_is_not_utf_8_is_shown_in_ids_that_can_be_written(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"{LATIN_1}{suffix}"
    if suffix == ".arrow":
        with file.open("wb") as opened, pa.ipc.new_stream(opened, pa.schema({"text": pa.string()})) as writer:
            writer.write_table(pa.table({"text": ["x"]}))
    else:
        file.write_text({".txt": "x", ".csv": "text\nx\n", ".jsonl": '{"text": "x"}\n'}[suffix])
    for path in (tmp_path, file):
        [row] = read_rows_of(path)
        assert row.id.removesuffix(":1") == row.file == rf"caf\xe9{suffix}"
        assert texts_of([row]) == ["x"]
        row.id.encode()


def test_names_as_long_and_paths_as_deep_as_the_system_allows_are_read(tmp_path: Path) -> None:
    deep = "/".join(["folder"] * 300)
    _make(tmp_path, f"{'文' * 80}.jsonl", f"{deep}/b.jsonl")
    rows = read_rows_of(tmp_path)
    assert [row.id for row in rows] == [f"{deep}/b.jsonl:1", f"{'文' * 80}.jsonl:1"]


def _save(folder: Path, texts: list[str], files: int = 2) -> None:
    """Write a data set as the library `datasets` saves it: streams of Arrow, and two descriptions."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05}-of-{files:05}.arrow" for number in range(files)]
    schema = pa.schema({"text": pa.string()}, metadata={"huggingface": "{}"})
    for number, name in enumerate([*names, "cache-1234567890.arrow"]):
        with pa.ipc.new_stream(folder / name, schema) as writer:
            writer.write_table(pa.table({"text": texts[number::files]}, schema=schema), max_chunksize=3)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "1", "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {"text": {"dtype": "string"}}}))


def test_the_rows_of_a_saved_data_set_are_read_and_no_intermediate_results(tmp_path: Path) -> None:
    _save(tmp_path / "set", [str(number) for number in range(20)])
    assert texts_of(read_rows_of(tmp_path / "set")) == [*map(str, range(0, 20, 2)), *map(str, range(1, 20, 2))]


def test_the_splits_of_a_saved_data_set_are_read(tmp_path: Path) -> None:
    for split in ("train", "test"):
        _save(tmp_path / "set" / split, [split], files=1)
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert texts_of(read_rows_of(tmp_path / "set")) == ["test", "train"]


def test_what_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing does not exist"):
        find_files(tmp_path / "nothing")
    with pytest.raises(ValueError, match="/dev/null is neither a file nor a folder"):
        find_files(Path("/dev/null"))
    for format in (None, *FORMATS):
        with pytest.raises(ValueError, match=f"holds no file to embed{f' of format {format}' if format else ''}"):
            find_files(tmp_path, format)


def test_the_size_and_the_digest_are_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    assert size_and_digest(tmp_path / "a") == (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
