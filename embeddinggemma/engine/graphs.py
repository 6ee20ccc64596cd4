"""Replays the whole forward of a short text on a GPU.

A forward is some hundreds of kernel launches, each a few microseconds of host time: for a short text that is more than
the GPU's own work. A CUDA graph records the launches once and starts all of them together. A graph is recorded for one
number of tokens, so a text is rounded up to a bucket. The tokens that fill the bucket are a second text; attention and
pooling keep it apart from the first text by `cu_seqlens`, as in any batch.
"""

from collections.abc import Callable, Sequence

import torch

from embeddinggemma.engine.attention import Packing

# Tokens; a longer text keeps the GPU busy for longer than its launches take.
BUCKETS = (16, 32, 64, 128, 256)

Forward = Callable[[torch.Tensor, Packing], torch.Tensor]


class Bucket:
    """Inputs of a forward at fixed addresses: a text of 1 to `size` tokens, filled up with a second text."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.ids = torch.zeros(size, dtype=torch.int64, device=device)
        # The second text's positions need not start from 0, because its vector is never read. The lengths here do not
        # follow the text, because the host only uses them as upper bounds.
        cu_seqlens = torch.tensor((0, 1, size), dtype=torch.int32, device=device)
        self.packing = Packing((size, 0), cu_seqlens, torch.arange(size, device=device))

    def fill(self, ids: Sequence[int]) -> None:
        """Put in another text's token ids, without waiting for the device."""
        self.ids[: len(ids)].copy_(torch.tensor(ids))
        self.packing.cu_seqlens[1].fill_(len(ids))


class ShortTextGraphs:
    """One recorded forward for each bucket; one caller at a time, because they share memory."""

    def __init__(self, forward: Forward, device: torch.device) -> None:
        """Record `forward`: (ids, packing) -> [texts, size]; it must never wait for the device."""
        pool = torch.cuda.graph_pool_handle()
        self._graphs = [self._record(forward, Bucket(size, device), pool) for size in BUCKETS]

    @staticmethod
    def _record(forward: Forward, bucket: Bucket, pool: object) -> tuple[Bucket, torch.cuda.CUDAGraph, torch.Tensor]:
        side_stream = torch.cuda.Stream(bucket.ids.device)
        side_stream.wait_stream(torch.cuda.current_stream(bucket.ids.device))
        with torch.cuda.stream(side_stream):
            # cuBLAS chooses its kernels and workspaces on first use; no graph may contain that.
            for _ in range(2):
                forward(bucket.ids, bucket.packing)
        torch.cuda.current_stream(bucket.ids.device).wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):  # type: ignore[arg-type]
            vectors = forward(bucket.ids, bucket.packing)
        return bucket, graph, vectors

    def encode(self, ids: Sequence[int]) -> torch.Tensor:
        """Return the vector of one text of at most BUCKETS[-1] token ids: float32 [1, size] on the CPU."""
        bucket, graph, vectors = next(entry for entry in self._graphs if len(ids) <= len(entry[0].ids))
        bucket.fill(ids)
        graph.replay()
        return vectors[:1].cpu()
