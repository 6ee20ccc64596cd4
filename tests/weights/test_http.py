"""The HTTP fetcher resumes, gives up in time, keeps the token, and names errors in a few words."""

import email.utils
import hashlib
import itertools
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from embeddinggemma.weights import http
from embeddinggemma.weights.fetching import Download, DownloadError
from embeddinggemma.weights.http import HttpFetcher
from tests.support.faulty_server import (
    Answer,
    Fault,
    FaultyServer,
    both,
    cut,
    ignore_range,
    redirect,
    reset,
    silence,
    status,
)

BODY = bytes(range(256)) * 4000
PATH = "/folder/file"
RIGHT = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as started:
        started.files[PATH] = BODY
        yield started


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_WAITS", (0.0,) * 5)


def fetch(
    url: str,
    tmp_path: Path,
    *,
    token: str | None = None,
    size: int | None = len(BODY),
    stall_seconds: float = 600,
    connections: int = 1,
) -> str | None:
    """Fetch one file and return its digest, which must be that of its bytes on disk."""
    wanted = Download(url, tmp_path / "file", size)
    [(fetched, sha256)] = HttpFetcher(stall_seconds, token, connections).fetch([wanted])
    assert fetched == wanted
    assert sha256 == hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()
    return sha256


def ranges(server: FaultyServer) -> list[str | None]:
    return [request.headers.get("Range") for request in server.asked_for(PATH)]


def test_the_digest_is_that_of_the_bytes(server: FaultyServer, tmp_path: Path) -> None:
    assert fetch(server.url + PATH, tmp_path) == RIGHT


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_after_a_cut_only_the_rest_is_fetched(part: float, server: FaultyServer, tmp_path: Path) -> None:
    server.fail(PATH, [cut(part)])
    assert fetch(server.url + PATH, tmp_path) == RIGHT
    assert ranges(server) == [None, f"bytes={int(len(BODY) * part)}-"]


def test_a_file_may_arrive_in_several_parts(server: FaultyServer, tmp_path: Path) -> None:
    server.fail(PATH, [cut(0.5), reset(0.5), cut(0.5), status(503)])
    assert fetch(server.url + PATH, tmp_path) == RIGHT


def test_if_a_server_ignores_range_the_file_is_fetched_from_its_beginning(server: FaultyServer, tmp_path: Path) -> None:
    server.fail(PATH, [both(cut(0.5), ignore_range), ignore_range])
    assert fetch(server.url + PATH, tmp_path) == RIGHT


def test_tries_are_bounded(server: FaultyServer, tmp_path: Path) -> None:
    server.fail(PATH, itertools.repeat(cut(0.01)))
    with pytest.raises(DownloadError, match=r"connection closed \(tried 5 times\)"):
        fetch(server.url + PATH, tmp_path)
    assert len(ranges(server)) == 5


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 416])
def test_a_request_that_the_server_refuses_is_not_sent_again(code: int, server: FaultyServer, tmp_path: Path) -> None:
    server.fail(PATH, [status(code)])
    with pytest.raises(DownloadError, match=f"HTTP {code}"):
        fetch(server.url + PATH, tmp_path)
    assert len(ranges(server)) == 1


@pytest.mark.parametrize("code", [408, 429, 500, 503])
def test_a_request_that_may_succeed_later_is_sent_again(code: int, server: FaultyServer, tmp_path: Path) -> None:
    server.fail(PATH, [status(code)] * 4)
    assert fetch(server.url + PATH, tmp_path) == RIGHT
    assert len(ranges(server)) == 5


def in_seconds(_: Answer) -> str:
    return "1"


def as_a_date(_: Answer) -> str:
    return email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=2.5), usegmt=True)


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize("form", [in_seconds, as_a_date])
def test_a_server_that_asks_to_wait_gets_no_request_before(
    form: Callable[[Answer], str], code: int, server: FaultyServer, tmp_path: Path
) -> None:
    server.fail(PATH, [lambda answer: status(code, Retry_After=form(answer))(answer)])
    assert fetch(server.url + PATH, tmp_path) == RIGHT
    first, second = server.asked_for(PATH)
    assert second.moment - first.moment >= 1


