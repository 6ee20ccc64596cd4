"""Who may come in, by key, host and web site; and that no key and no text is written down."""

import hashlib
import hmac
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from gateway.core import settings
from gateway.core.settings import check_container, host_name, key_digests
from tests.support.gateways import RunningGateway, gateway_process, gateway_refusal, gateway_to, served
from tests.support.replicate import MODEL
from tests.support.servers import RunningServer
from tools import PROJECT
from tools.client import Client, wait_until
from tools.observed_server import MARKER

KEY, OTHER_KEY, FILED_KEY = "sk-quagga-1", "sk-quagga-2", "sk-quagga-3"
SITE = "https://chat.example"
DOORS: dict[str, tuple[str, dict[str, Any]]] = {
    "openai": ("/v1/embeddings", {"model": "embeddinggemma-300m", "input": MARKER}),
    "tei": ("/embed", {"inputs": MARKER}),
    "ollama": ("/api/embed", {"model": "embeddinggemma", "input": MARKER}),
    "replicate": (f"/v1/models/{MODEL}/predictions", {"input": {"text": MARKER}}),
    "cog": ("/predictions", {"input": {"text": MARKER}}),
}
SHAPES = {"openai": "error", "tei": "error", "ollama": "error", "replicate": "title", "cog": "detail"}
"""A field that each door's errors have."""


