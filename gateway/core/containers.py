"""The containers behind the gateway: which can answer, which has the least to do, and what to do if one dies."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
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
_NO_SLOT = 409
_BROKEN = "BrokenEncoderError: "
_MAX_ERROR = 10_000
"""Bytes of a failed prediction, at most; a broken encoder's is far shorter."""
_BUSY_PAUSES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 1, 1)
"""Seconds to wait if a container has no free slot after all: somebody else may use it, too."""


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
        self._file_seen: tuple[int, int] | None = None
        self._containers = {url: Container(url) for url in settings.containers}
        self._waiting: deque[asyncio.Event] = deque()
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the pool of connections, look at every container once, and go on looking."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT)
        self._http = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))
        await self._look()
        self._watcher = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop looking, and close all connections."""
        if self._watcher:
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher
        await self._http.close()

    def ready(self) -> list[Container]:
        """Return the containers that can be asked now."""
        return [container for container in self._containers.values() if container.problem is None]

    def check(self) -> None:
        """Raise a Refusal, with the reason of each container, if none can be asked now."""
        if not self.ready():
            known = [f"{container.url} ({container.problem})" for container in self._containers.values()]
            raise Refusal(503, f"no container can answer: {', '.join(known) or 'none is known'}", retry_after=2)

    async def ask(
        self,
        path: str,
        content: bytes = b"",
        *,
        method: str = "POST",
        work: int = 0,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Return a container's answer to a request, whatever its status.

        A request that a container could not answer is sent once more, to another one if there is another. If the caller
        is cancelled, so is the prediction: the container notices that its connection closes.

        Args:
            path: of the container's server.
            content: the body, as JSON.
            method: of HTTP.
            work: about how many tokens the request has.
            headers: to send besides the content's type.

        Raises:
            Refusal: 429, too many requests wait or every slot is taken; 503, no container can answer.

        """
        sent = {"Content-Type": "application/json", **(headers or {})}
        failures = 0
        for pause in _BUSY_PAUSES:
            async with self._place(work) as container:
                answer = await self._send(container, method, path, content, sent)
            if answer and answer.status == _NO_SLOT:
                await asyncio.sleep(pause)
                continue
            if answer and not _is_of_a_broken_container(answer):
                return answer
            await self._look_at(container)  # it is left out from now on, unless it is well
            failures += 1
            if failures > 1:
                raise Refusal(503, "the containers did not answer, twice; ask again later", retry_after=2)
        raise Refusal(429, "every slot of the containers is taken; ask again later", retry_after=2)

    async def ask_all(self, path: str) -> list[Answer]:
        """Return the answers of all containers that can be asked to an empty POST; Refusal if there is none."""
        self.check()
        answers = await asyncio.gather(*(self._send(container, "POST", path, b"", {}) for container in self.ready()))
        if found := [answer for answer in answers if answer]:
            return found
        raise Refusal(503, "the containers did not answer; ask again later", retry_after=2)

    async def post(self, url: str, content: bytes, timeout: float) -> None:
        """Send JSON to another server than a container; aiohttp.ClientError or OSError if it does not take it."""
        limit, json = aiohttp.ClientTimeout(timeout), {"Content-Type": "application/json"}
        async with self._http.post(url, data=content, headers=json, timeout=limit, allow_redirects=False) as response:
            response.raise_for_status()

    async def _send(
        self, container: Container, method: str, path: str, content: bytes, headers: Mapping[str, str]
    ) -> Answer | None:
        """Return the container's answer; None if there is none, or only a part of it."""
        try:
            async with self._http.request(
                method, container.url + path, data=content or None, headers=headers
            ) as response:
                return Answer(response.status, await response.read(), response.headers)
        except (aiohttp.ClientError, OSError) as error:
            log.warning("container %s did not answer: %s", container.url, type(error).__name__)
            return None

    @asynccontextmanager
    async def _place(self, work: int) -> AsyncIterator[Container]:
        """Take a place in the container that has the least to do; wait for it, in turn, if all places are taken."""
        container = None if self._waiting else self._least_busy()
        if not container:
            container = await self._wait()
        container.requests += 1
        container.work += work
        metrics.IN_CONTAINERS.inc()
        try:
            yield container
        finally:
            container.requests -= 1
            container.work -= work
            metrics.IN_CONTAINERS.dec()
            self._wake()

    async def _wait(self) -> Container:
        self.check()
        if len(self._waiting) >= self._settings.max_waiting:
            raise Refusal(429, f"{len(self._waiting):,} requests are waiting; the limit is reached", retry_after=1)
        turn = asyncio.Event()
        self._waiting.append(turn)
        metrics.WAITING.inc()
        try:
            while True:
                await turn.wait()
                turn.clear()
                self.check()
                if container := self._least_busy():
                    return container
        finally:
            metrics.WAITING.dec()
            self._waiting.remove(turn)
            self._wake()  # there may be a place for the next one, too

    def _least_busy(self) -> Container | None:
        free = [container for container in self.ready() if container.requests < self._settings.max_at_once]
        return min(free, key=lambda container: (container.work, container.requests), default=None)

    def _wake(self) -> None:
        """Let the first who waits look for a place, if there is one or if there can be none."""
        if self._waiting and (self._least_busy() or not self.ready()):
            self._waiting[0].set()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            await self._look()

    async def _look(self) -> None:
        self._read_file()
        await asyncio.gather(*(self._look_at(container) for container in self._containers.values()))

    def _read_file(self) -> None:
        """Take containers in and out as the file says; a file that cannot be read changes nothing."""
        if not self._file:
            return
        try:
            found = self._file.stat()
            if (found.st_mtime_ns, found.st_size) == self._file_seen:
                return
            self._file_seen = found.st_mtime_ns, found.st_size
            urls = dict.fromkeys([*self._settings.containers, *containers_in(self._file)])
        except (OSError, ValueError) as error:
            log.warning("containers: as before, because %s", error)
            return
        for url in self._containers.keys() - urls.keys():
            self._set_problem(self._containers.pop(url), "it was taken out")
            metrics.UP.remove(url)
        for url in urls:
            self._containers.setdefault(url, Container(url))

    async def _look_at(self, container: Container) -> None:
        try:
            async with self._http.get(
                f"{container.url}/health-check", timeout=aiohttp.ClientTimeout(_CHECK_TIMEOUT)
            ) as response:
                health = orjson.loads(await response.read())
            ready = health["status"] in ("READY", "BUSY")
            problem = None if ready else f"{health['status']} {health.get('user_healthcheck_error') or ''}".strip()
        except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError) as error:
            problem = f"it does not answer: {type(error).__name__}"
        self._set_problem(container, problem)

    def _set_problem(self, container: Container, problem: str | None) -> None:
        if container.url not in self._containers and problem is None:
            return  # it was taken out
        if container.problem != problem:
            log.warning("container %s: %s", container.url, problem or "ready")
        container.problem = problem
        if container.url in self._containers:
            metrics.UP.labels(container.url).set(problem is None)
        self._wake()


def _is_of_a_broken_container(answer: Answer) -> bool:
    """Return whether it is no answer to the request, but says that the container starts or has broken."""
    if answer.status in (502, 503, 504):
        return True
    if len(answer.body) > _MAX_ERROR or _BROKEN.encode() not in answer.body:
        return False
    return _BROKEN in str(orjson.loads(answer.body).get("error"))
