"""Predictions as in Replicate's API: each is run by one request to a container, and reported to a webhook."""

import asyncio
import logging
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Any

import aiohttp
import orjson
from cachetools import TTLCache

from gateway.core.containers import Answer, Containers
from gateway.core.files import Files
from gateway.core.refusal import Refusal

log = logging.getLogger(__name__)

EVENTS = ("start", "output", "logs", "completed")
QUEUE_SECONDS = 60.0  # that a prediction waits for a slot
WEBHOOK_TIMEOUT = 10.0  # seconds
DRAIN_TIMEOUT = 20.0  # seconds that running predictions and webhooks may take when the gateway ends
MAX_AGE = 3600.0  # seconds that an ended prediction is kept, as by Replicate
MAX_BYTES = 200_000_000


@dataclass
class Prediction:
    """One prediction, with the fields of Replicate's object."""

    model: str
    version: str
    input: Any
    base_url: str
    """Where the clients reach this API, without a slash at the end."""
    webhook: str | None = None
    events: tuple[str, ...] = EVENTS
    id: str = field(default_factory=lambda: secrets.token_hex(13))
    status: str = "starting"
    output: Any = None
    error: str | None = None
    logs: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: datetime | None = None
    completed: datetime | None = None
    invalid_fields: list[dict[str, str]] = field(default_factory=list)
    """Inputs that the container's schema refused; Replicate does not begin such a prediction, here it has failed."""
    refusal: Refusal | None = None
    """Why no container has answered."""
    tries: int = 0
    """How often a container was asked."""
    kept_bytes: int = 0
    """Bytes of the request and the answer, as JSON."""
    webhook_turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def body(self) -> dict[str, Any]:
        """Return the object as Replicate's API shows it."""
        url = f"{self.base_url}/v1/predictions/{self.id}"
        return {
            "id": self.id,
            "model": self.model,
            "version": self.version,
            "status": self.status,
            "input": self.input,
            "output": self.output,
            "error": self.error,
            "logs": self.logs,
            "metrics": self.metrics,
            "created_at": timestamp(self.created),
            "started_at": timestamp(self.started),
            "completed_at": timestamp(self.completed),
            "data_removed": False,
            "urls": {"get": url, "cancel": f"{url}/cancel"},
        }

    def finish(self, status: str, error: str | None = None) -> None:
        """End it with this status."""
        self.status, self.error, self.completed = status, error, datetime.now(UTC)
        self.metrics = {**self.metrics, "total_time": (self.completed - self.created).total_seconds()}


def timestamp(moment: datetime | None) -> str | None:
    """Return a moment as Replicate writes it."""
    return None if moment is None else moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def problem(invalid_fields: list[dict[str, str]]) -> dict[str, Any]:
    """Return Replicate's answer to an invalid input."""
    lines = [f"- {': '.join(filter(None, (wrong['field'], wrong['description'])))}\n" for wrong in invalid_fields]
    return {
        "title": "Input validation failed",
        "detail": "".join(lines),
        "status": 422,
        "invalid_fields": invalid_fields,
    }