@pytest.fixture(scope="module")
def keyed(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway that asks for keys, and lets in one site and one host by name."""
    folder = tmp_path_factory.mktemp("keyed")
    digest = hashlib.sha256(FILED_KEY.encode()).hexdigest()
    (folder / "keys").write_text(f"# who may ask\n\n{digest}  someone # a remark\n")
    options = ["--container", server.url, "--keys-file", str(folder / "keys")]
    options += ["--allow-origin", SITE, "--allow-host", "Embed.Example", "--max-texts", "3"]
    with gateway_process(folder, *options, environment={"GATEWAY_API_KEYS": f"{KEY}, {OTHER_KEY}\n"}) as started:
        yield started


def ask(gateway: Client, door: str, **headers: str) -> requests.Response:
    path, body = DOORS[door]
    return requests.post(f"{gateway.url}{path}", json=body, headers=headers, timeout=600)


@pytest.mark.parametrize("door", DOORS)
def test_every_door_asks_for_a_key_in_its_own_words(keyed: RunningGateway, door: str) -> None:
    for headers, words in (
        ({}, "an API key is needed: Authorization: Bearer KEY"),
        ({"Authorization": f"Bearer {KEY}x"}, "the API key is wrong"),
        ({"Authorization": f"Bearer {KEY[:-1]}"}, "the API key is wrong"),
        ({"Authorization": f"Basic {KEY}"}, "the API key is wrong"),
        ({"Authorization": KEY}, "an API key is needed"),
    ):
        refused = ask(keyed, door, **headers)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert words in refused.text
        assert SHAPES[door] in refused.json()
        assert KEY not in refused.text
    for scheme in ("Bearer", "bearer", "Token"):
        for key in (KEY, OTHER_KEY, FILED_KEY):
            assert ask(keyed, door, Authorization=f"{scheme} {key}").status_code in (200, 201)


def test_openais_clients_see_which_error_it_is(keyed: RunningGateway) -> None:
    error = ask(keyed, "openai").json()["error"]
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")


def test_only_health_needs_no_key(keyed: RunningGateway) -> None:
    health = requests.get(f"{keyed.url}/health", headers={"Host": "10.0.0.7:8000"}, timeout=600)
    assert (health.status_code, health.content) == (200, b"")
    for path in ("/metrics", "/info", "/v1/models", "/api/tags", "/health-check", "/openapi.json", "/health/x", "/x"):
        assert requests.get(f"{keyed.url}{path}", timeout=600).status_code == 401, path
    assert requests.get(f"{keyed.url}/metrics", headers={"Authorization": f"Bearer {KEY}"}, timeout=600).ok


def test_metrics_can_be_open(server: RunningServer, tmp_path: Path) -> None:
    options = ["--container", server.url, "--open-metrics"]
    with gateway_process(tmp_path, *options, environment={"GATEWAY_API_KEYS": KEY}) as gateway:
        assert gateway.is_up(server.url)
        assert requests.get(f"{gateway.url}/info", timeout=600).status_code == 401


def test_a_key_is_compared_with_all_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def compare(given: str, known: str) -> bool:
        compared.append(known)
        return real(given, known)

    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", compare)
    digests = key_digests(f"{KEY} {OTHER_KEY}", None)
    with served(gateway_to(key_digests=digests, hosts=("127.0.0.1",))) as gateway:
        for key in (KEY, OTHER_KEY, "another"):
            compared.clear()
            gateway.send(method="GET", path="/info", headers={"Authorization": f"Bearer {key}"})
            assert compared == list(digests)


def test_a_refusal_at_the_start_is_one_sentence() -> None:
    for options, message in (
        (["--host", "0.0.0.0"], "--host is 0.0.0.0, which others can reach"),  # noqa: S104 - it is refused
        ([], "no container is named; use --container, --containers-file or GATEWAY_CONTAINERS"),
        (["--container", "http://127.0.0.1:9", "--page", "/missing"], "--page is /missing, which is no folder"),
    ):
        command = [sys.executable, "-m", "gateway", *options]
        ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert f"error: {message}" in ended.stderr
        assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "gateway.example"])  # noqa: S104 - they are refused
def test_without_keys_no_other_machine_is_let_in(host: str) -> None:
    message = gateway_refusal("--host", host)
    assert message.startswith(f"--host is {host}, which others can reach, so keys are needed: GATEWAY_API_KEYS")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# nobody yet\n\n", "keys has no digest, so nobody could be let in"),
        (b"0" * 64 + b" one\n" + KEY.encode() + b"\n", "keys, line 2: not a SHA-256 digest of 64 lower-case"),
        (b"0" * 63, "keys, line 1: not a SHA-256 digest"),
        (b"\xff" + KEY.encode(), "keys is not in UTF-8"),
    ],
)
def test_a_mistake_in_the_keys_file_is_named_and_not_shown(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "keys").write_bytes(content)
    refusal = gateway_refusal("--keys-file", str(tmp_path / "keys"))
    assert message in refusal
    assert KEY not in refusal
    assert "No such file" in gateway_refusal("--keys-file", str(tmp_path / "missing"))


def test_a_key_that_no_header_can_hold_is_refused_and_not_shown() -> None:
    refusal = gateway_refusal(environment={"GATEWAY_API_KEYS": f"{KEY} quägga"})
    assert refusal == "GATEWAY_API_KEYS: key 2 has a character that no header can hold; use ASCII"


def test_a_request_must_name_a_host_that_the_gateway_knows(keyed: RunningGateway) -> None:
    port = keyed.port
    for host in ("localhost", f"LOCALHOST:{port}", "127.0.0.1", f"[::1]:{port}", "[::1]", "embed.example:443"):
        assert ask_as(keyed, host).status_code == 200, host
    for host in ("rebound.example", "127.0.0.1.example", "localhost.", "127.0.0.2", "[::2]", "", "embed.example.x"):
        refused = ask_as(keyed, host)
        assert refused.status_code == 421, host
        assert "--allow-host names one" in refused.json()["detail"]


def ask_as(gateway: Client, host: str) -> requests.Response:
    headers = {"Host": host, "Authorization": f"Bearer {KEY}"}
    return requests.get(f"{gateway.url}/health-check", headers=headers, timeout=600)


def test_a_request_without_a_host_is_refused(keyed: RunningGateway) -> None:
    with keyed.open(b"GET /v1/models HTTP/1.0\r\n\r\n") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 421")


@pytest.mark.parametrize(
    ("given", "name"),
    [("Embed.Example", "embed.example"), ("fd00::0001", "[fd00::1]"), ("[FD00::1]", "[fd00::1]"), ("10.0.0.7",) * 2],
)
def test_hosts_are_named_as_in_urls(given: str, name: str) -> None:
    assert host_name("--allow-host", given) == name


@pytest.mark.parametrize("given", ["https://embed.example", "embed.example:8000", "", "a b", "embed.example/", "é"])
def test_what_is_no_host_is_refused(given: str) -> None:
    for option in ("--allow-host", "--webhook-host"):
        assert gateway_refusal(option, given).startswith(f"{option} is {given!r}; it must be the name or the address")


def test_an_address_of_ipv6_is_a_host_of_its_own(server: RunningServer, tmp_path: Path) -> None:
    with gateway_process(tmp_path, "--host", "::1", "--container", server.url) as gateway:
        assert requests.get(f"{gateway.url}/health-check", timeout=600).json()["status"] == "READY"
    assert gateway.url.startswith("http://[::1]:")


@pytest.mark.parametrize("door", DOORS)
def test_pages_of_other_sites_are_refused(keyed: RunningGateway, door: str) -> None:
    key = {"Authorization": f"Bearer {KEY}"}
    own = f"http://127.0.0.1:{keyed.port}"
    for origin in ("https://evil.example", "null", f"http://127.0.0.1:{keyed.port + 1}", f"{own}.example", "http://["):
        refused = ask(keyed, door, Origin=origin, **key)
        assert refused.status_code == 403, origin
        assert SHAPES[door] in refused.json()
        assert "--allow-origin names a site" in refused.text
        assert "Access-Control-Allow-Origin" not in refused.headers
    for origin in (own, SITE):
        assert ask(keyed, door, Origin=origin, **key).status_code in (200, 201), origin


def test_a_preflight_is_answered_as_openais_client_in_a_page_needs(keyed: RunningGateway) -> None:
    wanted = "authorization, content-type, x-stainless-arch, x-stainless-retry-count, x-stainless-runtime"
    headers = {
        "Origin": SITE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": wanted,
        "Access-Control-Request-Private-Network": "true",
    }
    answer = requests.options(f"{keyed.url}/v1/embeddings", headers=headers, timeout=600)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == SITE
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert set(wanted.split(", ")) <= set(answer.headers["Access-Control-Allow-Headers"].split(", "))
    assert answer.headers["Access-Control-Allow-Private-Network"] == "true"
    refused = requests.options(f"{keyed.url}/v1/embeddings", headers={**headers, "Origin": "https://b"}, timeout=600)
    assert refused.status_code == 403


def test_a_page_can_read_why_it_is_refused(keyed: RunningGateway) -> None:
    key = {"Authorization": f"Bearer {KEY}"}
    bodies: list[tuple[int, dict[str, str], Any]] = [
        (401, {}, {}),
        (413, key, {"model": "embeddinggemma", "input": ["a"] * 4}),
        (400, key, {"model": "embeddinggemma"}),
        (404, key, {"model": "another", "input": "a"}),
    ]
    for status, headers, body in bodies:
        url = f"{keyed.url}/v1/embeddings"
        answer = requests.post(url, json=body, headers={"Origin": SITE, **headers}, timeout=600)
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (status, SITE)
        assert "Retry-After" in answer.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize("site", ["*", "chat.example", "https://chat.example/", "https://a@b.example", "http://["])
def test_a_site_must_be_one(site: str) -> None:
    message = f"--allow-origin is {site!r}; it must be like https://chat.example, without a path"
    assert gateway_refusal("--allow-origin", site) == message


@pytest.mark.parametrize(
    ("option", "value", "limits"),
    [
        ("--port", "65536", "0 and 65,535"),
        ("--processes", "0", "1 and 64"),
        ("--max-body", "200000000", "1 and 100,000,000"),
        ("--max-waiting", "-1", "0 and 1,000,000"),
    ],
)
def test_a_number_out_of_its_range_is_refused(option: str, value: str, limits: str) -> None:
    assert gateway_refusal(option, value) == f"{option} is {value}; it must be between {limits}"


@pytest.mark.parametrize(
    "url", ["127.0.0.1:5000", "http://", "http://[", "http://a:99999", "http://a?b", "ftp://a", "http://a b"]
)
def test_a_container_must_have_a_url(url: str) -> None:
    with pytest.raises(ValueError, match="it must be a URL like http:"):
        check_container(url)


def test_a_password_in_a_containers_url_is_refused_and_not_shown(tmp_path: Path) -> None:
    url = "http://quagga:zebra@127.0.0.1:5000"
    file = tmp_path / "containers"
    file.write_text(f"# one\n{url}\n")
    for refusal in (gateway_refusal("--container", url), gateway_refusal("--containers-file", str(file))):
        assert "a container's URL has a user name or a password" in refusal
        assert "zebra" not in refusal
    assert f"{file}, line 2: " in gateway_refusal("--containers-file", str(file))


def test_no_key_and_no_text_is_in_the_log_or_in_an_error(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    bad_texts: list[Any] = [MARKER, [MARKER, " "], [MARKER, 5], {"text": MARKER}, [[MARKER]]]
    app = gateway_to(server.url, "http://127.0.0.1:9", hosts=("127.0.0.1",), key_digests=(settings.digest(KEY),))
    with served(app) as gateway:
        for door, (path, body) in DOORS.items():
            for headers in ({"Authorization": f"Bearer {KEY}"}, {"Authorization": f"Bearer {OTHER_KEY}"}, {}):
                assert KEY not in gateway.send(json.dumps(body).encode(), headers, path=f"{path}?{MARKER}").text
                for content in (json.dumps(body)[:-1], json.dumps(body).replace(MARKER, f"{MARKER}\\ud800")):
                    gateway.send(content.encode(), headers, path=path)
                field = next(name for name in body if name != "model")
                for text in bad_texts:
                    given = {**body, field: {"text": text} if door in ("replicate", "cog") else text}
                    gateway.send(json.dumps(given).encode(), headers, path=path)
                gateway.send(b"", headers, path=f"{path}/{MARKER}")
                gateway.send(b"", headers, path=f"/{MARKER}", method="GET")
                gateway.send(b"", headers, path=path, method="DELETE")
    assert "POST" in caplog.text
    for secret in (MARKER, KEY, OTHER_KEY):
        assert secret not in caplog.text


def _logged(gateway: RunningGateway, request_id: str) -> list[dict[str, Any]]:
    """Return the lines of a request, which are written after its answer."""

    def lines() -> list[dict[str, Any]]:
        return [line for line in gateway.access_log() if line["id"] == request_id]

    wait_until(lines)
    return lines()


def test_a_request_has_one_line_in_the_log_and_an_id(keyed: RunningGateway) -> None:
    key = {"Authorization": f"Bearer {KEY}"}
    answered = ask(keyed, "openai", **key, **{"X-Request-ID": "of-the-client.1"})
    assert answered.headers["X-Request-ID"] == "of-the-client.1"
    [line] = _logged(keyed, "of-the-client.1")
    assert line.pop("ms") > 0
    expected = {"method": "POST", "path": "/v1/embeddings", "status": 200, "texts": 1}
    assert line == {"id": "of-the-client.1", **expected, "tokens": answered.json()["usage"]["total_tokens"]}
    made = ask(keyed, "openai", **key, **{"X-Request-ID": "a b\t" + "c" * 100}).headers["X-Request-ID"]
    assert made.isalnum()
    assert [line["status"] for line in _logged(keyed, made)] == [200]