def test_a_server_that_asks_to_wait_for_too_long_has_refused(server: FaultyServer, tmp_path: Path) -> None:
    server.fail(PATH, [status(429, Retry_After="3600")])
    with pytest.raises(DownloadError, match=r"HTTP 429; it asks to wait 3,600 s$"):
        fetch(server.url + PATH, tmp_path)
    assert len(ranges(server)) == 1


@pytest.mark.parametrize("value", ["soon", "-1", "9" * 5000, "Fri, 31 Dec 99999999 23:59:59 GMT", ""])
def test_a_wait_that_makes_no_sense_is_not_an_error_of_its_own(
    value: str, server: FaultyServer, tmp_path: Path
) -> None:
    server.fail(PATH, [status(429, Retry_After=value)])
    assert fetch(server.url + PATH, tmp_path) == RIGHT


def test_a_file_whose_rest_is_refused_is_fetched_from_its_beginning(server: FaultyServer, tmp_path: Path) -> None:
    server.fail(PATH, [cut(0.5), status(416)])
    assert fetch(server.url + PATH, tmp_path) == RIGHT
    assert ranges(server) == [None, f"bytes={len(BODY) // 2}-", None]


@pytest.mark.parametrize("part", [0, 0.5])
def test_a_silent_server_is_not_waited_for_twice(part: float, server: FaultyServer, tmp_path: Path) -> None:
    server.fail(PATH, [silence(part)])
    with pytest.raises(DownloadError, match=r"no byte for 2 s"):
        fetch(server.url + PATH, tmp_path, stall_seconds=2)
    assert len(ranges(server)) == 1


@pytest.mark.parametrize("size", [len(BODY) - 1, len(BODY) + 1])
def test_a_wrong_length_is_refused_before_the_bytes_are_fetched(
    size: int, server: FaultyServer, tmp_path: Path
) -> None:
    with pytest.raises(DownloadError, match=f"has {len(BODY):,} bytes, not {size:,}"):
        fetch(server.url + PATH, tmp_path, size=size)
    assert (tmp_path / "file").stat().st_size == 0


def test_a_file_of_unknown_length_has_the_length_that_the_server_gives(server: FaultyServer, tmp_path: Path) -> None:
    server.fail(PATH, [cut(0.5)])
    assert fetch(server.url + PATH, tmp_path, size=None) == RIGHT


def test_the_token_goes_to_the_first_host_and_not_to_another_after_a_redirect(
    server: FaultyServer, tmp_path: Path
) -> None:
    with FaultyServer() as other:
        other.files[PATH] = BODY
        server.fail("/gated", [redirect("/still-here")])
        server.fail("/still-here", [redirect(other.url + PATH)])
        fetch(f"{server.url}/gated", tmp_path, token="hf_secret")
        assert [request.headers.get("Authorization") for request in server.requests] == ["Bearer hf_secret"] * 2
        assert [request.headers.get("Authorization") for request in other.requests] == [None]


