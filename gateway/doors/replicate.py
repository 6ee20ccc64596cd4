"""The part of Replicate's HTTP API that its clients use. https://replicate.com/docs/reference/http.

Every owner, name and version stands for the model of the containers.
"""

import asyncio
import re
from datetime import UTC, datetime
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.core.call import read_json, unless_left
from gateway.core.containers import Containers
from gateway.core.errors import json_response
from gateway.core.files import Files
from gateway.core.refusal import Refusal
from gateway.core.settings import Settings
from gateway.core.webhooks import check_webhook
from gateway.doors.predictions import EVENTS, Prediction, Predictions, problem, timestamp

MAX_WAIT = 60  # seconds that `Prefer: wait` can hold a request
REFUSAL_TIMEOUT = 0.5  # the same without `Prefer: wait`: time for a refusal, which takes milliseconds
VERSION = "local"
_KEEPS_NONE = "this gateway has several processes and keeps no predictions"


class Replicate:
    """The handlers of the routes."""

    def __init__(self, settings: Settings, containers: Containers, files: Files) -> None:
        """Answer with what the containers say."""
        self.predictions = Predictions(containers, files, keeps_ended=settings.keeps_predictions)
        self._files = files
        self._settings = settings
        self._containers = containers
        self._created_at = timestamp(datetime.now(UTC))

    def routes(self) -> list[Route]:
        """Return the API's routes."""
        return [
            Route("/v1/models/{owner}/{name}/predictions", self.create, methods=["POST"]),
            Route("/v1/models/{owner}/{name}", self.model),
            Route("/v1/models/{owner}/{name}/versions", self.versions),
            Route("/v1/models/{owner}/{name}/versions/{version}", self.version),
            Route("/v1/predictions", self.create, methods=["POST"]),
            Route("/v1/predictions", self.list_predictions),
            Route("/v1/predictions/{id}", self.get),
            Route("/v1/predictions/{id}/cancel", self.cancel, methods=["POST"]),
        ]

    async def create(self, request: Request) -> Response:
        """Start a prediction; answer at once, or, if the client prefers to wait, when it has ended."""
        wait = _wait_seconds(request)
        if not self._settings.keeps_predictions and wait is None:
            raise Refusal(400, f"{_KEEPS_NONE}; send Prefer: wait")
        body = await read_json(request)
        check_webhook(body, self._settings)
        if invalid_fields := _invalid_fields(body, needs_version="owner" not in request.path_params):
            return json_response(problem(invalid_fields), 422)
        sent = self._files.admitted(body["input"])
        model, version = _model_and_version(request, body)
        prediction = Prediction(model, version, body["input"], str(request.base_url).rstrip("/"))
        prediction.webhook = body.get("webhook")
        prediction.events = tuple(body.get("webhook_events_filter", EVENTS))
        created = prediction.body()
        task = self.predictions.start(prediction, sent)
        if self._settings.keeps_predictions:
            await asyncio.wait({task}, timeout=wait or REFUSAL_TIMEOUT)
        else:
            await _now_or_never(request, task, wait)
        if prediction.invalid_fields:
            return json_response(problem(prediction.invalid_fields), 422)
        if prediction.refusal:
            raise prediction.refusal
        if wait is None:
            return json_response(created, 201)
        if not task.done():  # the clients poll only if the status is "starting", so it says that
            return json_response(created, 202)
        return json_response(prediction.body(), 201)

    async def get(self, request: Request) -> Response:
        """Answer with a prediction as it is now."""
        return json_response(self._find(request).body())

    async def cancel(self, request: Request) -> Response:
        """Cancel a prediction in the container."""
        prediction = self._find(request)
        await self.predictions.cancel(prediction)
        return json_response(prediction.body())

    async def list_predictions(self, _: Request) -> Response:
        """Answer with all predictions that are kept, in one page."""
        if not self._settings.keeps_predictions:
            raise Refusal(404, _KEEPS_NONE)
        results = [prediction.body() for prediction in self.predictions.newest_first()]
        return json_response({"previous": None, "next": None, "results": results})

    async def model(self, request: Request) -> Response:
        """Answer that the container is the model of this owner and name."""
        owner, name = request.path_params["owner"], request.path_params["name"]
        return json_response(
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
        return json_response({"previous": None, "next": None, "results": [await self._version(VERSION)]})

    async def version(self, request: Request) -> Response:
        """Answer that the container is this version."""
        return json_response(await self._version(request.path_params["version"]))

    async def _version(self, version: str) -> dict[str, Any]:
        root = await self._containers.look_up("/")
        schema = await self._containers.look_up("/openapi.json")
        return {
            "id": version,
            "created_at": self._created_at,
            "cog_version": orjson.loads(root.body)["cog_version"],
            "openapi_schema": orjson.loads(schema.body),
        }

    def _find(self, request: Request) -> Prediction:
        if not self._settings.keeps_predictions:  # even if this process happens to run it
            raise Refusal(404, _KEEPS_NONE)
        prediction = self.predictions.find(request.path_params["id"])
        if prediction is None:
            raise Refusal(404, "Prediction not found")
        return prediction


async def _now_or_never(request: Request, task: asyncio.Task[None], wait: int | None) -> None:
    """Wait until a prediction has ended that nobody can ask for later; cancel it if its client hangs up, or in time."""
    try:
        async with asyncio.timeout(wait):
            await unless_left(request, asyncio.wait({task}))
    except TimeoutError:
        raise Refusal(504, f"the prediction did not end within {wait} s; {_KEEPS_NONE}") from None
    finally:
        task.cancel()
        await asyncio.wait({task})


def _invalid_fields(body: dict[str, Any], *, needs_version: bool) -> list[dict[str, str]]:
    """Return what is wrong with a request, except in the input's own fields, which the container checks."""
    missing = ["input"] if "input" not in body else []
    if needs_version and not isinstance(body.get("version"), str):
        missing.append("version")
    wrong = [{"type": "required", "field": "", "description": f"{name} is required"} for name in missing]
    events = body.get("webhook_events_filter", [])
    if not isinstance(events, list) or not all(event in EVENTS for event in events):
        description = f"webhook_events_filter must be a list of {', '.join(EVENTS)}"
        wrong.append({"type": "enum", "field": "webhook_events_filter", "description": description})
    return wrong


def _model_and_version(request: Request, body: dict[str, Any]) -> tuple[str, str]:
    """Return owner/name and the version; a client that names a version need not name its model."""
    if "owner" in request.path_params:
        return f"{request.path_params['owner']}/{request.path_params['name']}", VERSION
    model, _, version = body["version"].rpartition(":")
    return model or "local/container", version


def _wait_seconds(request: Request) -> int | None:
    """Return how long the client prefers to wait, or None if it prefers to poll."""
    found = re.search(r"\bwait(?:=(\d{1,9}))?", request.headers.get("Prefer", ""))
    if found is None:
        return None
    return min(max(int(found[1] or MAX_WAIT), 1), MAX_WAIT)
