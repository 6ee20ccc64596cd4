"""What may reach a container, and what a container may be made to reach."""

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from embeddinggemma.leftovers import FOLDER
from gateway.core.refusal import Refusal
from gateway.core.settings import Settings, host_name
from gateway.core.webhooks import check_webhook
from tests.support.doors import PATHS, body_of, message_of
from tests.support.gateways import RunningGateway, gateway_process, gateway_to, served
from tests.support.servers import RunningServer
from tools.client import wait_until
from tools.server import health

BODY = json.dumps(body_of("cog", "a")).encode()
BAD_IDS = ["..", ".", "a b", "a.b", "é", "x" * 129, "", "../../x", "a/b", "/etc/x", "a\\b", "a\nb", "a\0b"]


@pytest.fixture(scope="module")
def gateway(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway whose webhooks may go to this machine."""
    options = ["--container", server.url, "--webhook-host", "127.0.0.1"]
    with gateway_process(tmp_path_factory.mktemp("reach"), *options) as started:
        yield started


@pytest.mark.parametrize("given", [*BAD_IDS, 5, [], {}, True])
def test_an_id_that_is_not_plain_is_refused_in_a_body(gateway: RunningGateway, given: Any) -> None:
    refused = gateway.send(json.dumps({**json.loads(BODY), "id": given}).encode())
    assert refused.status == 422
    assert message_of("cog", refused.json()).startswith("id must be 1 to 128 letters, digits, '-' and '_'")


@pytest.mark.parametrize(
    "path", ["%2e%2e", "..%2F..%2Fx", "..%2fx", "a%20b", "%2Ftmp%2Fx", "a%00b", "a%0d%0aX-Evil:%20b", "%C3%A9", "a%5Cb"]
)
def test_an_id_that_is_not_plain_is_refused_in_a_path(gateway: RunningGateway, path: str) -> None:
    for method, end in (("PUT", ""), ("POST", "/cancel")):
        assert gateway.send(BODY, method=method, path=f"/predictions/{path}{end}").status in (404, 422)


def test_a_plain_id_is_passed_on(gateway: RunningGateway) -> None:
    for method, path, body in (
        ("PUT", "/predictions/plain-1_A", BODY),
        ("POST", "/predictions", json.dumps({**json.loads(BODY), "id": "plain-1_A"}).encode()),
    ):
        assert gateway.send(body, method=method, path=path).json()["id"] == "plain-1_A"
    assert gateway.send(method="POST", path="/predictions/plain-2/cancel").status == 404


def test_the_container_refuses_a_key_that_comes_twice(gateway: RunningGateway) -> None:
    """The gateway looks at the last one, so the container must not take the first."""
    for first, last in (("webhook", "null"), ("id", '"plain"')):
        body = f'{{"input": {{"text": "a"}}, "{first}": "../first", "{first}": {last}}}'
        refused = gateway.send(body.encode())
        assert (refused.status, f"duplicate field `{first}`" in refused.text) == (422, True)
    assert not (FOLDER / "../first").exists()


@pytest.mark.parametrize(
    "target",
    [
        "/shutdown",
        "//shutdown",
        "/predictions/../shutdown",
        "/predictions/..%2Fshutdown",
        "/%73hutdown",
        "/shutdown/",
        "/predictions/x/cancel/../../../shutdown",
        "http://127.0.0.1/shutdown",
        "/predictions/x/y",
        "/v1/predictions/../../shutdown",
    ],
)
def test_no_other_path_reaches_the_container(gateway: RunningGateway, server: RunningServer, target: str) -> None:
    with gateway.open(f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n".encode()) as connection:
        assert connection.recv(12) in (b"HTTP/1.1 404", b"HTTP/1.1 400")
    assert health(server.url) == "READY"


@pytest.mark.parametrize(
    "webhook",
    [
        "https://evil.example/",
        "http://hook.example@evil.example/",
        "http://evil.example@hook.example/",
        "http://@hook.example/",
        "http://hook.example\\@evil.example/",
        "http://evil.example\\@hook.example/",
        "http://evil.example#@hook.example/",
        "http://evil.example?@hook.example/",
        "http://hook.example.evil.example/",
        "http://evilhook.example/",
        "http://hook.example./",
        "http://hook%2eexample/",
        "http://hook.example%00.evil.example/",
        "//hook.example/",
        "hook.example",
        "ftp://hook.example/",
        "file://hook.example/etc/passwd",
        "http://[::2]/",
        "http://[",
        "http://0x7f.1/",
        "http://ⓗook.example/",
        "",
        5,
        ["http://hook.example/"],
        {"url": "http://hook.example/"},
    ],
)
def test_a_webhook_to_any_other_host_is_refused(webhook: Any) -> None:
    hosts = tuple(host_name("--webhook-host", name) for name in ("Hook.Example", "::1"))
    with pytest.raises(Refusal, match="that this gateway allows"):
        check_webhook({"webhook": webhook}, Settings(webhook_hosts=hosts))
    with pytest.raises(Refusal, match=r": none$"):
        check_webhook({"webhook": "http://hook.example/"}, Settings())


@pytest.mark.parametrize(
    "webhook", ["http://hook.example/", "HTTPS://HOOK.example:8443/a?b#c", "http://[::1]:5/", None]
)
def test_a_webhook_to_a_host_on_the_list_is_taken(webhook: str | None) -> None:
    hosts = tuple(host_name("--webhook-host", name) for name in ("Hook.Example", "::1"))
    check_webhook({"webhook": webhook}, Settings(webhook_hosts=hosts))


@pytest.mark.parametrize("door", ["replicate", "cog"])
def test_both_doors_check_webhooks(gateway: RunningGateway, door: str) -> None:
    body = {**body_of(door, "a"), "webhook": "http://localhost:9/"}
    refused = gateway.send(json.dumps(body).encode(), path=PATHS[door])
    message = "webhook must be an http or https URL of a host that this gateway allows (--webhook-host): 127.0.0.1"
    assert (refused.status, message_of(door, refused.json())) == (422, message)


class Received(list[tuple[str, dict[str, str], bytes]]):
    """Path, headers and body of each request that a server got."""

    url = ""


@contextmanager
def receiver(location: str = "") -> Iterator[Received]:
    """Run a server that is a healthy container and takes everything, or that redirects everything."""
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(b'{"status": "READY"}')

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            self._answer(b'{"status": "succeeded", "output": {"embedding": "", "tokens": []}}')

        def _answer(self, body: bytes) -> None:
            self.send_response(307 if location else 200)
            if location:
                self.send_header("Location", location)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        received.url = f"http://127.0.0.1:{server.server_port}"
        yield received
        server.shutdown()


def test_a_webhook_is_not_redirected(gateway: RunningGateway) -> None:
    with ExitStack() as stack:
        elsewhere = stack.enter_context(receiver())
        redirecting = stack.enter_context(receiver(location=f"{elsewhere.url}/shutdown"))
        body = {**body_of("replicate", "a"), "webhook": redirecting.url, "webhook_events_filter": ["completed"]}
        gateway.send(json.dumps(body).encode(), {"Prefer": "wait"}, path=PATHS["replicate"])
        wait_until(lambda: "was not delivered: HTTP 307" in gateway.log)
        assert [json.loads(body)["status"] for _, _, body in redirecting] == ["succeeded"]
        assert not elsewhere


def test_no_header_of_a_client_reaches_a_container_but_prefer() -> None:
    with receiver() as container, served(gateway_to(container.url, hosts=("127.0.0.1",))) as gateway:
        secret = {"Authorization": "Bearer quagga", "Cookie": "quagga", "X-Forwarded-For": "quagga", "Prefer": "wait"}
        for path in PATHS.values():
            gateway.send(json.dumps(body_of("cog", "a")).encode(), secret, path=path)
        sent = {name for _, headers, _ in container for name in headers}
        assert sent == {
            "host", "accept", "accept-encoding", "user-agent", "content-type", "content-length", "prefer",
        }  # fmt: skip
        assert "quagga" not in str(container)


def test_a_containers_redirect_is_passed_on_and_not_followed() -> None:
    with ExitStack() as stack:
        elsewhere = stack.enter_context(receiver())
        container = stack.enter_context(receiver(location=elsewhere.url))
        gateway = stack.enter_context(served(gateway_to(container.url, hosts=("127.0.0.1",))))
        gateway.send(BODY)
        assert not elsewhere


@pytest.mark.parametrize(
    "header", [b"Prefer: wait\rX: y", b"Prefer : wait", b"X-Request-ID: a\x00b", b" X: y", b"X\n: y"]
)
def test_a_header_that_is_none_is_refused(gateway: RunningGateway, header: bytes) -> None:
    head = b"POST /predictions HTTP/1.1\r\nHost: 127.0.0.1\r\n%b\r\nContent-Length: %d\r\n\r\n" % (header, len(BODY))
    with gateway.open(head + BODY) as connection:
        assert connection.recv(12) == b"HTTP/1.1 400"


def test_two_lengths_are_refused(gateway: RunningGateway) -> None:
    for lengths in (b"Content-Length: 5\r\nContent-Length: 6", b"Content-Length: 5\r\nTransfer-Encoding: chunked"):
        with gateway.open(b"POST /predictions HTTP/1.1\r\nHost: 127.0.0.1\r\n%b\r\n\r\n{}   " % lengths) as connection:
            assert connection.recv(12) == b"HTTP/1.1 400"
