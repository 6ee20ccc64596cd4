"""Each door's way to say that a request is refused."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import orjson
from starlette.responses import Response

from gateway.core.refusal import TOO_LONG, Refusal

_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_TEI_TYPES = {413: "Validation", 400: "Validation", 422: "Tokenizer", 429: "Overloaded"}


def door_of(path: str) -> str:
    """Return the door that a path belongs to."""
    parts = path.strip("/").split("/")
    if parts[0] == "v1":
        is_replicate = parts[1:2] in (["predictions"], ["files"]) or (parts[1:2] == ["models"] and len(parts) > 3)
        return "replicate" if is_replicate else "openai"
    if parts[0] == "api":
        return "ollama"
    return "tei" if path in ("/", "/embed", "/info", "/health", "/tokenize") else "cog"


def answer(door: str, refusal: Refusal) -> Response:
    """Return a refusal in the words of a door's clients."""
    status = 400 if refusal.code == TOO_LONG and door in ("openai", "ollama") else refusal.status  # as theirs
    headers = {"Retry-After": str(refusal.retry_after)} if refusal.retry_after else {}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return json_response(_SHAPES[door](refusal), status, headers)


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer in JSON; numpy's arrays become lists."""
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, headers, media_type="application/json")


def _openai(refusal: Refusal) -> dict[str, Any]:
    kind = _OPENAI_TYPES.get(refusal.status, "invalid_request_error" if refusal.status < 500 else "server_error")
    return {"error": {"message": refusal.message, "type": kind, "param": refusal.field, "code": refusal.code}}


def _tei(refusal: Refusal) -> dict[str, Any]:
    kind = _TEI_TYPES.get(refusal.status, "Backend" if refusal.status >= 500 else "Validation")
    return {"error": refusal.message, "error_type": kind}


def _ollama(refusal: Refusal) -> dict[str, Any]:
    return {"error": refusal.message}


def _replicate(refusal: Refusal) -> dict[str, Any]:
    title = HTTPStatus(refusal.status).phrase if refusal.status != 499 else "Client Closed Request"
    return {"title": title, "detail": refusal.message, "status": refusal.status}


def _cog(refusal: Refusal) -> dict[str, Any]:
    return {"detail": refusal.message}


_SHAPES: dict[str, Callable[[Refusal], dict[str, Any]]] = {
    "openai": _openai,
    "tei": _tei,
    "ollama": _ollama,
    "replicate": _replicate,
    "cog": _cog,
}
