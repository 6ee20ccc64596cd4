"""The part of Replicate's HTTP API that its clients use, in front of a running container: for tests and demos.

Every owner, name and version stands for the one container; no token is asked for. Webhooks go to this machine only.
https://replicate.com/docs/reference/http describes the API itself.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from embeddinggemma.weights.urls import is_loopback
from gateway.predictions import EVENTS, Prediction, Predictions, problem, timestamp

MAX_WAIT = 60  # seconds that `Prefer: wait` can hold a request
REFUSAL_TIMEOUT = 0.5  # the same without `Prefer: wait`: time for a refusal, which takes milliseconds
VERSION = "local"


class AsciiJSONResponse(JSONResponse):
    """JSON in ASCII: a lone surrogate of an input cannot be written in UTF-8."""

    def render(self, content: Any) -> bytes:
        """Return the body's bytes."""
        return json.dumps(content).encode("ascii")


def gateway_app(container_url: str, page: Path | None = None) -> Starlette:
    """Return the API in front of the container, with the static folder `page` at / and the schema at /openapi.json."""
    container_url = container_url.rstrip("/")
    http = httpx.AsyncClient(timeout=httpx.Timeout(None, connect=10), limits=httpx.Limits(max_connections=None))
    gateway = Gateway(container_url, http)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with http:
            yield
            await gateway.predictions.close()

    routes: list[BaseRoute] = [
        Route("/v1/models/{owner}/{name}/predictions", gateway.create, methods=["POST"]),
        Route("/v1/models/{owner}/{name}", gateway.model),
        Route("/v1/models/{owner}/{name}/versions", gateway.versions),
        Route("/v1/models/{owner}/{name}/versions/{version}", gateway.version),
        Route("/v1/predictions", gateway.create, methods=["POST"]),
        Route("/v1/predictions", gateway.list_predictions),
        Route("/v1/predictions/{id}", gateway.get),
        Route("/v1/predictions/{id}/cancel", gateway.cancel, methods=["POST"]),
        Route("/openapi.json", gateway.schema),
    ]
    if page is not None:
        routes.append(Mount("/", StaticFiles(directory=page, html=True)))
    return Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_error, httpx.HTTPError: _container_error},
    )


class Gateway:
    """The handlers of the routes."""

    def __init__(self, container_url: str, http: httpx.AsyncClient) -> None:
        """Answer with what the container at this URL says."""
        self.predictions = Predictions(container_url, http)
        self._container_url = container_url
        self._http = http
        self._created_at = timestamp(datetime.now(UTC))

    async def create(self, request: Request) -> Response:
        """Start a prediction; answer at once, or, if the client prefers to wait, when it has ended."""
        body = await _object(request)
        if invalid_fields := _invalid_fields(body, needs_version="owner" not in request.path_params):
            return AsciiJSONResponse(problem(invalid_fields), 422)
        model, version = _model_and_version(request, body)
        prediction = Prediction(model, version, body["input"], str(request.base_url).rstrip("/"))
        prediction.webhook = body.get("webhook")
        prediction.events = tuple(body.get("webhook_events_filter", EVENTS))
        created = prediction.body()
        task = self.predictions.start(prediction)
        wait = _wait_seconds(request)
        await asyncio.wait({task}, timeout=wait or REFUSAL_TIMEOUT)
        if prediction.invalid_fields:
            return AsciiJSONResponse(problem(prediction.invalid_fields), 422)
        if wait is None:
            return AsciiJSONResponse(created, 201)
        if not task.done():  # the clients poll only if the status is "starting", so it says that
            return AsciiJSONResponse(created, 202)
        return AsciiJSONResponse(prediction.body(), 201)

    async def get(self, request: Request) -> Response:
        """Answer with a prediction as it is now."""
        return AsciiJSONResponse(self._find(request).body())

    async def cancel(self, request: Request) -> Response:
        """Cancel a prediction in the container."""
        prediction = self._find(request)
        await self.predictions.cancel(prediction)
        return AsciiJSONResponse(prediction.body())

    async def list_predictions(self, _: Request) -> Response:
        """Answer with all predictions that are kept, in one page."""
        results = [prediction.body() for prediction in self.predictions.newest_first()]
        return AsciiJSONResponse({"previous": None, "next": None, "results": results})

    async def model(self, request: Request) -> Response:
        """Answer that the container is the model of this owner and name."""
        owner, name = request.path_params["owner"], request.path_params["name"]
        return AsciiJSONResponse(
            {
                "url": f"{str(request.base_url).rstrip('/')}/{owner}/{name}",
                "owner": owner,
                "name": name,
                "description": None,
                "visibility": "private",
                "github_url": None,
                "paper_url": None,
                "license_url": None,
                "run_count": 0,
                "cover_image_url": None,
                "default_example": None,
                "latest_version": await self._version(VERSION),
            }
        )

    async def versions(self, _: Request) -> Response:
        """Answer that the container is the model's only version."""
        return AsciiJSONResponse({"previous": None, "next": None, "results": [await self._version(VERSION)]})

    async def version(self, request: Request) -> Response:
        """Answer that the container is this version."""
        return AsciiJSONResponse(await self._version(request.path_params["version"]))

    async def schema(self, _: Request) -> Response:
        """Answer with the container's schema, byte for byte."""
        answer = await self._http.get(f"{self._container_url}/openapi.json")
        return Response(answer.content, answer.status_code, media_type=answer.headers.get("Content-Type"))

    async def _version(self, version: str) -> dict[str, Any]:
        root = await self._http.get(f"{self._container_url}/")
        schema = await self._http.get(f"{self._container_url}/openapi.json")
        return {
            "id": version,
            "created_at": self._created_at,
            "cog_version": root.json()["cog_version"],
            "openapi_schema": schema.json(),
        }

    def _find(self, request: Request) -> Prediction:
        prediction = self.predictions.find(request.path_params["id"])
        if prediction is None:
            raise HTTPException(404, "Prediction not found")
        return prediction


