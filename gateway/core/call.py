"""One request to the gateway: what the log and the metrics say of it, and its body."""

import asyncio
import json
import re
import secrets
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson
from starlette.requests import ClientDisconnect, Request

from gateway.core import metrics
from gateway.core.refusal import Refusal

Result = TypeVar("Result")

_MAX_DEPTH = 100
"""Levels of a body; a container takes 127, and JSON that is deeper cannot be written again."""
_PLAIN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
LEFT = 499
"""The status in the log of a request whose client hung up before it was answered."""


@dataclass
class Call:
    """A request, as the log and the metrics see it."""

    id: str
    door: str
    texts: int = 0
    tokens: int = 0
    started: float = field(default_factory=time.perf_counter)

    @classmethod
    def of(cls, request: Request) -> "Call":
        """Return the request's."""
        call: Call = request.state.call
        return call

    def count(self, task: str, texts: int, tokens: int) -> None:
        """Note what was embedded for it."""
        self.texts += texts
        self.tokens += tokens
        metrics.TEXTS.labels(self.door, task).inc(texts)
        metrics.TOKENS.labels(self.door, task).inc(tokens)


def request_id(given: str) -> str:
    """Return the id that the client gave, if it is a plain word, or a new one."""
    return given if _PLAIN_ID.fullmatch(given) else secrets.token_hex(8)


async def read_json(request: Request) -> dict[str, Any]:
    """Return the body, which must be a JSON object.

    Raises:
        Refusal: 413, it is too large; 400, it is no JSON object, or has a text that is not valid Unicode.

    """
    return parsed(await read_body(request))


def parsed(body: bytes) -> dict[str, Any]:
    """Return the JSON object that a body holds; Refusal if it is none."""
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        place = _lone_surrogate(body) if "surrogate" in error.msg else None
        if place:
            raise Refusal(400, f"{place} has a lone surrogate; send valid Unicode", place.partition("[")[0]) from None
        raise Refusal(400, f"the body is not JSON: {error.msg}, at character {error.pos}") from None
    if not isinstance(given, dict):
        raise Refusal(400, "the body is not a JSON object")
    if _is_too_deep(given):
        raise Refusal(400, f"the body has more than {_MAX_DEPTH} levels of lists and objects, the limit")
    return given


def _lone_surrogate(body: bytes) -> str | None:
    """Return the path of a string that no encoding can write, like `input.texts[1]`, if it is all that is wrong."""
    try:
        waiting: list[tuple[str, Any]] = [("", json.loads(body))]
    except (ValueError, RecursionError):
        return None
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{path}.{name}".lstrip("."), item) for name, item in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{path}[{position}]", item) for position, item in enumerate(value)]
        elif isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            return path
    return None


def _is_too_deep(given: Any) -> bool:
    level = [given]
    for _ in range(_MAX_DEPTH):
        nested = (value.values() if isinstance(value, dict) else value for value in level)
        level = [value for values in nested for value in values if isinstance(value, dict | list)]
        if not level:
            return False
    return True


async def read_body(request: Request, limit: int | None = None) -> bytes:
    """Return the body; Refusal if it is larger than the gateway allows, as soon as that is known.

    limit: bytes, if it is not that of the settings.

    What its client still sends is read and dropped: with a connection that is closed at once it would not see why.
    """
    limit = request.app.state.settings.max_body if limit is None else limit
    too_large = Refusal(413, f"the body has more than {limit:,} bytes, the limit; send several requests")
    if int(request.headers.get("Content-Length", 0)) > limit:
        raise too_large
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise too_large
            parts.append(part)
    except ClientDisconnect:
        raise Refusal(LEFT, "the client hung up") from None
    return b"".join(parts)


async def unless_left(request: Request, work: Awaitable[Result]) -> Result:
    """Return the work's result. If the client hangs up, the work is cancelled, and the request is a Refusal."""
    try:
        async with asyncio.timeout(None) as patience:
            leaving = asyncio.create_task(_end_when_left(request, patience))
            try:
                result = await work
            finally:
                leaving.cancel()
    except TimeoutError:
        if not patience.expired():
            raise
    if patience.expired():
        raise Refusal(LEFT, "the client hung up")
    return result


async def _end_when_left(request: Request, patience: asyncio.Timeout) -> None:
    """End the patience once the client has hung up; its body must have been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    patience.reschedule(asyncio.get_running_loop().time())
