"""Every fault of a download ends in the right bytes or in one clear error, and leaves nothing behind.

The outcomes are in docs/faults.md, which scripts/faults writes.
"""

import io
import itertools
import logging
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from embeddinggemma.weights import http, pget
from embeddinggemma.weights.cache import WeightsError, ensure_weights
from embeddinggemma.weights.manifest import Source
from embeddinggemma.weights.store import Store
from tests.support import faulty_server, tiny_model
from tests.support.faulty_server import (
    Fault,
    FaultyServer,
    both,
    cut,
    flip,
    ignore_range,
    redirect,
    reset,
    silence,
    status,
)
from tests.support.tiny_model import BIG, FILES, is_right, manifest, strays
from tools import PROJECT
from tools.fault_outcomes import PAGE, Outcomes

pytestmark = pytest.mark.slow

SHORT_TIMEOUT = 2.0  # seconds after which a transfer is given up if the fault is a silent server
LONG_TIMEOUT = 600.0  # for all other faults, so that a busy machine is not mistaken for a silent server
PERMANENT: dict[str, Fault] = {
    "404": status(404),
    "401": status(401),
    "403": status(403),
    "500, again and again": status(500),
    "501": status(501),
    "429, again and again": status(429),
    "429 that asks to wait an hour": status(429, Retry_After="3600"),
    "cut at 10 %, again and again": cut(0.1),
    "headers, and then closed, again and again": cut(0),
    "a redirect to itself": redirect(f"/cdn/{BIG}"),
    "the server stops sending at 50 %": silence(0.5),
    "the server never sends a byte": silence(0),
    "cut at 50 %, and Range is ignored": both(cut(0.5), ignore_range),
    "a byte too many": faulty_server.longer,
    "a byte too few": faulty_server.shorter,
    "one flipped bit": flip,
}
TEMPORARY: dict[str, list[Fault]] = {
    "500, then good": [status(500)],
    "429, then good": [status(429)],
    "408, then good": [status(408)],
    "cut at 10 %, once": [cut(0.1)],
    "cut at 50 %, once": [cut(0.5)],
    "cut at 99 %, once": [cut(0.99)],
    "reset at 50 %, once": [reset(0.5)],
    "Range is ignored": [ignore_range] * 5,
    "cut at 50 %, and then Range is ignored": [cut(0.5), ignore_range],
    "cut at 50 %, and then 416": [cut(0.5), status(416)],
}


@pytest.fixture
def server(file_server: FaultyServer) -> FaultyServer:
    file_server.publish("mirror", FILES)
    return file_server


