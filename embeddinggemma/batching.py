"""Texts to batches: from all requests that arrive while a forward pass runs, or from one list of texts.

One task owns the queue, so nothing here needs a lock. It takes a batch as soon as the encoder has room for one, so an
idle server answers a single request at once. A batch is limited by its tokens, because they decide what a forward pass
costs.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass, field

import numpy as np

from embeddinggemma.engine.contract import BatchTooLargeError, BrokenEncoderError, Float32Array, Submit

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoded:
    """The vectors of one request, and where its time went."""

    vectors: Float32Array
    """Raw, [texts, size], in the order of the texts."""
    queue_ms: float
    """From arrival until a batch took the first text."""
    encode_ms: float
    """Time of the forward passes that had texts of this request, added up. With two in flight, each has its wait for
    the other in it, so this can exceed the time of the request."""
    batch_texts: int
    """Texts in the largest of these passes, of all requests together."""


@dataclass
class _Job:
    """One request in the queue: its texts, the vectors so far, and its times; see Encoded."""

    token_ids: Sequence[Sequence[int]]
    vectors: asyncio.Future[Float32Array]
    """Resolves to the raw vectors, [texts, size], in the order of the texts."""
    waiting: deque[int]
    """Positions of the texts that no batch has taken yet, the shortest first."""
    arrived: float = field(default_factory=time.perf_counter)
    queue_ms: float | None = None
    encode_ms: float = 0.0
    batch_texts: int = 0
    answer: Float32Array | None = None
    """The vectors so far, in their places; made when the first arrive, whose size it takes."""
    missing: int = field(init=False)
    """Texts without a vector."""

    def __post_init__(self) -> None:
        self.missing = len(self.token_ids)


_Batch = list[tuple[_Job, int]]
"""Texts for one forward pass, each as its job and its position in the job."""


class Batcher:
    """Shares one encoder among all requests."""

    def __init__(self, submit: Submit, tokens_per_batch: int, pass_timeout: float = 600.0, in_flight: int = 1) -> None:
        """Prepare; the first `encode` starts the task that owns the queue.

        Args:
            submit: encodes one batch.
            tokens_per_batch: most tokens of a batch, unless a single text has more.
            pass_timeout: seconds without an answer after which the encoder counts as broken.
            in_flight: batches that the encoder has at once, at most.

        """
        self._submit = submit
        self._tokens_per_batch = tokens_per_batch
        self._pass_timeout = pass_timeout
        self._in_flight = in_flight
        self._jobs: deque[_Job] = deque()
        self._unfinished: set[asyncio.Future[Float32Array]] = set()
        self._arrival = asyncio.Event()
        self._owner: asyncio.Task[None] | None = None
        self._broken: str | None = None

    def check(self) -> None:
        """Raise BrokenEncoderError, with the reason, if requests cannot be answered any more."""
        if self._broken:
            raise BrokenEncoderError(self._broken)

    async def encode(self, token_ids: Sequence[Sequence[int]]) -> Encoded:
        """Return the raw vectors of some texts, and where their time went.

        If the caller is cancelled, texts that no batch has taken yet are never encoded.

        Raises:
            BatchTooLargeError: one of the texts does not fit in memory even alone.
            BrokenEncoderError: the encoder broke, now or earlier; see `check`.
            Exception: any other error that the encoder raises for a batch of this request's texts alone.

        """
        self.check()
        if self._owner is None:
            no_request = Context()  # otherwise the task's log lines would be taken for the first request's
            self._owner = asyncio.create_task(self._run(), context=no_request)
            self._owner.add_done_callback(self._ended, context=no_request)
        shortest_first = sorted(range(len(token_ids)), key=lambda position: len(token_ids[position]))
        job = _Job(token_ids, asyncio.get_running_loop().create_future(), deque(shortest_first))
        self._jobs.append(job)
        self._unfinished.add(job.vectors)
        self._arrival.set()
        try:
            vectors = await job.vectors
        finally:
            job.waiting.clear()
            self._unfinished.discard(job.vectors)
        return Encoded(vectors, job.queue_ms or 0.0, job.encode_ms, job.batch_texts)

    async def _run(self) -> None:
        room = asyncio.Semaphore(self._in_flight)
        async with asyncio.TaskGroup() as passes:  # the first error that is not about texts ends all of them
            while True:
                await room.acquire()
                while not (batch := self._next_batch()):
                    self._arrival.clear()
                    await self._arrival.wait()
                passes.create_task(self._encode_batch(batch)).add_done_callback(lambda _: room.release())

    def _ended(self, owner: asyncio.Task[None]) -> None:
        """Fail all unfinished and all later requests, because the task that answers them has ended."""
        if owner.cancelled():
            self._broken = "the batcher has ended with its event loop"
        else:
            error = owner.exception()
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            self._broken = str(error) if isinstance(error, BrokenEncoderError) else f"the batcher has ended: {error!r}"
            log.error("unhealthy: %s", self._broken)
        for vectors in self._unfinished:
            if not vectors.done():
                vectors.set_exception(BrokenEncoderError(self._broken))

    def _next_batch(self) -> _Batch:
        """Take texts from the waiting jobs in turn, one each, until the next text would exceed the token budget."""
        batch: _Batch = []
        room = self._tokens_per_batch
        while self._jobs:
            job = self._jobs[0]
            if job.waiting:
                position = job.waiting[0]
                room -= len(job.token_ids[position])
                if batch and room < 0:
                    break
                batch.append((job, job.waiting.popleft()))
                self._jobs.rotate(-1)
            else:
                self._jobs.popleft()
        return batch

    async def _encode_batch(self, batch: _Batch) -> None:
        """Run one forward pass; if it fails, run smaller ones until the text or request that causes it fails alone."""
        batch = [(job, position) for job, position in batch if not job.vectors.done()]
        if not batch:
            return
        started = time.perf_counter()
        jobs = {id(job): job for job, _ in batch}.values()
        for job in jobs:
            if job.queue_ms is None:
                job.queue_ms = (started - job.arrived) * 1000
        try:
            vectors = await self._vectors([job.token_ids[position] for job, position in batch])
        except BrokenEncoderError:
            raise
        except Exception as error:
            await self._retry(batch, error)
            return
        if len(vectors) != len(batch):
            raise ValueError(f"the encoder gave {len(vectors)} vectors for {len(batch)} texts")
        elapsed = (time.perf_counter() - started) * 1000
        for job in jobs:
            job.encode_ms += elapsed
            job.batch_texts = max(job.batch_texts, len(batch))
        rows: dict[int, list[int]] = {}
        for row, (job, _) in enumerate(batch):
            rows.setdefault(id(job), []).append(row)
        for job in jobs:
            of_job = rows[id(job)]
            _deliver(job, [batch[row][1] for row in of_job], vectors[of_job])

    async def _retry(self, batch: _Batch, error: Exception) -> None:
        smaller_batches = _split(batch, error)
        if len(smaller_batches) == 1:
            _fail(batch, error)
            return
        for smaller_batch in smaller_batches:
            await self._encode_batch(smaller_batch)

    async def _vectors(self, texts: Sequence[Sequence[int]]) -> Float32Array:
        try:
            async with asyncio.timeout(self._pass_timeout):
                return await asyncio.wrap_future(self._submit(texts))
        except TimeoutError:
            raise BrokenEncoderError(f"a forward pass gave no answer for {self._pass_timeout:g} s") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            raise BrokenEncoderError("the encoder gave up a forward pass") from None


def _split(batch: _Batch, error: Exception) -> list[_Batch]:
    """Return the batches to try instead of a failed one: its halves if it was too large, otherwise one per request."""
    if isinstance(error, BatchTooLargeError):
        tokens = sum(len(job.token_ids[position]) for job, position in batch)
        log.warning("memory: too little for a batch of %d texts, %d tokens: %s", len(batch), tokens, error)
        middle = len(batch) // 2
        return [half for half in (batch[:middle], batch[middle:]) if half]
    by_request: dict[int, _Batch] = {}
    for text in batch:
        by_request.setdefault(id(text[0]), []).append(text)
    return list(by_request.values())


def _deliver(job: _Job, positions: list[int], vectors: Float32Array) -> None:
    if job.vectors.done():
        return
    if job.answer is None:
        job.answer = np.empty((len(job.token_ids), vectors.shape[1]), np.float32)
    job.answer[positions] = vectors
    job.missing -= len(positions)
    if not job.missing:
        job.vectors.set_result(job.answer)


def _fail(batch: _Batch, error: Exception) -> None:
    """Fail the request that all texts of a batch belong to."""
    job, position = batch[0]
    if isinstance(error, BatchTooLargeError):
        tokens = len(job.token_ids[position])
        error = BatchTooLargeError(f"texts[{position}] has {tokens:,} tokens, for which memory is short: {error}")
    job.waiting.clear()
    if not job.vectors.done():
        job.vectors.set_exception(error)


def token_batches(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Return the positions of all texts, shortest first, in batches of up to `tokens_per_batch` tokens or one text."""
    batches: list[list[int]] = []
    room = 0
    for position in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not batches or lengths[position] > room:
            batches.append([])
            room = tokens_per_batch
        batches[-1].append(position)
        room -= lengths[position]
    return batches
