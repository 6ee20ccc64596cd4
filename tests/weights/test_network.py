"""What comes from this machine uses no proxy, the rest does; failing proxies and wrong certificates are named."""

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from embeddinggemma.weights import http
from embeddinggemma.weights.cache import WeightsError, ensure_weights
from embeddinggemma.weights.fetching import Download, DownloadError
from embeddinggemma.weights.http import HttpFetcher
from embeddinggemma.weights.network import proxy_of
from embeddinggemma.weights.store import Store
from tests.support import tiny_model
from tests.support.faulty_server import CERTIFICATE, FaultyServer, redirect
from tests.support.proxy import Proxy
from tests.support.tiny_model import BIG, FILES, is_right, manifest
from tools import PROJECT

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
UNREACHABLE = "the proxy http://127.0.0.1:9 (HTTPS_PROXY) cannot be reached: connection refused"
NO_ADDRESS = "HTTPS_PROXY is not the address of a proxy, such as http://proxy.example:3128"
ELSEWHERE = "https://cdn.example/cdn/{path}"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, the test's certificate for both fetchers, and no pget."""
    for variable in [*VARIABLES, "NO_PROXY", "CURL_CA_BUNDLE", "SSL_CERT_DIR"]:
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)
    for variable in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(variable, str(CERTIFICATE))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(http, "_WAITS", (0.0, 0.0))


