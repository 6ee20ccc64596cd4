"""Cog's own API, passed on to a container; what could harm the container is not. https://cog.run/http."""

import re

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.call import parsed, read_body, unless_left
from gateway.core.containers import Answer, Containers
from gateway.core.refusal import Refusal
from gateway.core.webhooks import check_webhook

_PLAIN_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


def routes() -> list[Route]:
    """Return the API's routes."""
    return [
        Route("/predictions", _predict, methods=["POST"]),
        Route("/predictions/{id}", _predict, methods=["PUT"]),
        Route("/predictions/{id}/cancel", _cancel, methods=["POST"]),
        Route("/health-check", _pass_on),
        Route("/openapi.json", _pass_on),
    ]


async def _predict(request: Request) -> Response:
    body = await read_body(request)
    given = parsed(body)
    check_webhook(given, request.app.state.settings)
    if given.get("id") is not None:
        _check_id(given["id"])
    if "id" in request.path_params:
        _check_id(request.path_params["id"])
    inputs = given.get("input")
    sent = request.app.state.files.admitted(inputs)
    if sent is not inputs:
        body = orjson.dumps({**given, "input": sent})
    headers = {"Prefer": request.headers["Prefer"]} if "Prefer" in request.headers else {}
    containers: Containers = request.app.state.containers
    asked = containers.ask(request.url.path, body, method=request.method, headers=headers)
    answer = await unless_left(request, asked)
    return _passed(answer)


async def _cancel(request: Request) -> Response:
    """Cancel a prediction in whichever container has it."""
    _check_id(request.path_params["id"])
    containers: Containers = request.app.state.containers
    answers = await containers.ask_all(request.url.path)
    return _passed(min(answers, key=lambda answer: answer.status))


async def _pass_on(request: Request) -> Response:
    return _passed(await request.app.state.containers.look_up(request.url.path))


def _passed(answer: Answer) -> Response:
    return Response(answer.body, answer.status, media_type=answer.headers.get("Content-Type"))


def _check_id(given: object) -> None:
    if not isinstance(given, str) or not _PLAIN_ID.fullmatch(given):
        raise Refusal(
            422, "id must be 1 to 128 letters, digits, '-' and '_': the container makes a folder of this name"
        )