@pytest.fixture(params=["http", "http in parts", "pget", "the real pget"])
def fetcher(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put one kind of pget on PATH, or none; return the fetcher's name. "In parts": over several connections."""
    programs = tmp_path / "bin"
    programs.mkdir()
    if request.param == "pget":
        tiny_model.program(programs / "pget", (PROJECT / "tests" / "support" / "pget_stand_in.py").read_text())
    elif request.param == "the real pget":
        real = os.environ.get("PGET") or shutil.which("pget")
        if not real:
            pytest.skip("there is no pget on PATH, and PGET names none")
        (programs / "pget").symlink_to(real)
    if request.param == "http in parts":
        monkeypatch.setattr(http, "PART_SIZE", 200_000)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(http, "_WAITS", (0.0,) * 5)
    monkeypatch.setattr(pget, "_MAX_MESSAGES", 20_000)
    return str(request.param)


@pytest.fixture(scope="module")
def outcomes() -> Outcomes:
    return Outcomes()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def story(log: pytest.LogCaptureFixture) -> str:
    """Return the failures, and the source and the fetcher of the right bytes in the end."""
    messages = [record.getMessage() for record in log.records]
    failed = [re.sub(r"^weights: \S+ with ", "", text) for text in messages if re.match(r"weights: \S+ with", text)]
    routes = [found for text in messages if (found := re.search(r"fetching .*/(\w+)/\S+ with (\w+)$", text))]
    return "; ".join([*failed, f"**right bytes** from {routes[-1][1]} with {routes[-1][2]}"])


def fetch(cache: Path, *sources: str | Source, stall_seconds: float = LONG_TIMEOUT) -> Path:
    return ensure_weights(manifest(*sources), Store(cache, hf_token="hf_secret", stall_seconds=stall_seconds))


def stall_seconds(fault: str) -> float:
    return SHORT_TIMEOUT if fault.startswith("the server") else LONG_TIMEOUT


@pytest.mark.parametrize("fault", PERMANENT)
def test_if_a_source_fails_the_next_takes_over(
    fault: str, fetcher: str, server: FaultyServer, tmp_path: Path, log: pytest.LogCaptureFixture, outcomes: Outcomes
) -> None:
    server.fail(f"/cdn/{BIG}", itertools.repeat(PERMANENT[fault]))
    sources = (f"{server.url}/cdn/{{path}}", f"{server.url}/mirror/{{path}}")
    assert is_right(fetch(tmp_path / "cache", *sources, stall_seconds=stall_seconds(fault)))
    assert not strays(tmp_path / "cache")
    if fetcher != "the real pget":  # it fetches the files in parallel, and drops all if one fails
        assert not server.asked_for("/mirror/config.json"), "a file that the first source delivered is fetched again"
    outcomes.record(fault, fetcher, story(log))


@pytest.mark.parametrize("fault", PERMANENT)
def test_if_the_only_source_fails_the_error_is_clear_and_the_next_start_works(
    fault: str, fetcher: str, server: FaultyServer, tmp_path: Path
) -> None:
    cdn = f"{server.url}/cdn/{{path}}"
    server.fail(f"/cdn/{BIG}", itertools.repeat(PERMANENT[fault]))
    with pytest.raises(WeightsError, match=rf"{BIG} is missing .3,000,000 bytes, sha256") as error:
        fetch(tmp_path / "cache", cdn, stall_seconds=stall_seconds(fault))
    assert f"{cdn} with {'http' if fetcher.startswith('http') else 'pget'}: " in str(error.value)
    assert not strays(tmp_path / "cache")
    server.fail(f"/cdn/{BIG}", [])
    assert is_right(fetch(tmp_path / "cache", cdn))
    if fetcher != "the real pget":
        assert len(server.asked_for("/cdn/config.json")) == 1


@pytest.mark.parametrize("fault", ["401", "403"])
def test_a_gated_source_that_refuses_the_token_says_what_may_be_missing(
    fault: str, fetcher: str, server: FaultyServer, tmp_path: Path, log: pytest.LogCaptureFixture, outcomes: Outcomes
) -> None:
    server.fail(f"/cdn/{BIG}", itertools.repeat(PERMANENT[fault]))
    gated = Source(f"{server.url}/cdn/{{path}}", gated=True)
    assert is_right(fetch(tmp_path / "cache", gated, f"{server.url}/mirror/{{path}}"))
    assert [request.headers.get("Authorization") for request in server.asked_for(f"/cdn/{BIG}")] == ["Bearer hf_secret"]
    assert "has the account of HF_TOKEN accepted the licence?" in log.text
    assert "hf_secret" not in log.text
    outcomes.record(f"{fault} to a token", fetcher, story(log))


@pytest.mark.parametrize("fault", TEMPORARY)
def test_a_temporary_fault_is_survived_with_a_single_source(
    fault: str, fetcher: str, server: FaultyServer, tmp_path: Path, log: pytest.LogCaptureFixture, outcomes: Outcomes
) -> None:
    server.fail(f"/cdn/{BIG}", TEMPORARY[fault])
    assert is_right(fetch(tmp_path / "cache", f"{server.url}/cdn/{{path}}"))
    assert not strays(tmp_path / "cache")
    outcomes.record(fault, fetcher, story(log))


def test_a_redirect_to_another_host_is_followed(
    fetcher: str, server: FaultyServer, tmp_path: Path, log: pytest.LogCaptureFixture, outcomes: Outcomes
) -> None:
    elsewhere = f"http://localhost:{server.port}/mirror/{BIG}"
    server.fail(f"/cdn/{BIG}", itertools.repeat(redirect(elsewhere)))
    assert is_right(fetch(tmp_path / "cache", f"{server.url}/cdn/{{path}}"))
    outcomes.record("redirect to another host", fetcher, story(log))


def test_a_redirect_from_https_to_http_is_not_followed_with_a_token_or_without(
    fetcher: str,
    server: FaultyServer,
    tmp_path: Path,
    log: pytest.LogCaptureFixture,
    outcomes: Outcomes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(variable, str(faulty_server.CERTIFICATE))
    with FaultyServer(tls=True) as cdn:
        cdn.publish("cdn", FILES)
        cdn.fail(f"/cdn/{BIG}", itertools.repeat(redirect(f"{server.url}/mirror/{BIG}")))
        assert is_right(fetch(tmp_path / "cache", f"{cdn.url}/cdn/{{path}}", f"{server.url}/mirror/{{path}}"))
    outcomes.record("redirect from https to http", fetcher, story(log))
    if fetcher == "http":
        assert "is not https any more" in log.text


@pytest.mark.parametrize(
    "fault",
    ["cut at 10 %, again and again", "headers, and then closed, again and again", "a redirect to itself"],
)
@pytest.mark.usefixtures("fetcher")
def test_what_never_ends_by_itself_is_ended_over_tls_and_with_a_delay_too(
    fault: str, server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each round then takes longer, and reads more bytes that are no file's."""
    for variable in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(variable, str(faulty_server.CERTIFICATE))

    def late(answer: faulty_server.Answer) -> None:
        time.sleep(0.04)
        PERMANENT[fault](answer)

    with FaultyServer(tls=True) as cdn:
        cdn.publish("cdn", FILES)
        cdn.fail(f"/cdn/{BIG}", itertools.repeat(late))
        sources = (f"{cdn.url}/cdn/{{path}}", f"{server.url}/mirror/{{path}}")
        assert is_right(fetch(tmp_path / "cache", *sources, stall_seconds=SHORT_TIMEOUT))


HOSTILE = ["../outside", "/tmp/embeddinggemma-outside", "snapshots/../../outside"]  # noqa: S108


def hub_cache_tar(*, hostile: bool = False) -> bytes:
    """A Hub cache folder: blobs, a snapshot of links to them, and the other files of such a folder."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:

        def add(name: str, body: bytes = b"", **header: object) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(body)
            for key, value in header.items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(body))

        add("models--tests--tiny/refs/main", b"0123abcd")
        for number, (path, body) in enumerate(FILES.items()):
            add(f"models--tests--tiny/blobs/{number}", body)
            up = "../" * (2 + path.count("/"))
            name = f"models--tests--tiny/snapshots/0123abcd/{path}"
            add(name, type=tarfile.SYMTYPE, linkname=f"{up}blobs/{number}")
        if hostile:
            for name in HOSTILE:
                add(name, b"x" * len(FILES[BIG]))
                add(name, type=tarfile.SYMTYPE, linkname="/etc")
                add(name, type=tarfile.LNKTYPE, linkname="/etc/passwd")
            add("dev", type=tarfile.CHRTYPE)
    return written.getvalue()


@pytest.mark.parametrize("hostile", [False, True])
def test_a_tar_gives_its_pinned_files_and_nothing_else(
    hostile: bool,
    fetcher: str,
    server: FaultyServer,
    tmp_path: Path,
    log: pytest.LogCaptureFixture,
    outcomes: Outcomes,
) -> None:
    server.files["/cdn/model.tar"] = hub_cache_tar(hostile=hostile)
    assert is_right(fetch(tmp_path / "cache", f"{server.url}/cdn/model.tar"))
    assert not strays(tmp_path / "cache")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "cache"]
    assert not Path(HOSTILE[1]).exists()
    kind = "with `../`, absolute paths, links and a device" if hostile else "of a Hub cache"
    outcomes.record(f"a tar {kind}", fetcher, story(log))


@pytest.mark.parametrize(
    ("fault", "body"),
    [
        ("a tar that ends early", hub_cache_tar()[:2_000_000]),
        ("a tar that is a web page", b"<html>" * 1000),
        ("a tar with one flipped bit", hub_cache_tar().replace(FILES[BIG], b"\xff" + FILES[BIG][1:])),
    ],
)
def test_a_broken_tar_gives_its_right_files_and_the_next_source_the_rest(
    fault: str,
    body: bytes,
    fetcher: str,
    server: FaultyServer,
    tmp_path: Path,
    log: pytest.LogCaptureFixture,
    outcomes: Outcomes,
) -> None:
    server.files["/cdn/model.tar"] = body
    assert is_right(fetch(tmp_path / "cache", f"{server.url}/cdn/model.tar", f"{server.url}/mirror/{{path}}"))
    assert not strays(tmp_path / "cache")
    assert bool(server.asked_for("/mirror/config.json")) == ("page" in fault), (
        "only files that were not in the tar are fetched"
    )
    outcomes.record(fault, fetcher, story(log))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_on_disk(path: Path) -> None:
    path.write_bytes(b"\0" + path.read_bytes()[1:])


@pytest.mark.parametrize(
    ("fault", "spoil"),
    [
        ("a truncated file in a warm cache", truncate),
        ("a flipped bit in a warm cache", flip_on_disk),
        ("a file missing from a warm cache", Path.unlink),
    ],
)
def test_a_spoilt_file_of_a_warm_cache_is_fetched_again_alone(
    fault: str,
    spoil: Callable[[Path], None],
    fetcher: str,
    server: FaultyServer,
    tmp_path: Path,
    log: pytest.LogCaptureFixture,
    outcomes: Outcomes,
) -> None:
    folder = tiny_model.write_right_files(tmp_path / "cache")
    spoil(folder / BIG)
    assert is_right(fetch(tmp_path / "cache", f"{server.url}/cdn/{{path}}"))
    assert not strays(tmp_path / "cache")
    assert {request.path for request in server.requests} == {f"/cdn/{BIG}"}
    outcomes.record(fault, fetcher, story(log))


def start(manifest_file: Path, cache: Path, *max_file_size: str) -> subprocess.Popen[str]:
    """Start another process that needs the same weights."""
    command = [sys.executable, "-m", "tests.support.fill_cache", str(manifest_file), str(cache), *max_file_size]
    return subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    """Read a process's log until a line has these words."""
    assert process.stderr is not None
    assert any(words in line for line in process.stderr), f"the process ended and did not log {words!r}"


def test_the_next_start_repairs_everything_that_a_killed_process_left(
    fetcher: str, server: FaultyServer, tmp_path: Path, log: pytest.LogCaptureFixture, outcomes: Outcomes
) -> None:
    cdn = f"{server.url}/cdn/{{path}}"
    server.fail(f"/cdn/{BIG}", [silence(0.5)])
    with start(tiny_model.write_manifest(tmp_path / "manifest.json", cdn), tmp_path / "cache") as killed:
        assert server.silent.wait(600)
        killed.kill()
    assert strays(tmp_path / "cache"), "it was killed too early to leave anything"
    assert is_right(fetch(tmp_path / "cache", cdn))
    assert not strays(tmp_path / "cache")
    if fetcher == "http":
        assert len(server.asked_for("/cdn/config.json")) == 1, "a file that had been verified is fetched again"
    outcomes.record("killed with SIGKILL at 50 %, and started again", fetcher, story(log))


def test_two_processes_fetch_each_file_once(
    fetcher: str, server: FaultyServer, tmp_path: Path, outcomes: Outcomes
) -> None:
    path = tiny_model.write_manifest(tmp_path / "manifest.json", f"{server.url}/cdn/{{path}}")
    server.fail(f"/cdn/{BIG}", [faulty_server.pause(0.5)])
    with start(path, tmp_path / "cache") as first:
        assert server.silent.wait(600)
        with start(path, tmp_path / "cache") as second:
            wait_for(second, "waiting for another process")
            server.released.set()
            assert (first.wait(600), second.wait(600)) == (0, 0)
    assert not strays(tmp_path / "cache")
    if fetcher != "the real pget":  # it asks for a file's size first
        assert sorted(request.path for request in server.requests) == sorted(f"/cdn/{path}" for path in FILES)
    outcomes.record("two processes on one cache folder", fetcher, "the second waits; each file is fetched once")


def test_a_full_disk_is_named_and_the_next_start_works(
    fetcher: str, server: FaultyServer, tmp_path: Path, outcomes: Outcomes
) -> None:
    cdn = f"{server.url}/cdn/{{path}}"
    path = tiny_model.write_manifest(tmp_path / "manifest.json", cdn)
    with start(path, tmp_path / "cache", "1000000") as full:
        printed = full.communicate(timeout=600)[1].splitlines()
        assert full.returncode == 1
    reason = f"the cache folder {tmp_path}/cache cannot be used: File too large"
    assert printed[-1] == reason or printed[-3:-1] == [reason, "tried:"], "what pget says comes after it"
    assert not strays(tmp_path / "cache")
    assert is_right(fetch(tmp_path / "cache", cdn))
    outcomes.record("disk full (RLIMIT_FSIZE)", fetcher, reason.replace(str(tmp_path), ""))


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path: Path, outcomes: Outcomes) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match=r"the cache folder .*/file/cache cannot be used: Not a directory") as error:
        fetch(tmp_path / "file" / "cache", "http://127.0.0.1:9/{path}")
    outcomes.record("a cache folder that cannot be made", "any", str(error.value).replace(str(tmp_path), ""))


def test_the_page_in_the_docs_has_these_outcomes(outcomes: Outcomes, request: pytest.FixtureRequest) -> None:
    ran = {item.name.partition("[")[0] for item in request.session.items if item.path == Path(__file__)}
    if not {name for name in globals() if name.startswith("test_")} <= ran or request.session.testsfailed:
        pytest.skip("only some of the faults were produced")
    if wanted := request.config.getoption("--faults-page"):
        wanted.write_text(outcomes.page())
    else:
        assert PAGE.read_text() == outcomes.page(), "docs/faults.md is out of date: run scripts/faults"