def test_a_netrc_entry_does_not_replace_the_token(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    fetch(server.url + PATH, tmp_path, token="hf_secret")
    assert server.requests[0].headers["Authorization"] == "Bearer hf_secret"


def test_a_redirect_to_plain_http_on_another_host_is_refused(server: FaultyServer, tmp_path: Path) -> None:
    server.fail(PATH, [redirect("http://example.org/file")])
    with pytest.raises(DownloadError, match=r"redirects, but http://example\.org/file is not an https address"):
        fetch(server.url + PATH, tmp_path)


@pytest.mark.parametrize(
    ("location", "path", "query"),
    [
        ("/Straße/ø?n=ü", "/Stra%C3%9Fe/%C3%B8", "n=%C3%BC"),
        ("/Stra%C3%9Fe?signature=a%2Bb%3D", "/Stra%C3%9Fe", "signature=a%2Bb%3D"),
        ("/a file?a=b&c=d;e", "/a%20file", "a=b&c=d;e"),
    ],
)
def test_the_address_of_a_redirect_is_quoted_once(
    location: str, path: str, query: str, server: FaultyServer, tmp_path: Path
) -> None:
    server.files[path] = BODY
    server.fail(PATH, [redirect(location)])
    assert fetch(server.url + PATH, tmp_path) == RIGHT
    assert (server.requests[-1].path, server.requests[-1].query) == (path, query)


def test_a_redirect_to_what_is_no_address_is_refused(server: FaultyServer, tmp_path: Path) -> None:
    server.fail(PATH, [redirect("http://[secret")])
    with pytest.raises(DownloadError, match=r"the URL or a header is not valid \(ValueError\)$"):
        fetch(server.url + PATH, tmp_path)


def test_redirects_in_a_circle_end(server: FaultyServer, tmp_path: Path) -> None:
    server.fail(PATH, itertools.repeat(redirect(PATH)))
    with pytest.raises(DownloadError, match="more than 5 redirects"):
        fetch(server.url + PATH, tmp_path)


@pytest.mark.parametrize(
    "fault", [status(403), cut(0.1), silence(0), redirect("http://example.org/f?signature=secret"), redirect(PATH)]
)
def test_no_secret_of_a_url_is_in_an_error_or_the_log(
    fault: Fault, server: FaultyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "embeddinggemma")
    server.fail(PATH, itertools.repeat(fault))
    signed = f"{server.url.replace('//', '//user:secret@')}{PATH}?signature=secret"
    with pytest.raises(DownloadError) as error:
        fetch(signed, tmp_path, stall_seconds=2)
    assert "secret" not in str(error.value) + caplog.text


@pytest.mark.parametrize("token", ["hf_secret\n", "hf_\nsecret", "hf_secret…", "hf_\udce9secret"])
def test_a_token_that_cannot_be_in_a_header_is_not_shown(
    token: str, server: FaultyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(
        DownloadError, match=r"^127\.0\.0\.1 cannot be reached: the URL or a header is not valid"
    ) as error:
        fetch(server.url + PATH, tmp_path, token=token)
    assert "secret" not in str(error.value) + caplog.text


def test_the_library_below_logs_no_url(server: FaultyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It warns of a header that cannot be parsed, and shows the URL."""
    caplog.set_level(logging.DEBUG)

    def odd_header(answer: Answer) -> None:
        answer.headers = {"Odd": "header\r\nwithout a colon"}

    server.fail(PATH, [odd_header])
    assert fetch(f"{server.url}{PATH}?signature=secret", tmp_path) == RIGHT
    assert "secret" not in caplog.text


def test_a_refused_connection_is_named_in_a_few_words(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/file"
        with pytest.raises(
            DownloadError, match=r"^127\.0\.0\.1 cannot be reached: connection refused \(tried 5 times\)$"
        ):
            fetch(url, tmp_path)


def test_a_name_that_does_not_exist_is_looked_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_name(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    with pytest.raises(DownloadError, match=r"^weights\.example cannot be reached: name not resolved$"):
        fetch("https://weights.example/file", tmp_path)


def test_a_certificate_that_is_not_trusted_is_refused(tmp_path: Path) -> None:
    with FaultyServer(tls=True) as untrusted:
        untrusted.files[PATH] = BODY
        with pytest.raises(
            DownloadError, match=r"^127\.0\.0\.1 cannot be reached: certificate not trusted: self-signed"
        ):
            fetch(untrusted.url + PATH, tmp_path)


def well(_: object) -> None:
    """No fault."""


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the file into eleven parts."""
    monkeypatch.setattr(http, "PART_SIZE", 100_000)


@pytest.mark.usefixtures("small_parts")
def test_a_large_file_comes_in_parts_that_are_fetched_once(server: FaultyServer, tmp_path: Path) -> None:
    assert fetch(server.url + PATH, tmp_path, connections=4) == RIGHT
    bounds = range(0, len(BODY), 100_000)
    expected = [f"bytes={begin}-{min(begin + 100_000, len(BODY)) - 1}" for begin in bounds]
    assert sorted(map(str, ranges(server))) == sorted(expected)


@pytest.mark.usefixtures("small_parts")
def test_several_parts_are_on_their_way_at_once(server: FaultyServer, tmp_path: Path) -> None:
    """Four answers wait for each other: fewer connections would wait for ever."""
    together = threading.Barrier(4, timeout=600)

    def wait_for_the_others(_: object) -> None:
        together.wait()

    server.fail(PATH, [well, *[wait_for_the_others] * 4])
    assert fetch(server.url + PATH, tmp_path, connections=4) == RIGHT


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(("fault", "part"), [(cut(0.1), 0.1), (cut(0.99), 0.99), (status(503), None)])
def test_of_a_part_that_breaks_off_only_the_rest_is_fetched(
    fault: Fault, part: float | None, server: FaultyServer, tmp_path: Path
) -> None:
    server.fail(PATH, [well, fault, fault, well, fault])
    assert fetch(server.url + PATH, tmp_path, connections=4) == RIGHT
    begins = [int(str(wanted).removeprefix("bytes=").partition("-")[0]) for wanted in ranges(server)]
    assert len(begins) == 11 + 3
    later = [begin for begin in begins if begin % 100_000]
    assert len(later) == (0 if part is None else 3), "a part that had begun to arrive was asked for as a whole"


@pytest.mark.usefixtures("small_parts")
def test_if_a_server_sends_no_ranges_one_connection_gets_the_file(server: FaultyServer, tmp_path: Path) -> None:
    server.fail(PATH, itertools.repeat(ignore_range))
    assert fetch(server.url + PATH, tmp_path, connections=4) == RIGHT
    assert ranges(server) == ["bytes=0-99999", None]


@pytest.mark.usefixtures("small_parts")
def test_if_a_server_refuses_more_connections_one_connection_gets_the_rest(
    server: FaultyServer, tmp_path: Path
) -> None:
    together = threading.Barrier(4, timeout=600)

    def refuse_three(answer: Answer) -> None:
        if together.wait():  # four ask at once; one of them is answered
            status(403)(answer)

    server.fail(PATH, [well, *[refuse_three] * 4])
    assert fetch(server.url + PATH, tmp_path, connections=4) == RIGHT
    assert str(ranges(server)[-1]).endswith("-"), "the rest was not asked for as a whole"


@pytest.mark.usefixtures("small_parts")
def test_a_part_that_is_refused_for_a_while_is_asked_for_again(server: FaultyServer, tmp_path: Path) -> None:
    server.fail(PATH, [well, *[status(429, Retry_After="1")] * 3])
    assert fetch(server.url + PATH, tmp_path, connections=4) == RIGHT
    assert len(ranges(server)) == 11 + 3
    assert not any(str(wanted).endswith("-") for wanted in ranges(server))


@pytest.mark.usefixtures("small_parts")
def test_a_server_that_refuses_every_range_sends_the_whole_file(server: FaultyServer, tmp_path: Path) -> None:
    server.fail(PATH, [status(416)])
    assert fetch(server.url + PATH, tmp_path, connections=4) == RIGHT
    assert ranges(server) == ["bytes=0-99999", None]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("code", [401, 404])
def test_a_large_file_that_is_refused_is_an_error(code: int, server: FaultyServer, tmp_path: Path) -> None:
    server.fail(PATH, itertools.repeat(status(code)))
    with pytest.raises(DownloadError, match=f"HTTP {code}"):
        fetch(server.url + PATH, tmp_path, connections=4)
    assert len(ranges(server)) == 1


@pytest.mark.usefixtures("small_parts")
def test_a_large_file_of_which_no_byte_comes_is_given_up_once(server: FaultyServer, tmp_path: Path) -> None:
    server.fail(PATH, itertools.repeat(silence(0.5)))
    with pytest.raises(DownloadError, match=r"no byte for 0\.5 s"):
        fetch(server.url + PATH, tmp_path, connections=4, stall_seconds=0.5)
    assert all("-" in str(wanted) and not str(wanted).endswith("-") for wanted in ranges(server))


@pytest.mark.usefixtures("small_parts")
def test_a_file_of_another_size_is_refused_in_parts_too(server: FaultyServer, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"has 1,024,000 bytes, not 1,024,001"):
        fetch(server.url + PATH, tmp_path, size=len(BODY) + 1, connections=4)


@pytest.mark.usefixtures("small_parts")
def test_parts_send_the_token_to_the_first_host_alone(server: FaultyServer, tmp_path: Path) -> None:
    with FaultyServer() as other:
        other.files[PATH] = BODY
        server.fail(PATH, itertools.repeat(redirect(f"http://localhost:{urlsplit(other.url).port}{PATH}")))
        assert fetch(server.url + PATH, tmp_path, token="hf_secret", connections=4) == RIGHT
        assert {request.headers.get("Authorization") for request in server.asked_for(PATH)} == {"Bearer hf_secret"}
        assert {request.headers.get("Authorization") for request in other.asked_for(PATH)} == {None}


def test_a_small_file_comes_over_one_connection(server: FaultyServer, tmp_path: Path) -> None:
    assert fetch(server.url + PATH, tmp_path, connections=4) == RIGHT
    assert ranges(server) == [None]


def test_small_files_come_side_by_side_and_those_that_arrived_count(server: FaultyServer, tmp_path: Path) -> None:
    """Three of four are there when the first fails: the failure waits for them."""
    names = ["a", "b", "c", "d"]
    arrived = threading.Barrier(4, timeout=600)

    def together(_: object) -> None:
        arrived.wait()

    def together_and_missing(answer: Answer) -> None:
        arrived.wait()
        status(404)(answer)

    for name in names:
        server.files[f"/{name}"] = BODY
        server.fail(f"/{name}", [together_and_missing if name == "a" else together])
    downloads = [Download(f"{server.url}/{name}", tmp_path / name, len(BODY)) for name in names]
    fetched: list[str] = []
    with pytest.raises(DownloadError, match="HTTP 404"):
        fetched.extend(download.path.name for download, _ in HttpFetcher(600, connections=4).fetch(downloads))
    assert fetched == ["b", "c", "d"]


@pytest.mark.usefixtures("small_parts")
def test_if_a_server_keeps_all_but_one_connection_waiting_one_gets_the_rest(
    server: FaultyServer, tmp_path: Path
) -> None:
    """The connection that is served goes on bringing bytes while the others wait."""
    together = threading.Barrier(4, timeout=600)

    def serve_one(answer: Answer) -> None:
        if together.wait():
            silence(0)(answer)

    def slow(_: object) -> None:
        time.sleep(0.3)

    server.fail(PATH, [well, *[serve_one] * 4, *[slow] * 9])
    assert fetch(server.url + PATH, tmp_path, connections=4, stall_seconds=2) == RIGHT


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("named", ["bytes 0-99999/7", "bytes 0-99999/odd", "bytes 0-99999"])
def test_an_answer_that_names_another_size_is_an_error(
    named: str, server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = HttpFetcher._open

    def with_another_range(*arguments: Any) -> Any:
        response = opened(*arguments)
        response.headers["Content-Range"] = named
        return response

    monkeypatch.setattr(HttpFetcher, "_open", with_another_range)
    with pytest.raises(DownloadError, match=r"/folder/file has .* bytes, not 1,024,000"):
        fetch(server.url + PATH, tmp_path, connections=4)


def test_all_bytes_are_written_even_if_the_system_takes_only_some(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: pwrite(file, bytes(data)[:1000], at))
    assert fetch(server.url + PATH, tmp_path) == RIGHT
