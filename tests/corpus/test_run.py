import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from embeddinggemma.corpus.output import parquet_files
from embeddinggemma.corpus.run import session_folder
from tests.support.corpora import read_output, run_script, texts, write_jsonl
from tools import SCRIPTS
from tools.client import wait_until

MARKER = "zwxqmarker"  # in every text and title
TEXTS = [f"{text} {MARKER}" for text in texts(2500)]
ROWS: list[dict[str, object]] = [
    {"text": text, "title": MARKER, "more": MARKER} for text in [*TEXTS, " ", 3, f"{MARKER}\ud800"]
]
TITLES = ("--title-column", "title")
REJECTED = len(ROWS) - len(TEXTS)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "rows.jsonl", ROWS)


@pytest.fixture(scope="module")
def whole(variables: dict[str, str], corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run without interruption."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    finished = run_script(variables, "embed_corpus", corpus, folder, *TITLES, "--rows-per-part", 100, "--workers", 2)
    assert finished.returncode == 0, finished.stderr
    assert f"rows: {len(ROWS):,} = {len(TEXTS):,} embedded + {REJECTED} rejected" in finished.stdout
    return folder


@pytest.mark.slow
def test_every_row_is_embedded_once_and_in_order(whole: Path) -> None:
    table = read_output(whole)
    assert table["text"].to_pylist() == TEXTS
    assert table["id"].to_pylist() == [f"rows.jsonl:{row}" for row in range(1, len(TEXTS) + 1)]
    lengths = np.linalg.norm(np.array(table["embedding"].to_pylist(), np.float32), axis=1)
    assert np.abs(lengths - 1).max() < 1e-5


@pytest.fixture
def short_tmpdir() -> Iterator[Path]:
    """A folder for temporary files, with a name that Ray's sockets allow."""
    with tempfile.TemporaryDirectory(prefix="eg-", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


def _holding(text: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


@pytest.mark.slow
def test_a_killed_run_is_resumed_without_redoing_or_losing_anything_and_logs_no_text(
    variables: dict[str, str], corpus: Path, whole: Path, tmp_path: Path, short_tmpdir: Path
) -> None:
    folder, log = tmp_path / "out", tmp_path / "log"
    options = [*TITLES, "--rows-per-part", "100", "--workers", "2"]
    command: list[str | Path] = [SCRIPTS / "embed_corpus", corpus, folder, *options]
    environment = {**os.environ, **variables, "TMPDIR": str(short_tmpdir)}
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)

    def has_a_finished_part() -> bool:
        assert process.poll() is None, "the run has ended"
        return len(parquet_files(folder)) >= 1

    wait_until(has_a_finished_part, timeout=1200)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("[!.]*.parquet")}
    assert 1 <= len(before) < len(parquet_files(whole))

    [session] = short_tmpdir.glob("ray-*")
    assert session.stat().st_mode & 0o777 == 0o700  # Ray's own folders in it are open to all
    assert len(list(session.rglob("*.log"))) > 3
    assert _holding(MARKER, short_tmpdir) == []
    assert MARKER not in log.read_text()

    refused = run_script(variables, "embed_corpus", corpus, folder, *TITLES, "--rows-per-part", 100, "--dtype", "int8")
    assert refused.returncode == 1
    assert "was begun with dtype 'float32', and now it is 'int8'" in refused.stderr

    os.utime(corpus, (1, 1))
    resumed = run_script(variables, "embed_corpus", corpus, folder, *options)
    assert resumed.returncode == 0, resumed.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    table, expected = read_output(folder), read_output(whole)
    assert table.drop_columns("embedding").equals(expected.drop_columns("embedding"))
    difference = np.array(table["embedding"].to_pylist()) - np.array(expected["embedding"].to_pylist())
    assert np.abs(difference).max() < 1e-5
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in whole.iterdir())


@pytest.mark.slow
def test_a_finished_corpus_is_not_embedded_again(variables: dict[str, str], corpus: Path, whole: Path) -> None:
    again = run_script(variables, "embed_corpus", corpus, whole, *TITLES, "--rows-per-part", 100)
    assert again.returncode == 0, again.stderr
    assert "this run" not in again.stdout
    assert f"rows: {len(ROWS):,} = {len(TEXTS):,} embedded + {REJECTED} rejected" in again.stdout


@pytest.mark.slow
def test_search_refuses_other_weights(variables: dict[str, str], whole: Path) -> None:
    genuine = {name: value for name, value in variables.items() if name != "EMBEDDINGGEMMA_MANIFEST"}
    refused = run_script(genuine, "search", whole, "a question")
    assert refused.returncode == 1
    assert "the vectors are of the weights embeddinggemma-small-" in refused.stderr


