"""Batches on their way through a device: packed, sent, computed, fetched.

On a GPU two batches are on their way at once: while the card computes one, the next is packed and sent by another
thread. A forward pass is some two hundred launches, each a few microseconds of the host's time: for most batches that
is more than the card's own work. A CUDA graph records the launches once and starts all of them together. It is
recorded for one number of tokens and texts, so a batch is rounded up to it; what fills it up belongs to no text.

Everything on the card happens in the order of one stream, so nothing there is overwritten before it was read. On the
host, each batch has a slot of its own, and gives it back only when the card is done with it.
"""

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from queue import SimpleQueue
from threading import Lock
from typing import Any

import torch

from embeddinggemma.engine.operators import Operators
from embeddinggemma.engine.packing import Batch, Layout, Packing

log = logging.getLogger(__name__)

DEPTH = 2
"""Batches on their way through a GPU at once, one thread each."""

# Tokens of the recorded passes. On an H200 a pass takes 0.7 ms for 16 tokens and 0.8 for 256; above, steps of a third
# to a half bound the share that fills it up. Above 8,192, a pass keeps the card busy for longer than its launches take.
_RECORDED_TOKENS = (16, 64, 128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
_TOKENS_PER_TEXT = 8  # the prompts alone have about as many

Forward = Callable[[torch.Tensor, Packing], torch.Tensor]


class Pipeline:
    """Runs a forward pass for each batch; on a GPU, up to DEPTH callers at once."""

    def __init__(self, forward: Forward, run: Operators) -> None:
        """Record `forward`, (ids, packing) -> [texts, size], where the operators allow it."""
        self._forward, self._device = forward, run.device
        self._launching = Lock()
        on_gpu = run.device.type == "cuda"
        self._slots = _slots([Slot() for _ in range(DEPTH)]) if on_gpu else None
        self._stream = torch.cuda.default_stream(run.device) if on_gpu else None
        self._passes = _record(forward, run.device) if run.recordable else []

    def encode(self, batch: Batch) -> torch.Tensor:
        """Return the vectors of a batch in its order, float32 [texts, size] on the CPU."""
        if self._slots is None:
            return self._forward(*packed(batch, self._device))
        slot = self._slots.get()
        try:
            try:
                # The caller may have made another device or stream the current one.
                with self._launching, torch.cuda.stream(self._stream) if self._stream else nullcontext():
                    vectors = self._launch(batch, slot)
            finally:
                slot.done.synchronize()  # after an error too: the card may still read the slot
            return vectors.clone()
        finally:
            self._slots.put(slot)

    def _launch(self, batch: Batch, slot: "Slot") -> torch.Tensor:
        """Put a batch in the stream's order; return where in the slot its vectors will be."""
        recorded = next((entry for entry in self._passes if entry.holds(batch)), None)
        layout = recorded.layout if recorded else Layout(len(batch.ids), len(batch.lengths))
        inputs = slot.inputs(layout.size)
        layout.fill(inputs.numpy(), batch)
        try:
            if recorded:
                vectors = recorded.replay(inputs)
            else:
                on_device = inputs.to(self._device, non_blocking=True)
                vectors = self._forward(*layout.views(on_device, tuple(batch.lengths.tolist())))
            fetched = slot.vectors(len(batch.lengths), vectors.shape[1])
            fetched.copy_(vectors[: len(batch.lengths)], non_blocking=True)
            return fetched
        finally:
            slot.done.record()


def _slots(slots: "Iterable[Slot]") -> "SimpleQueue[Slot]":
    free: SimpleQueue[Slot] = SimpleQueue()
    for slot in slots:
        free.put(slot)
    return free


def packed(batch: Batch, device: torch.device) -> tuple[torch.Tensor, Packing]:
    """Return a batch's token ids, int32 [tokens], and how they are packed, on a device."""
    layout = Layout(len(batch.ids), len(batch.lengths))
    buffer = torch.empty(layout.size, dtype=torch.int32)
    layout.fill(buffer.numpy(), batch)
    return layout.views(buffer.to(device), tuple(batch.lengths.tolist()))


class Slot:
    """Host memory that the card itself copies from and to, for one batch on its way."""

    def __init__(self) -> None:
        self.done = torch.cuda.Event()
        """Recorded after the last copy from or to the slot."""
        self._inputs = torch.empty(0, dtype=torch.int32)
        self._vectors = torch.empty(0)

    def inputs(self, size: int) -> torch.Tensor:
        """Return room for the inputs of a batch, int32 [size]."""
        if len(self._inputs) < size:
            self._inputs = torch.empty(size, dtype=torch.int32, pin_memory=True)
        return self._inputs[:size]

    def vectors(self, texts: int, size: int) -> torch.Tensor:
        """Return room for the vectors of a batch, float32 [texts, size]."""
        if self._vectors.numel() < texts * size:
            self._vectors = torch.empty(texts * size, pin_memory=True)
        return self._vectors[: texts * size].view(texts, size)


class RecordedPass:
    """A forward pass of fixed size, as one CUDA graph."""

    def __init__(self, forward: Forward, layout: Layout, device: torch.device, pool: Any) -> None:
        """Record on the current stream, which must not be the default one."""
        self.layout = layout
        self._inputs = torch.zeros(layout.size, dtype=torch.int32, device=device)
        ids, packing = layout.views(self._inputs, ())
        forward(ids, packing)  # cuBLAS chooses its kernels and its memory on first use: no graph may contain that
        self._graph = torch.cuda.CUDAGraph()
        self._graph.capture_begin(pool, capture_error_mode="thread_local")  # other threads may use the card meanwhile
        try:
            self._vectors = forward(ids, packing)
        finally:
            self._graph.capture_end()

    def holds(self, batch: Batch) -> bool:
        """Return whether a batch fits."""
        return len(batch.ids) <= self.layout.tokens and len(batch.lengths) <= self.layout.texts

    def replay(self, inputs: torch.Tensor) -> torch.Tensor:
        """Compute the vectors [layout.texts, size] of a filled buffer; the next replay of any pass overwrites them."""
        self._inputs.copy_(inputs, non_blocking=True)
        self._graph.replay()
        return self._vectors


def _record(forward: Forward, device: torch.device) -> list[RecordedPass]:
    """Record the passes, which share their memory: the largest first, so that the others fit in.

    A batch without a graph is only slower, so one that cannot be recorded is left out.
    """
    started = time.perf_counter()
    passes: list[RecordedPass] = []
    pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for tokens in reversed(_RECORDED_TOKENS):
            try:
                passes.append(RecordedPass(forward, Layout(tokens, max(4, tokens // _TOKENS_PER_TEXT)), device, pool))
            except RuntimeError as error:
                log.warning("graphs: none for %d tokens: %s", tokens, error)
    torch.cuda.current_stream(device).wait_stream(stream)
    log.info("graphs: %d in %.2f s", len(passes), time.perf_counter() - started)
    return passes[::-1]
