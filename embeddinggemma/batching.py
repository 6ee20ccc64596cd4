"""Requests to batches: while one forward pass runs, what arrives waits and fills the next one.

One task owns the queue and gives the encoder one batch at a time, so nothing here needs a lock and an idle server
answers a lone request at once. A batch is limited by its tokens, which is what a forward pass costs.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from embeddinggemma.vectors import Float32Array

Submit = Callable[[Sequence[Sequence[int]]], Future[Float32Array]]
"""Hands the token ids of some texts to an encoder; the future holds their raw vectors, [texts, size]."""


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

    def __init__(self, submit: Submit, tokens_per_batch: int) -> None:
        self._submit = submit
        self._tokens_per_batch = tokens_per_batch
        self._jobs: deque[Job] = deque()
        self._arrival = asyncio.Event()
        self._owner: asyncio.Task[None] | None = None

    async def encode(self, token_ids: Sequence[Sequence[int]]) -> Job:
        """Return the finished job of some texts: its vectors are [texts, size].

        If the caller is cancelled, texts that no batch has taken yet are never encoded.

        Raises:
            Exception: whatever the encoder raises for this request's texts, be they alone or in company.

        """
        if self._owner is None:
            self._owner = asyncio.create_task(self._run())
        shortest_first = sorted(range(len(token_ids)), key=lambda position: len(token_ids[position]))
        job = Job(token_ids, asyncio.get_running_loop().create_future(), deque(shortest_first))
        self._jobs.append(job)
        self._arrival.set()
        try:
            await job.vectors
        finally:
            job.waiting.clear()
        return job

    async def _run(self) -> None:
        while True:
            await self._arrival.wait()
            self._arrival.clear()
            while batch := self._next_batch():
                await self._encode_batch(batch)

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
        """Run one forward pass; should it fail, one for each job, so that the culprit's job fails alone."""
        started = time.perf_counter()
        jobs = {id(job): job for job, _ in batch}.values()
        for job in jobs:
            if job.queue_ms is None:
                job.queue_ms = (started - job.arrived) * 1000
        try:
            texts = [job.token_ids[position] for job, position in batch]
            vectors = await asyncio.wrap_future(self._submit(texts))
        except Exception as error:
            if len(jobs) == 1:
                _fail(batch[0][0], error)
                return
            for alone in jobs:
                await self._encode_batch([(job, position) for job, position in batch if job is alone])
            return
        elapsed = (time.perf_counter() - started) * 1000
        for job in jobs:
            job.encode_ms += elapsed
            job.batch_texts = max(job.batch_texts, len(batch))
        for (job, position), vector in zip(batch, vectors, strict=True):
            _deliver(job, position, vector)


def _deliver(job: Job, position: int, vector: Float32Array) -> None:
    job.done[position] = vector
    if len(job.done) == len(job.token_ids) and not job.vectors.done():
        job.vectors.set_result(np.stack([job.done[position] for position in range(len(job.token_ids))]))


def _fail(job: Job, error: Exception) -> None:
    job.waiting.clear()
    if not job.vectors.done():
        job.vectors.set_exception(error)