async def _object(request: Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError:
        raise HTTPException(400, "The request's body is not JSON") from None
    if not isinstance(body, dict):
        raise HTTPException(400, "The request's body is not a JSON object")
    return body


def _invalid_fields(body: dict[str, Any], *, needs_version: bool) -> list[dict[str, str]]:
    """Return what is wrong with a request, except in the input's own fields, which the container checks."""
    missing = ["input"] if "input" not in body else []
    if needs_version and not isinstance(body.get("version"), str):
        missing.append("version")
    wrong = [{"type": "required", "field": "", "description": f"{name} is required"} for name in missing]
    if body.get("webhook") is not None and not _is_loopback_url(body["webhook"]):
        description = "this stand-in for Replicate sends webhooks to this machine only, as http://127.0.0.1:8001/"
        wrong.append({"type": "format", "field": "webhook", "description": description})
    events = body.get("webhook_events_filter", [])
    if not isinstance(events, list) or not all(event in EVENTS for event in events):
        description = f"webhook_events_filter must be a list of {', '.join(EVENTS)}"
        wrong.append({"type": "enum", "field": "webhook_events_filter", "description": description})
    return wrong


def _is_loopback_url(url: object) -> bool:
    try:
        parsed = httpx.URL(str(url))
    except httpx.InvalidURL:
        return False
    return parsed.scheme in ("http", "https") and is_loopback(parsed.host)


def _model_and_version(request: Request, body: dict[str, Any]) -> tuple[str, str]:
    """Return owner/name and the version; a client that names a version need not name its model."""
    if "owner" in request.path_params:
        return f"{request.path_params['owner']}/{request.path_params['name']}", VERSION
    model, _, version = body["version"].rpartition(":")
    return model or "local/container", version


def _wait_seconds(request: Request) -> int | None:
    """Return how long the client prefers to wait, or None if it prefers to poll."""
    found = re.search(r"\bwait(?:=(\d+))?", request.headers.get("Prefer", ""))
    if found is None:
        return None
    return min(max(int(found[1] or MAX_WAIT), 1), MAX_WAIT)


async def _http_error(_: Request, error: Exception) -> Response:
    """Return an error in Replicate's shape."""
    http_error = cast(HTTPException, error)
    return _error(http_error.status_code, http_error.detail)


async def _container_error(_: Request, error: Exception) -> Response:
    return _error(502, f"The container did not answer: {type(error).__name__}: {error}")


def _error(status: int, detail: str) -> Response:
    return AsciiJSONResponse(
        {"title": httpx.codes.get_reason_phrase(status), "detail": detail, "status": status}, status
    )
