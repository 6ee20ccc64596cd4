"""Requests to batches: while one forward pass runs, what arrives waits and fills the next one.

One task owns the queue and gives the encoder one batch at a time, so nothing here needs a lock and an idle server
answers a lone request at once. A batch is limited by its tokens, which is what a forward pass costs.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextvars import Context
from dataclasses import dataclass, field

import numpy as np

from embeddinggemma.vectors import Float32Array

log = logging.getLogger(__name__)


class BatchTooLargeError(RuntimeError):
    """An encoder has no memory for a batch, and may have it for a smaller one."""


class BrokenEncoderError(RuntimeError):
    """No vector that an encoder gives from now on can be trusted, or it gives none; the message says why."""


Submit = Callable[[Sequence[Sequence[int]]], Future[Float32Array]]
"""Hands the token ids of some texts to an encoder; the future holds their raw vectors, [texts, size], or its error.

Of the errors two are known here: BatchTooLargeError and BrokenEncoderError. Any other is a text's or a request's own.
"""


@dataclass
class Job:
    """One request's way through the queue: its texts, the vectors so far, and where its time went."""

    token_ids: Sequence[Sequence[int]]
    vectors: asyncio.Future[Float32Array]
    """Resolves to the raw vectors, [texts, size], in the order of the texts."""
    waiting: deque[int]
    """Positions of the texts that no batch has taken yet, the shortest first."""
    arrived: float = field(default_factory=time.perf_counter)
    queue_ms: float | None = None
    """From arrival until a batch took the first text."""
    encode_ms: float = 0.0
    """Time of the forward passes that this request took part in."""
    batch_texts: int = 0
    """Texts in the largest of these passes, of all requests together."""
    done: dict[int, Float32Array] = field(default_factory=dict)


Batch = list[tuple[Job, int]]
"""Texts for one forward pass, each as its job and its position there."""


class Batcher:
    """Shares one encoder among all requests."""

    def __init__(self, submit: Submit, tokens_per_batch: int, longest_pass: float = 600.0) -> None:
        """Give batches of so many tokens to `submit`; after `longest_pass` seconds without an answer it is broken."""
        self._submit = submit
        self._tokens_per_batch = tokens_per_batch
        self._longest_pass = longest_pass
        self._jobs: deque[Job] = deque()
        self._unfinished: set[asyncio.Future[Float32Array]] = set()
        self._arrival = asyncio.Event()
        self._owner: asyncio.Task[None] | None = None
        self._broken: str | None = None

    def check(self) -> None:
        """Raise BrokenEncoderError, with the reason, if requests cannot be answered any more."""
        if self._broken:
            raise BrokenEncoderError(self._broken)

    async def encode(self, token_ids: Sequence[Sequence[int]]) -> Job:
        """Return the finished job of some texts: its vectors are [texts, size].

        If the caller is cancelled, texts that no batch has taken yet are never encoded.

        Raises:
            BatchTooLargeError: one of the texts does not fit in memory even alone.
            BrokenEncoderError: the encoder broke, now or earlier; see `check`.
            Exception: whatever else the encoder raises for this request's texts, be they alone or in company.

        """
        self.check()
        if self._owner is None:
            nobody = Context()  # what is logged there belongs to no request, least of all to the first
            self._owner = asyncio.create_task(self._run(), context=nobody)
            self._owner.add_done_callback(self._ended, context=nobody)
        shortest_first = sorted(range(len(token_ids)), key=lambda position: len(token_ids[position]))
        job = Job(token_ids, asyncio.get_running_loop().create_future(), deque(shortest_first))
        self._jobs.append(job)
        self._unfinished.add(job.vectors)
        self._arrival.set()
        try:
            await job.vectors
        finally:
            job.waiting.clear()
            self._unfinished.discard(job.vectors)
        return job

    async def _run(self) -> None:
        while True:
            await self._arrival.wait()
            self._arrival.clear()
            while batch := self._next_batch():
                await self._encode_batch(batch)

    def _ended(self, owner: asyncio.Task[None]) -> None:
        """Whatever ended the owner, nobody must wait for it: tell those who do, and those to come."""
        error = None if owner.cancelled() else owner.exception()
        self._broken = str(error) if isinstance(error, BrokenEncoderError) else f"the batcher has ended: {error!r}"
        log.error("unhealthy: %s", self._broken)
        for vectors in self._unfinished:
            if not vectors.done():
                vectors.set_exception(BrokenEncoderError(self._broken))

    def _next_batch(self) -> Batch:
        """Take texts from the waiting jobs in turn, one each, until the next one would exceed the token budget."""
        batch: Batch = []
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

    async def _encode_batch(self, batch: Batch) -> None:
        """Run one forward pass; should it fail, smaller ones, until the culprit fails alone."""
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
        elapsed = (time.perf_counter() - started) * 1000
        for job in jobs:
            job.encode_ms += elapsed
            job.batch_texts = max(job.batch_texts, len(batch))
        for (job, position), vector in list(zip(batch, vectors, strict=True)):  # none, unless there is one for each
            _deliver(job, position, vector)

    async def _retry(self, batch: Batch, error: Exception) -> None:
        parts = _split(batch, error)
        if len(parts) == 1:
            _fail(batch, error)
            return
        for part in parts:
            await self._encode_batch(part)

    async def _vectors(self, texts: Sequence[Sequence[int]]) -> Float32Array:
        try:
            async with asyncio.timeout(self._longest_pass):
                return await asyncio.wrap_future(self._submit(texts))
        except TimeoutError:
            raise BrokenEncoderError(f"a forward pass gave no answer for {self._longest_pass:g} s") from None


def _split(batch: Batch, error: Exception) -> list[Batch]:
    """Return a failed batch in parts to try: its halves where it was too large, else what is of each request."""
    if isinstance(error, BatchTooLargeError):
        tokens = sum(len(job.token_ids[position]) for job, position in batch)
        log.warning("memory: none for a batch of %d texts, %d tokens: %s", len(batch), tokens, error)
        middle = len(batch) // 2
        return [part for part in (batch[:middle], batch[middle:]) if part]
    parts: dict[int, Batch] = {}
    for text in batch:
        parts.setdefault(id(text[0]), []).append(text)
    return list(parts.values())


def _deliver(job: Job, position: int, vector: Float32Array) -> None:
    job.done[position] = vector.copy()  # a view would keep the vectors of the whole batch
    if len(job.done) == len(job.token_ids) and not job.vectors.done():
        job.vectors.set_result(np.stack([job.done[position] for position in range(len(job.token_ids))]))


def _fail(batch: Batch, error: Exception) -> None:
    """Fail the one request whose texts a batch holds."""
    job, position = batch[0]
    if isinstance(error, BatchTooLargeError):
        tokens = len(job.token_ids[position])
        error = BatchTooLargeError(f"texts[{position}] has {tokens:,} tokens, for which memory is short: {error}")
    job.waiting.clear()
    if not job.vectors.done():
        job.vectors.set_exception(error)
