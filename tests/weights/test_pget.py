"""pget runs under a watchdog: the fetcher always ends, and only whole files count as fetched."""

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from embeddinggemma.weights import pget
from embeddinggemma.weights.fetching import Download, DownloadError
from embeddinggemma.weights.pget import PgetFetcher, Watchdog, bytes_read
from tests.support.tiny_model import program
from tools.observed_server import command_line

READ = "import sys, time\nwanted = [line.split() for line in sys.stdin]\n"
WRITE = "for url, path in wanted:\n    open(path, 'wb').write(b'12345')\n"


def fetch(tmp_path: Path, source: str, *, stall_seconds: float = 600) -> list[str]:
    """Let a program stand in for pget, and return the names of the files that arrived."""
    folder = tmp_path / "a folder with spaces"
    (folder / "sub").mkdir(parents=True)
    downloads = [Download(f"https://cdn.example/{name}", folder / name, 5) for name in ("one", "sub/two")]
    fetcher = PgetFetcher(str(program(tmp_path / "pget", source)), stall_seconds)
    return [download.path.name for download, _ in fetcher.fetch(downloads)]


def test_files_that_arrive_are_yielded(tmp_path: Path) -> None:
    assert fetch(tmp_path, READ + WRITE) == ["one", "two"]


def test_a_full_file_is_yielded_and_a_partial_file_is_not(tmp_path: Path) -> None:
    (tmp_path / "arrived").mkdir()
    download = [Download("https://cdn.example/a", tmp_path / "arrived" / name, 5) for name in ("full", "partial")]
    source = READ + "open('full', 'w').write('12345'); open('partial', 'w').write('123'); sys.exit(1)"
    arrivals = PgetFetcher(str(program(tmp_path / "pget", source)), 600).fetch(download)
    assert next(arrivals) == (download[0], hashlib.sha256(b"12345").hexdigest())
    with pytest.raises(DownloadError, match="exit code 1"):
        next(arrivals)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import sys; sys.exit('first\\nlast words')", "exit code 1: last words"),
        ("import sys; sys.exit(1)", "exit code 1: no reason given"),
        ("import os; os.kill(os.getpid(), 9)", "exit code -9"),
        (
            "import sys; sys.stderr.write('panic: index out of range\\n\\ngoroutine 1 [running]:\\n'); sys.exit(2)",
            "exit code 2: panic: index out of range$",
        ),
        ("", "one has 0 bytes, not 5"),
        (READ + "open('one', 'w').write('123456')", "one has 6 bytes, not 5"),
        (
            "import sys; sys.exit('Get \"https://user:secret@cdn.example/one?sig=secret\": refused')",
            'exit code 1: Get "https://cdn.example/one": refused$',
        ),
    ],
)
def test_the_reason_of_a_failure_is_given_in_one_line(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=message):
        fetch(tmp_path, source)


def test_a_program_that_cannot_be_started_is_a_download_error(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="cannot be started: No such file or directory"):
        list(PgetFetcher(str(tmp_path / "none"), 600).fetch([Download("https://cdn.example/a", tmp_path / "a", 1)]))


def test_a_program_that_hangs_is_ended(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"no new byte for 0\.5 s; ended"):
        fetch(tmp_path, "import signal\nsignal.pause()\n", stall_seconds=0.5)
    assert not [child for child in psutil.Process().children() if str(tmp_path / "pget") in command_line(child)]


def test_a_transfer_is_stalled_only_if_it_makes_no_progress() -> None:
    watchdog = Watchdog(10, now=0)
    moments = [(0, 9), (1 << 16, 9.9), ((1 << 16) + 1, 19.8), (1 << 17, 19.8), ((1 << 18) - 1, 29)]
    for moved, now in moments:
        watchdog.look(moved, now)
        assert not watchdog.stalled, (moved, now)
    watchdog.look((1 << 18) + (1 << 16) - 2, 39)  # less than counts as progress
    assert watchdog.stalled


def test_a_program_that_reads_before_it_writes_is_not_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program writes after eight looks that saw it read, which take longer than the stall time."""
    monkeypatch.setattr(pget, "_AHEAD", 1 << 30)
    looks: list[int] = []

    def reads(_: int) -> int:
        looks.append(len(looks) << 20)
        if len(looks) == 8:
            (tmp_path / "write").touch()
        return looks[-1]

    monkeypatch.setattr(pget, "bytes_read", reads)
    waits = f"from pathlib import Path\nwhile not Path({str(tmp_path / 'write')!r}).exists():\n    time.sleep(0.01)\n"
    assert fetch(tmp_path, READ + waits + WRITE, stall_seconds=0.4) == ["one", "two"]


def test_a_program_that_reads_without_end_and_writes_nothing_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pget, "bytes_read", lambda _: time.monotonic_ns())
    with pytest.raises(DownloadError, match=r"no new byte for 0\.5 s; ended"):
        fetch(tmp_path, "import signal\nsignal.pause()\n", stall_seconds=0.5)


def test_a_program_that_repeats_itself_is_ended(tmp_path: Path) -> None:
    source = "import sys\nwhile True: sys.stderr.write('retrying ' * 100 + '\\n')\n"
    with pytest.raises(DownloadError, match="it writes one message after the other; ended"):
        fetch(tmp_path, source, stall_seconds=4)


def test_a_program_that_takes_too_much_memory_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pget, "_MAX_MEMORY", 64 << 20)
    with pytest.raises(DownloadError, match="it holds more than 64 MB of memory; ended"):
        fetch(tmp_path, "import signal\nheld = b'1' * (100 << 20)\nsignal.pause()\n", stall_seconds=4)


def test_a_files_digest_is_known_when_it_has_arrived(tmp_path: Path) -> None:
    (tmp_path / "arrived").mkdir()
    download = Download("https://cdn.example/a", tmp_path / "arrived" / "a", 6)
    source = (
        READ + "file = open('a', 'wb', 0)\nfor byte in b'012345':\n    file.write(bytes([byte])); time.sleep(0.1)\n"
    )
    [(fetched, sha256)] = PgetFetcher(str(program(tmp_path / "pget", source)), 600).fetch([download])
    assert (fetched, sha256) == (download, hashlib.sha256(b"012345").hexdigest())


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not say how much a process has read")
def test_bytes_that_a_program_reads_count_before_it_writes_them() -> None:
    source = "import sys\nopen('/dev/zero', 'rb').read(1 << 20)\nprint(flush=True)\nsys.stdin.read()\n"
    command = [sys.executable, "-IS", "-c", source]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        assert bytes_read(process.pid) >= 1 << 20
        process.stdin.close()


def test_it_gets_no_token_and_its_command_line_holds_no_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    note = f"import os, sys\nopen({str(tmp_path / 'note')!r}, 'w').write(repr((sys.argv, dict(os.environ))))\n"
    assert fetch(tmp_path, note + READ + WRITE) == ["one", "two"]
    noted = (tmp_path / "note").read_text()
    assert "multifile" in noted
    assert "hf_secret" not in noted
    assert "cdn.example" not in noted