class Predictions:
    """The running predictions, and, if they are kept, those that ended within the last hour, up to MAX_BYTES."""

    def __init__(self, containers: Containers, files: Files, *, keeps_ended: bool) -> None:
        """Run predictions in these containers, and keep their large files."""
        self._containers, self._files = containers, files
        self._keeps_ended = keeps_ended
        self._running: dict[str, tuple[Prediction, asyncio.Task[None]]] = {}
        self._ended: TTLCache[str, Prediction] = TTLCache(
            MAX_BYTES, MAX_AGE, getsizeof=lambda prediction: min(prediction.kept_bytes, MAX_BYTES)
        )
        self._webhooks: set[asyncio.Task[None]] = set()

    def start(self, prediction: Prediction, sent: Any) -> asyncio.Task[None]:
        """Run a prediction; the task ends, and raises nothing, when the prediction has ended.

        sent: the inputs for the container: the prediction's own, with an upload in it.
        """
        task = asyncio.create_task(self._run(prediction, sent))
        self._running[prediction.id] = prediction, task
        return task

    def find(self, prediction_id: str) -> Prediction | None:
        """Return a prediction that runs or is kept, or None."""
        if prediction_id in self._running:
            return self._running[prediction_id][0]
        return self._ended.get(prediction_id)

    def newest_first(self) -> list[Prediction]:
        """Return all predictions that run or are kept."""
        known = [prediction for prediction, _ in self._running.values()] + list(self._ended.values())
        return sorted(known, key=lambda prediction: prediction.created, reverse=True)

    async def cancel(self, prediction: Prediction) -> None:
        """Cancel a prediction in the container, and wait until it has ended; nothing happens if it already has."""
        if prediction.id not in self._running:
            return
        _, task = self._running[prediction.id]
        task.cancel()  # the container cancels a prediction whose connection closes
        await asyncio.wait({task})

    async def close(self) -> None:
        """Let running predictions and webhooks end, and cancel those that take too long."""
        predictions = [task for _, task in self._running.values()]
        for tasks in (predictions, self._webhooks):
            if tasks:
                await asyncio.wait(tasks, timeout=DRAIN_TIMEOUT)
        unfinished = [*predictions, *self._webhooks]
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)

    async def _run(self, prediction: Prediction, sent: Any) -> None:
        content = orjson.dumps({"input": sent})
        prediction.kept_bytes = len(content if sent is prediction.input else orjson.dumps(prediction.input))
        try:
            answer = await self._containers.ask(
                f"/predictions/{prediction.id}",
                content,
                method="PUT",
                busy_seconds=QUEUE_SECONDS,
                tell=partial(self._began, prediction),
            )
            self._take(prediction, answer)
        except asyncio.CancelledError:
            prediction.finish("canceled")
        except Refusal as refusal:
            prediction.refusal = refusal
            prediction.finish("failed", refusal.message)
        del self._running[prediction.id]
        if self._keeps_ended:
            self._ended[prediction.id] = prediction
        self._notify(prediction, "completed")

    def _began(self, prediction: Prediction, has_begun: bool) -> None:
        """Note that a container has the prediction, or that it had no free slot for it."""
        is_first = has_begun and not prediction.tries
        prediction.tries += has_begun
        prediction.status = "processing" if has_begun else "starting"
        prediction.started = datetime.now(UTC) if has_begun else None
        if is_first:
            self._notify(prediction, "start")

    def _take(self, prediction: Prediction, answer: Answer) -> None:
        """Put the container's answer into the prediction."""
        result = orjson.loads(answer.body)
        if answer.status == 422:
            prediction.invalid_fields = [_invalid_field(detail) for detail in result["detail"]]
            prediction.finish("failed", problem(prediction.invalid_fields)["detail"])
            return
        if answer.status != 200:
            prediction.finish("failed", f"the container answered HTTP {answer.status}: {result}")
            return
        output = result.get("output")
        prediction.output, prediction.logs = self._files.moved(output, prediction.base_url), result.get("logs", "")
        prediction.metrics = result.get("metrics", {})
        prediction.kept_bytes += len(answer.body)
        if prediction.output is not output:
            prediction.kept_bytes -= len(output["file"])
        for event in ("output", "logs"):
            if result.get(event):
                self._notify(prediction, event)
        prediction.finish(result["status"], result.get("error"))

    def _notify(self, prediction: Prediction, event: str) -> None:
        """Send the prediction, as it is now, to its webhook, once and after everything that was sent before."""
        if prediction.webhook is None or event not in prediction.events:
            return
        task = asyncio.create_task(self._deliver(prediction, prediction.webhook, orjson.dumps(prediction.body())))
        self._webhooks.add(task)
        task.add_done_callback(self._webhooks.discard)

    async def _deliver(self, prediction: Prediction, webhook: str, content: bytes) -> None:
        async with prediction.webhook_turn:
            try:
                status = await self._containers.post(webhook, content, WEBHOOK_TIMEOUT)
                problem = f"HTTP {status}" if status >= HTTPStatus.MULTIPLE_CHOICES else ""
            except (aiohttp.ClientError, OSError) as error:
                problem = type(error).__name__
            if problem:
                log.warning("the webhook of prediction %s was not delivered: %s", prediction.id, problem)


def _invalid_field(detail: dict[str, Any]) -> dict[str, str]:
    """Return one of the container's validation errors in Replicate's words."""
    place = [str(part) for part in detail["loc"] if part not in ("body", "__root__")]
    return {"type": detail["type"], "field": ".".join(place), "description": detail["msg"]}
