"""Who may come in, and what is written about each request: hosts, web sites, keys, log and metrics."""

import hmac
import json
import logging
import time
import traceback
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.core import metrics
from gateway.core.call import LEFT, Call, request_id
from gateway.core.errors import answer, door_of
from gateway.core.refusal import Refusal
from gateway.core.settings import Settings, digest

log = logging.getLogger("gateway.access")

OPEN_PATHS = ("/health",)
"""For probes: they need no key, and may name any host."""


def guarded(app: ASGIApp, settings: Settings) -> ASGIApp:
    """Return the app behind all checks."""
    app = _Keys(app, settings)
    if settings.origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID", "Retry-After"],
            allow_private_network=True,  # the operator has named the site
        )
    return _Entrance(app, settings)


class _Entrance:
    """Lets in requests to known hosts and from allowed sites only; gives each an id, a line in the log and a count."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._hosts = set(settings.hosts)
        self._origins = set(settings.origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        call = Call(request_id(headers.get("X-Request-ID", "")), door_of(scope["path"]))
        scope.setdefault("state", {})["call"] = call
        status = LEFT

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = call.id
            await send(message)

        try:
            if refusal := self._refusal(scope, headers):
                await answer(call.door, refusal)(scope, receive, noting)
            else:
                await self._app(scope, receive, noting)
        except Exception as error:
            # Starlette has answered. The message stays out of the log: it may hold a caller's words.
            place = traceback.extract_tb(error.__traceback__)[-1]
            log.error("request %s: %s at %s:%s", call.id, type(error).__name__, place.filename, place.lineno)
        finally:
            self._note(scope, call, status)

    def _refusal(self, scope: Scope, headers: Headers) -> Refusal | None:
        host = headers.get("Host", "").lower()
        if "*" not in self._hosts and _name(host) not in self._hosts and scope["path"] not in OPEN_PATHS:
            return Refusal(421, f"this gateway does not serve the host {_name(host)!r}; --allow-host names one")
        origin = headers.get("Origin")
        if origin and origin not in self._origins and origin.lower() not in (f"http://{host}", f"https://{host}"):
            return Refusal(403, f"pages of {origin} may not use this gateway; --allow-origin names a site")
        return None

    def _note(self, scope: Scope, call: Call, status: int) -> None:
        seconds = time.perf_counter() - call.started
        metrics.REQUESTS.labels(call.door, str(status)).inc()
        metrics.SECONDS.labels(call.door).observe(seconds)
        route = scope.get("route")  # its pattern: what a client puts into a path may be anything
        line: dict[str, Any] = {
            "id": call.id,
            "method": scope["method"],
            "path": route.path if route else "unknown",
            "status": status,
            "ms": round(seconds * 1000, 1),
            "texts": call.texts,
            "tokens": call.tokens,
        }
        log.info("%s", json.dumps(line))


class _Keys:
    """Asks for an API key, if the gateway has any."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._digests = settings.key_digests
        self._open = (*OPEN_PATHS, "/metrics") if settings.open_metrics else OPEN_PATHS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._digests and scope["path"] not in self._open:
            scheme, _, key = Headers(scope=scope).get("Authorization", "").partition(" ")
            if scheme.lower() not in ("bearer", "token") or not self._is_known(key.strip()):
                message = "the API key is wrong" if key else "an API key is needed: Authorization: Bearer KEY"
                refused = answer(door_of(scope["path"]), Refusal(401, message, code="invalid_api_key"))
                await refused(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_known(self, key: str) -> bool:
        """Compare with every key, in a time that says nothing about them."""
        given = digest(key)
        return any([hmac.compare_digest(given, known) for known in self._digests])  # noqa: C419 - all are compared


def _name(host: str) -> str:
    """Return a Host header without its port."""
    return host.rsplit("]", 1)[0] + "]" if host.startswith("[") else host.partition(":")[0]