@pytest.mark.slow
def test_nothing_but_the_output_is_left_and_a_long_tmpdir_is_no_hindrance(
    variables: dict[str, str], tmp_path: Path, short_tmpdir: Path
) -> None:
    """Rejects and output aside, no file has a text; Ray gives each socket a name of some 80 characters."""
    cases = Path(__file__).parent / "cases"
    changes = {"TMPDIR": str(short_tmpdir), "HOME": "/proc/nothing"}  # Ray would write its token there
    short = run_script({**variables, **changes}, "embed_corpus", cases / "rows.json", tmp_path / "a")
    assert short.returncode == 0, short.stderr
    assert list(short_tmpdir.iterdir()) == []
    long = tmp_path / ("x" * 80)
    long.mkdir()
    (tmp_path / "in").mkdir()
    write_jsonl(tmp_path / "in" / os.fsdecode(b"caf\xe9.jsonl"), [{"text": "one"}])
    finished = run_script({**variables, "TMPDIR": str(long)}, "embed_corpus", tmp_path / "in", tmp_path / "b")
    assert finished.returncode == 0, finished.stderr
    assert read_output(tmp_path / "b")["id"].to_pylist() == ["caf\\xe9.jsonl:1"]
    assert list(long.iterdir()) == []


@pytest.mark.slow
def test_a_run_that_is_ended_says_how_it_goes_on_and_leaves_no_process_or_log(
    variables: dict[str, str], corpus: Path, tmp_path: Path, short_tmpdir: Path
) -> None:
    command: list[str | Path] = [SCRIPTS / "embed_corpus", corpus, tmp_path / "out", "--rows-per-part", "100"]
    environment = {**os.environ, **variables, "TMPDIR": str(short_tmpdir)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr

        def has_a_finished_part() -> bool:
            assert process.poll() is None, "the run has ended"
            return len(parquet_files(tmp_path / "out")) >= 1

        wait_until(has_a_finished_part, timeout=1200)
        below = psutil.Process(process.pid).children(recursive=True)
        assert len(below) > 2
        process.terminate()
        last_line = process.stderr.read().splitlines()[-1]
    assert last_line == "stopped; the same command goes on from here"
    assert process.returncode == 1
    _, left = psutil.wait_procs(below, timeout=60)
    assert left == []
    assert list(short_tmpdir.iterdir()) == []


@pytest.mark.slow
def test_a_file_of_which_every_row_is_rejected_is_an_error(variables: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_jsonl(tmp_path / "in" / "a.jsonl", [{"text": " "}, {"text": 3}])
    write_jsonl(tmp_path / "in" / "b.jsonl", [{"text": "x"}, {"text": 3}])
    for _ in range(2):  # a finished OUTPUT is still one that lacks a file
        finished = run_script(variables, "embed_corpus", tmp_path / "in", tmp_path / "out")
        assert finished.returncode == 1
        assert "rows: 4 = 1 embedded + 3 rejected" in finished.stdout
        [line] = [line for line in finished.stderr.splitlines() if "rejected" in line]
        assert line == f"a.jsonl: every row was rejected; {tmp_path}/out/_rejects says why"


CASES = Path(__file__).parent / "cases"
MISTAKES: dict[str, tuple[list[object], str]] = {
    "no INPUT": (["nothing", "out"], "nothing does not exist"),
    "a name that is too long": (["x" * 300, "out"], "File name too long"),
    "OUTPUT is a file": ([CASES / "rows.json", "file"], "file cannot be made: it is a file; choose another folder"),
    "OUTPUT within INPUT": ([".", "out"], "is inside INPUT"),
    "a misspelt column": (
        [CASES / "misspelt_column.jsonl", "out", "--id-column", "ID"],
        "has 'ID', only text, title, id",
    ),
    "an unclosed quote": ([CASES / "unclosed_quote.csv", "out"], "the quote that opens in line 7 has no end"),
    "too many workers": ([CASES / "rows.json", "out", "--workers", "9999"], "need more than there is"),
    "INPUT is not UTF-8": ([os.fsdecode(b"caf\xe9"), "out"], "is not UTF-8, which Ray needs"),
    "no workers": ([CASES / "rows.json", "out", "--workers", "0"], "--workers is 0; it must be at least 1"),
    "no encoding": ([CASES / "latin1.csv", "out", "--encoding", "x"], "--encoding is 'x', which Python does not know"),
    "two delimiters": ([CASES / "semicolons.csv", "out", "--delimiter", ";;"], "--delimiter is ';;'; it must be one"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_ends_in_one_line_and_leaves_nothing(
    variables: dict[str, str], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, message = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    refused = run_script(variables, "embed_corpus", *arguments)
    assert refused.returncode == 1
    [line] = refused.stderr.splitlines()
    assert message in line
    assert refused.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_no_short_folder_for_temporary_files_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embeddinggemma.corpus.run._MAX_TMPDIR", 3)
    with pytest.raises(ValueError, match="at most 3 characters: neither TMPDIR nor /tmp can be used"), session_folder():
        pass