@pytest.fixture(params=["http", "pget", "the real pget"])
def fetcher(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Put one kind of pget on PATH, or none; return the fetcher's name."""
    if request.param == "http":
        return "http"
    (tmp_path / "bin").mkdir()
    if request.param == "pget":
        tiny_model.program(tmp_path / "bin" / "pget", (PROJECT / "tests" / "support" / "pget_stand_in.py").read_text())
    else:
        real = os.environ.get("PGET") or shutil.which("pget", path=os.defpath)
        if not real:
            pytest.skip("there is no pget on PATH, and PGET names none")
        (tmp_path / "bin" / "pget").symlink_to(real)
    return "pget"


@pytest.fixture
def elsewhere() -> Iterator[FaultyServer]:
    """The server that the proxy connects to, as https://cdn.example."""
    with FaultyServer(tls=True) as server:
        server.publish("cdn", FILES)
        yield server


def fetch(tmp_path: Path, source: str, *, stall_seconds: float = 600) -> Path:
    return ensure_weights(manifest(source), Store(tmp_path / "cache", stall_seconds=stall_seconds))


def failure(tmp_path: Path, source: str = ELSEWHERE, *, stall_seconds: float = 600) -> str:
    with pytest.raises(WeightsError) as error:
        fetch(tmp_path, source, stall_seconds=stall_seconds)
    assert "secret" not in str(error.value)
    return str(error.value)


@pytest.mark.usefixtures("fetcher")
@pytest.mark.parametrize("tls", [False, True])
def test_weights_on_this_machine_use_no_proxy(tls: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultyServer(tls=tls) as server, Proxy(server.port) as proxy:
        server.publish("cdn", FILES)
        for variable in VARIABLES:
            monkeypatch.setenv(variable, f"http://{proxy.address}")
            monkeypatch.setenv(variable.lower(), f"http://{proxy.address}")
        for host in ("127.0.0.1", "localhost"):
            source = f"{server.url.replace('127.0.0.1', host)}/cdn/{{path}}"
            assert is_right(ensure_weights(manifest(source), Store(tmp_path / host)))
        assert proxy.asked == []


@pytest.mark.usefixtures("fetcher")
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_weights_from_elsewhere_use_the_proxy(
    variable: str, elsewhere: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(elsewhere.port) as proxy:
        monkeypatch.setenv(variable, f"http://user:p%40ss@{proxy.address}\n")
        assert is_right(fetch(tmp_path, ELSEWHERE))
    assert set(proxy.asked) == {"cdn.example:443"}
    assert set(proxy.credentials) == {"Basic dXNlcjpwQHNz"}, "user:p@ss"


@pytest.mark.usefixtures("fetcher")
def test_a_redirect_from_this_machine_uses_the_proxy(
    file_server: FaultyServer, elsewhere: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_server.fail(f"/cdn/{BIG}", [redirect(f"https://cdn.example/cdn/{BIG}")])
    with Proxy(elsewhere.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
        assert is_right(fetch(tmp_path, f"{file_server.url}/cdn/{{path}}"))
    assert set(proxy.asked) == {"cdn.example:443"}
    assert [request.path for request in elsewhere.requests][-1] == f"/cdn/{BIG}"


@pytest.mark.usefixtures("fetcher")
def test_a_host_in_no_proxy_uses_none(elsewhere: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Proxy(elsewhere.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
        monkeypatch.setenv("NO_PROXY", "other.example,cdn.example")
        assert "proxy" not in failure(tmp_path)
    assert proxy.asked == []


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (407, "HTTP 407; does HTTPS_PROXY hold its user and password?"),
        (403, "HTTP 403"),
        (502, "HTTP 502 (tried 2 times)"),
    ],
)
def test_a_proxy_that_refuses_is_named(
    status: int, message: str, elsewhere: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(elsewhere.port, status) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:secret@{proxy.address}")
        reason = failure(tmp_path)
    named = f"the proxy http://{proxy.address} (HTTPS_PROXY)"
    assert f"with http: cdn.example cannot be reached: {named} answers {message}" in reason


def test_a_proxy_that_refuses_is_named_for_pget_too(
    fetcher: str, elsewhere: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(elsewhere.port, 407) as proxy:
        monkeypatch.setenv("ALL_PROXY", f"http://user:secret@{proxy.address}")
        reason = failure(tmp_path)
    assert f"{ELSEWHERE} with {fetcher}: " in reason
    assert reason.count(f"the proxy http://{proxy.address} (ALL_PROXY)") == {"http": 1, "pget": 2}[fetcher]


def test_a_proxy_that_never_answers_is_given_up(
    fetcher: str, elsewhere: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_CONNECT_TIMEOUT", 1.5)
    with Proxy(elsewhere.port, None) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:secret@{proxy.address}")
        reason = failure(tmp_path, stall_seconds=2)
    named = f"the proxy http://{proxy.address} (HTTPS_PROXY)"
    assert f"cdn.example cannot be reached through {named}: no byte for 1.5 s" in reason
    if fetcher == "pget":
        assert f"no new byte for 2 s; ended (through {named})" in reason


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://user:secret@127.0.0.1:9", UNREACHABLE),
        ("user:secret@127.0.0.1:9", UNREACHABLE),
        ("http://user:secret@host:port", NO_ADDRESS),
        ("http://user:a secret@127.0.0.1:9", NO_ADDRESS),
        ("http://user:#secret@127.0.0.1:9", NO_ADDRESS),
        ("http://user:1/secret@127.0.0.1:9", NO_ADDRESS),
        ("http://[::1:9/secret", NO_ADDRESS),
        ("ftp://user:secret@127.0.0.1:9", NO_ADDRESS),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named(
    address: str, message: str, fetcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", address)
    reason = failure(tmp_path)
    assert f"with http: {message}" in reason
    assert reason.count("HTTPS_PROXY") == {"http": 1, "pget": 2}[fetcher]


def test_a_proxys_name_that_does_not_exist_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_name(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy.example:3128")
    assert "the proxy http://proxy.example:3128 (HTTPS_PROXY) cannot be reached: name not resolved" in failure(tmp_path)


def test_a_socks_proxy_without_its_package_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5h://user:secret@127.0.0.1:9")
    assert (
        "cdn.example cannot be reached through the proxy socks5h://127.0.0.1:9 (ALL_PROXY): "
        "SOCKS needs the package PySocks, which is not installed"
    ) in failure(tmp_path)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"https_proxy": "http://a:1", "HTTPS_PROXY": "http://b:1"}, "https_proxy"),
        ({"https_proxy": "", "HTTPS_PROXY": "http://b:1"}, None),
        ({"HTTPS_PROXY": "", "ALL_PROXY": "http://b:1"}, "ALL_PROXY"),
        ({"HTTPS_PROXY": "http://a:1", "ALL_PROXY": "http://b:1"}, "HTTPS_PROXY"),
        ({"HTTP_PROXY": "http://a:1"}, None),
        ({"HTTPS_PROXY": "http://a:1", "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": "http://a:1", "no_proxy": ".example"}, None),
    ],
)
def test_the_variable_that_counts(
    variables: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    proxy = proxy_of("https://cdn.example/a")
    assert (proxy and proxy.variable) == expected


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        ("<html>", "holds no certificates in PEM format"),
    ],
)
def test_certificates_that_cannot_be_used_are_named_and_not_the_cache_folder(
    content: str | None,
    message: str,
    variable: str,
    elsewhere: FaultyServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if content:
        (tmp_path / "certificates").write_text(content)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    monkeypatch.setenv(variable, str(tmp_path / "certificates"))
    reason = failure(tmp_path, f"{elsewhere.url}/cdn/{{path}}")
    assert f"127.0.0.1 cannot be reached: {variable} names {tmp_path}/certificates, which {message}" in reason
    assert "the cache folder" not in reason


def test_certificates_that_are_good_are_not_blamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CURL_CA_BUNDLE", "/none")
    with FaultyServer(tls=True) as server, pytest.raises(DownloadError, match="HTTP 404"):
        list(HttpFetcher(600).fetch([Download(f"{server.url}/none", tmp_path / "file", 1)]))


def test_pget_names_its_own_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program says what pget says of a server whose certificate it does not trust."""
    (tmp_path / "bin").mkdir()
    says = 'Error: Get "https://cdn.example/": tls: failed to verify certificate: x509: signed by unknown authority'
    tiny_model.program(tmp_path / "bin" / "pget", f"import sys\nsys.exit({says!r})\n")
    monkeypatch.setenv("SSL_CERT_FILE", "/none")
    reason = failure(tmp_path, "https://127.0.0.1:9/{path}")
    assert "x509: signed by unknown authority (SSL_CERT_FILE names /none, which cannot be read: No such file" in reason
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    assert "SSL_CERT_FILE" not in failure(tmp_path, "https://127.0.0.1:9/{path}")
