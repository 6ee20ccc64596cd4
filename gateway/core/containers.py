"""The containers behind the gateway: which can answer, which has the least to do, and what to do if one dies."""

import asyncio
import logging
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import orjson

from gateway.core import metrics
from gateway.core.refusal import Refusal
from gateway.core.settings import Settings, containers_in

log = logging.getLogger(__name__)

_CHECK_SECONDS = 2.0
"""Between two looks at each container's health."""
_CHECK_TIMEOUT = 5.0
_CONNECT_TIMEOUT = 5.0
_SILENT_SECONDS = 30.0
"""After which a container that answers nothing is given up, with the requests that it has."""
RETRY_SECONDS = 2
"""When a client may ask again that no container could answer."""
_NO_SLOT = 409
_BYTES_PER_TOKEN = 4  # of English; only to tell large requests from small ones
_ANSWERED = re.compile(r"Prediction failed: (?!(?:Async prediction failed: )?BrokenEncoderError: )")
"""How the error of a failed prediction begins, unless the container's process has died or its encoder is broken."""
_MAX_ERROR = 10_000
"""Bytes of such a failed prediction, at most; it is far shorter."""
BUSY_SECONDS = 5.0
"""How long a request waits for containers that start, or have no free slot after all: others may use them, too."""
_MIN_PAUSE, _MAX_PAUSE = 0.005, 1.0
"""Seconds between two such tries."""


@dataclass
class Container:
    """One container, as far as the gateway knows."""

    url: str
    problem: str | None = "its health is not known yet"
    """Why it cannot be asked; None if it can."""
    work: int = 0
    """Tokens of the requests that it has now, by estimate."""
    requests: int = 0
    """That it has now."""
    heard: float = field(default_factory=time.monotonic)
    """When it last answered anything."""
    patience: set[asyncio.Timeout] = field(default_factory=set)
    """Of its requests; without an end until it is given up."""
    look: asyncio.Task[None] | None = None
    """At its health, while it is under way."""

    def give_up(self) -> None:
        """End all requests that it has, as if its connections had closed."""
        while self.patience:
            self.patience.pop().reschedule(0)


@dataclass(frozen=True)
class Answer:
    """What a container answered."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class Containers:
    """Hands each request to the container that has the least to do."""

    def __init__(self, settings: Settings) -> None:
        """Prepare; `start` begins to look after the containers."""
        self._settings = settings
        self._file = Path(settings.containers_file) if settings.containers_file else None
        self._file_seen: tuple[int, ...] = ()
        self._file_problem = ""
        self._containers = {url: Container(url) for url in settings.containers}
        self._leaving: list[Container] = []
        """Taken out, with requests that must not wait for ever."""
        self._waiting: deque[asyncio.Event] = deque()
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the pool of connections, look at every container once, and go on looking."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT)
        connector, no_cookies = aiohttp.TCPConnector(limit=0), aiohttp.DummyCookieJar()
        self._http = aiohttp.ClientSession(timeout=timeout, connector=connector, cookie_jar=no_cookies)
        await self._look()
        self._watcher = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop looking, and close all connections."""
        if self._watcher:
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher
        await self._http.close()

    def urls(self) -> Collection[str]:
        """Return the URLs of all containers."""
        return self._containers.keys()

    def ready(self) -> list[Container]:
        """Return the containers that can be asked now."""
        return [container for container in self._containers.values() if container.problem is None]

    def check(self) -> None:
        """Raise a Refusal, with the reason of each container, if none can be asked now."""
        if not self.ready():
            known = [f"{container.url} ({container.problem})" for container in self._containers.values()]
            raise _unanswered(f"no container can answer: {', '.join(known) or 'none is known'}")

    async def ask(
        self,
        path: str,
        content: bytes,
        *,
        method: str = "POST",
        work: int | None = None,
        headers: Mapping[str, str] | None = None,
        busy_seconds: float = BUSY_SECONDS,
        tell: Callable[[bool], None] = lambda _: None,
    ) -> Answer:
        """Return a container's answer to a prediction's request, whatever its status.

        A request that a container could not answer is sent once more, to another one if there is another, and before
        those that wait. If the caller is cancelled, so is the prediction: the container notices that its connection
        closes.

        Args:
            path: of the container's server.
            content: the body, as JSON.
            method: of HTTP.
            work: about how many tokens the request has; None: judged by its bytes.
            headers: to send besides the content's type.
            busy_seconds: how long to go on if the containers start, or have no free slot.
            tell: is called with True when a container gets the request, and with False when it had no free slot.

        Raises:
            Refusal: 429, too many requests wait or every slot is taken; 503, no container can answer.

        """
        sent = {"Content-Type": "application/json", **(headers or {})}
        work = len(content) // _BYTES_PER_TOKEN if work is None else work
        failures, pause = 0, _MIN_PAUSE
        until = time.monotonic() + busy_seconds
        container: Container | None = None
        while True:
            await self._wait_for_a_start(until)
            async with self._place(work, container) as container:
                tell(True)
                answer = await self._send(container, method, path, content, sent)
            if answer and answer.status == _NO_SLOT:
                tell(False)
                if time.monotonic() > until:
                    break
                await asyncio.sleep(pause)
                pause = min(2 * pause, _MAX_PAUSE)
                continue
            if answer and not _is_of_a_broken_container(answer):
                return answer
            await self._look_at(container)  # it is left out from now on, unless it is well
            failures += 1
            if failures > 1:
                raise _unanswered("the containers did not answer, twice; ask again later")
        raise Refusal(429, "every slot of the containers is taken; ask again later", retry_after=RETRY_SECONDS)

    async def _wait_for_a_start(self, until: float) -> None:
        """Wait while no container can be asked, but one is starting."""
        while not self.ready() and self._one_starts() and time.monotonic() < until:
            await asyncio.sleep(_MAX_PAUSE)

    def _one_starts(self) -> bool:
        return any((container.problem or "").startswith("STARTING") for container in self._containers.values())

    async def look_up(self, path: str) -> Answer:
        """Return a container's answer to a GET, which takes no place: it is small, and may ask how the container is.

        Raises:
            Refusal: 503, no container can answer.

        """
        for _ in range(2):
            self.check()
            container = _least_busy(self.ready())
            answer = await self._send(container, "GET", path, b"", {})
            if answer and not _is_of_a_broken_container(answer):
                return answer
            await self._look_at(container)
        raise _unanswered("the containers did not answer, twice; ask again later")

    async def ask_all(self, path: str) -> list[Answer]:
        """Return the answers of all containers that can be asked to an empty POST; Refusal if there is none."""
        self.check()
        answers = await asyncio.gather(*(self._send(container, "POST", path, b"", {}) for container in self.ready()))
        if found := [answer for answer in answers if answer]:
            return found
        raise _unanswered("the containers did not answer; ask again later")

    async def post(self, url: str, content: bytes, timeout: float) -> int:
        """Send JSON to another server than a container, and return its status.

        Raises:
            aiohttp.ClientError, OSError: it does not answer.

        """
        limit, json = aiohttp.ClientTimeout(timeout), {"Content-Type": "application/json"}
        async with self._http.post(url, data=content, headers=json, timeout=limit, allow_redirects=False) as response:
            return response.status

    async def _send(
        self, container: Container, method: str, path: str, content: bytes, headers: Mapping[str, str]
    ) -> Answer | None:
        """Return the container's answer; None if there is none, or only a part of it."""
        patience = asyncio.timeout(None)
        container.patience.add(patience)
        try:
            async with (
                patience,
                self._http.request(
                    method, container.url + path, data=content or None, headers=headers, allow_redirects=False
                ) as response,
            ):
                parts = [part async for part, _ in response.content.iter_chunks()]  # read() copies them twice
                answer = Answer(response.status, b"".join(parts), response.headers)
        except (aiohttp.ClientError, OSError) as error:
            log.warning("container %s did not answer: %s", container.url, type(error).__name__)
            return None
        finally:
            container.patience.discard(patience)
        container.heard = time.monotonic()
        return answer

    @asynccontextmanager
    async def _place(self, work: int, last: Container | None) -> AsyncIterator[Container]:
        """Take a place in the container that has the least to do; wait for it, in turn, if all places are taken.

        last: the container that did not answer the request before. So it is the next one, however many wait, and goes
            to another container if there is one.
        """
        container = None if self._waiting and not last else self._free(last)
        if not container:
            container = await self._wait(last)
        container.requests += 1
        container.work += work
        metrics.IN_CONTAINERS.inc()
        self._wake()  # there may be a place for the next one, too
        try:
            yield container
        finally:
            container.requests -= 1
            container.work -= work
            metrics.IN_CONTAINERS.dec()
            self._wake()

    async def _wait(self, last: Container | None) -> Container:
        self.check()
        if len(self._waiting) >= self._settings.max_waiting and not last:
            raise Refusal(429, f"{len(self._waiting):,} requests are waiting; the limit is reached", retry_after=1)
        turn = asyncio.Event()
        (self._waiting.appendleft if last else self._waiting.append)(turn)
        container: Container | None = None
        with metrics.WAITING.track_inprogress():
            try:
                while not container:
                    await turn.wait()
                    turn.clear()
                    self.check()
                    container = self._free(last)
                return container
            finally:
                self._waiting.remove(turn)
                if not container:
                    self._wake()

    def _free(self, last: Container | None = None) -> Container | None:
        """Return the container that has the least to do, of those that have a free place; `last` only if it must be."""
        free = [container for container in self.ready() if container.requests < self._settings.max_at_once]
        others = [container for container in free if container is not last]
        return _least_busy(others or free) if free else None

    def _wake(self) -> None:
        """Let the first who waits look for a place, if there is one or if there can be none."""
        if self._waiting and (self._free() or not self.ready()):
            self._waiting[0].set()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            await self._look()

    async def _look(self) -> None:
        self._read_file()
        self._leaving = [container for container in self._leaving if container.requests]
        await asyncio.gather(*(self._look_at(container) for container in [*self._containers.values(), *self._leaving]))

    def _read_file(self) -> None:
        """Take containers in and out as the file says; one that cannot be read, or that names none, changes nothing."""
        if not self._file:
            return
        problem, urls = "", []
        try:
            found = self._file.stat()
            seen = found.st_ino, found.st_mtime_ns, found.st_size
            if seen != self._file_seen:
                urls = [*self._settings.containers, *containers_in(self._file)]
                problem = "" if urls else f"{self._file} names none"
        except (OSError, ValueError) as error:
            problem = str(error)
        if problem and problem != self._file_problem:
            log.warning("containers: as before, because %s", problem)
        self._file_problem = problem
        if urls:
            self._file_seen = seen
            self._change(urls)

    def _change(self, urls: Sequence[str]) -> None:
        for url in self._containers.keys() - set(urls):
            container = self._containers.pop(url)
            self._set_problem(container, "it was taken out")
            self._leaving.append(container)
        for url in urls:
            self._containers.setdefault(url, Container(url))

    async def _look_at(self, container: Container) -> None:
        """Learn how a container is, or wait for a look at it that is under way: a dying one leaves many requests."""
        if not container.look or container.look.done():
            container.look = asyncio.create_task(self._look_now(container))
        await asyncio.shield(container.look)

    async def _look_now(self, container: Container) -> None:
        try:
            async with self._http.get(
                f"{container.url}/health-check", timeout=aiohttp.ClientTimeout(_CHECK_TIMEOUT)
            ) as response:
                health = orjson.loads(await response.read())
            ready = health["status"] in ("READY", "BUSY")
            problem = None if ready else f"{health['status']} {health.get('user_healthcheck_error') or ''}".strip()
            container.heard = time.monotonic()
        except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError) as error:
            problem = f"it does not answer: {type(error).__name__}"
            if time.monotonic() - container.heard > _SILENT_SECONDS:
                container.give_up()
        self._set_problem(container, problem)

    def _set_problem(self, container: Container, problem: str | None) -> None:
        if problem is None and self._containers.get(container.url) is not container:
            return  # it was taken out
        if container.problem != problem:
            log.warning("container %s: %s", container.url, problem or "ready")
        container.problem = problem
        if self._containers.get(container.url) is container:
            metrics.UP.labels(container.url).set(problem is None)
        self._wake()


def _least_busy(containers: Sequence[Container]) -> Container:
    return min(containers, key=lambda container: (container.work, container.requests))


def _unanswered(message: str) -> Refusal:
    return Refusal(503, message, retry_after=RETRY_SECONDS)


def _is_of_a_broken_container(answer: Answer) -> bool:
    """Return whether it is no answer to the request, but says that the container starts or has broken."""
    if answer.status in (502, 503, 504):
        return True
    if len(answer.body) > _MAX_ERROR or b'"status":"failed"' not in answer.body:
        return False
    prediction = orjson.loads(answer.body)
    return prediction.get("status") == "failed" and not _ANSWERED.match(str(prediction.get("error")))
