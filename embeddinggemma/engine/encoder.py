"""Token ids to raw vectors: which engine computes them, on which device, in which number type."""

import logging
import re
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from embeddinggemma.engine.architecture import check_architecture
from embeddinggemma.engine.checkpoint import Config
from embeddinggemma.engine.contract import DTYPES, ENGINES, BatchTooLargeError, BrokenEncoderError, Float32Array
from embeddinggemma.engine.pipeline import DEPTH
from embeddinggemma.engine.proof import proved_operators

log = logging.getLogger(__name__)

# Tokens of one forward pass. On a CPU 2,048 is where throughput levels off (measured on two cores, tokens/s at 512,
# 1,024, 2,048 and 4,096: 1,550, 1,634, 1,658, 1,593 in float32; 2,406, 2,590, 2,709, 2,759 in bfloat16). On an H200
# 8,192 is (million tokens/s of mixed texts at 2,048, 4,096, 8,192 and 16,384: 1.04, 1.38, 1.55, 1.50), and more would
# make a short text wait longer behind them.
_TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 8192}
# Of a card's memory, for each token: float32 needs the most, with texts of 2,048 tokens and their scores.
_BYTES_PER_TOKEN = 128 * 1024

# Seconds after which a forward pass is taken to be stuck: its thread died, or the card hangs. The slowest pass that is
# not stuck takes some minutes by estimate: the reference engine on a CPU pads many short texts to the length of a long
# text.
_PASS_TIMEOUT = {"cpu": 600.0, "cuda": 120.0}

# PyTorch has no exception types for these errors. What its allocators and libraries say if memory is short ...
_NO_MEMORY = re.compile("out of memory|can't allocate memory|bad_alloc|ALLOC_FAILED")
# ... and if the driver failed: most of these errors end the CUDA context, and none leaves it reliable.
_DEVICE_FAILED = re.compile(r"CUDA (driver )?error|Triton Error \[CUDA\]")


class Model(Protocol):
    """A network that turns token ids into raw vectors."""

    @property
    def operators(self) -> str:
        """What computes the steps between the matrix products: plain operators, or kernels."""

    @property
    def computed_again(self) -> int:
        """Texts so far that float16 could not hold, so that float32 computed them again."""

    def encode(self, token_ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the raw vector of each text: float32 [texts, 768] on the CPU, not normalised."""

    def token_states(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Return the last layer's state of each token of one text, [tokens, hidden]."""


@dataclass(frozen=True)
class Encoder:
    """A loaded model, the threads that run it, and how much to give it at once.

    OpenMP gives every computing thread its own team of workers. With two teams there are more workers than cores, and
    libgomp lets them sleep between two operations: a short text then takes twice as long (measured: 32 ms instead of
    15). So everything that computes with torch, loading included, runs in `thread`. A GPU computes itself: there
    `thread` has as many threads as there are batches in flight, and `encode` computes in the caller's.
    """

    model: Model
    thread: ThreadPoolExecutor
    device: torch.device
    dtype: torch.dtype
    tokens_per_batch: int
    """Tokens of one forward pass, by default for this device."""
    pass_timeout: float
    """Seconds after which a forward pass is taken to be stuck."""
    in_flight: int
    """Batches that can be on their way at once: a second one is prepared while a GPU computes the first."""

    def submit(self, token_ids: Sequence[Sequence[int]]) -> Future[Float32Array]:
        """Return the future raw vector of each text, float32 [texts, 768], not normalised; errors as for `encode`."""
        return self.thread.submit(self._encode_in_thread, token_ids)

    def encode(self, token_ids: Sequence[Sequence[int]]) -> Float32Array:
        """Return the raw vector of each text, float32 [texts, 768], not normalised.

        Raises:
            BatchTooLargeError: there is too little memory for this batch.
            BrokenEncoderError: a CUDA error, or a vector that is not finite. With verified weights no text gives such a
                vector, so memory, processor or card are at fault.

        """
        if self.in_flight > 1:  # the model takes calls from any thread, and changing threads takes a tenth of a pass
            return self._encode(token_ids)
        return self.submit(token_ids).result()

    def computed_again(self) -> int:
        """Return how many texts float16 could not hold, so that float32 computed them again."""
        return self.model.computed_again

    def _encode_in_thread(self, token_ids: Sequence[Sequence[int]]) -> Float32Array:
        try:
            return self._encode(token_ids)
        except (KeyboardInterrupt, SystemExit) as error:  # would end the event loop that waits for the answer
            raise BrokenEncoderError(str(error) or type(error).__name__) from None

    def _encode(self, token_ids: Sequence[Sequence[int]]) -> Float32Array:
        try:
            vectors = self.model.encode(token_ids).numpy()
        except Exception as error:
            failure = _explained(error)
        else:
            if np.isfinite(vectors).all():
                return vectors
            failure = BrokenEncoderError("a vector is not finite; memory, processor or card are at fault")
        # Not earlier: until here the error's traceback kept everything that the failed pass had computed in memory.
        if isinstance(failure, BatchTooLargeError) and self.device.type == "cuda":
            torch.cuda.empty_cache()
        raise failure


def load_encoder(folder: Path, engine: str = "native", dtype: str = "auto", threads: int | None = None) -> Encoder:
    """Load an engine from a verified folder onto the GPU, or onto the CPU if there is no GPU.

    Args:
        folder: the model's files.
        engine: native, or sentence-transformers, which is slow and the reference.
        dtype: of the matrix products: float32, bfloat16, float16, or auto: bfloat16 on a GPU that has it, otherwise
            float32.
        threads: how many threads compute on a CPU; None: PyTorch's own choice.

    Raises:
        ValueError: there is no such engine or dtype, this machine does not have the dtype, or the model is not
            EmbeddingGemma.
        RuntimeError: the engine computes causal attention, so its vectors would be wrong.

    """
    device = choose_device()
    chosen = choose_dtype(dtype, device)
    if engine != "native" and chosen == torch.float16:
        raise ValueError(f"dtype is float16, which engine {engine} does not have: its activations overflow; use native")
    check_architecture(folder)

    def load() -> Model:
        if threads:
            torch.set_num_threads(threads)
        model = _load_model(engine, chosen)(folder, device, chosen)
        _check_bidirectional(model)
        return model

    in_flight = DEPTH if device.type == "cuda" and engine == "native" else 1
    thread = ThreadPoolExecutor(max_workers=in_flight, thread_name_prefix="encoder")
    model = thread.submit(load).result()
    return Encoder(model, thread, device, chosen, _tokens_per_batch(device), _PASS_TIMEOUT[device.type], in_flight)


def _tokens_per_batch(device: torch.device) -> int:
    """Return how many tokens a forward pass has by default: what is fast, and fits into the memory that is left."""
    fast = _TOKENS_PER_BATCH[device.type]
    if device.type == "cpu":
        return fast
    free, _ = torch.cuda.mem_get_info(device)
    return max(_TOKENS_PER_BATCH["cpu"], min(fast, free // _BYTES_PER_TOKEN))


def prepare_kernels(engine: str, dtype: str, folder: Path) -> None:
    """Compile the kernels for this device while the weights are coming: only config.json is read."""
    device = choose_device()
    if device.type == "cuda":
        started = time.perf_counter()
        torch.zeros(1, device=device)
        log.info("cuda: %.2f s", time.perf_counter() - started)
    if engine == "native":
        proved_operators(Config.load(folder / "config.json"), device, choose_dtype(dtype, device))


def _explained(error: Exception) -> Exception:
    """Return what the error of a forward pass means for later batches."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or _NO_MEMORY.search(str(error)):
        return BatchTooLargeError(str(error) or "MemoryError")
    if _DEVICE_FAILED.search(str(error)):
        return BrokenEncoderError(str(error))
    return error


class _LoadModel(Protocol):
    def __call__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> Model: ...


def _load_model(engine: str, dtype: torch.dtype) -> _LoadModel:
    """Import only the engine that is asked for: sentence-transformers alone takes seconds."""
    if engine == "native" and dtype == torch.float16:
        from embeddinggemma.engine.float16 import Float16Model

        return Float16Model.load
    if engine == "native":
        from embeddinggemma.engine.model import EmbeddingGemma

        return EmbeddingGemma.load
    if engine == "sentence-transformers":
        from embeddinggemma.engine.reference import SentenceTransformersModel

        return SentenceTransformersModel
    raise ValueError(f"engine is {engine!r}; it must be one of {', '.join(ENGINES)}")


def choose_device() -> torch.device:
    """Return the GPU, or the CPU if there is no GPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the GPU, or the CPU, multiplies bfloat16 in hardware: emulated, it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the number type that a choice of DTYPES means on a device.

    Raises:
        ValueError: there is no such choice, or the device does not have it.

    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}")
    if dtype == "bfloat16" and not has_bfloat16(device):
        raise ValueError(f"dtype is bfloat16, which this {device.type} does not have; use auto")
    if dtype == "float16" and device.type == "cpu":
        raise ValueError("dtype is float16, which is for GPUs without bfloat16; on a cpu use auto")
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" and has_bfloat16(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]


def _check_bidirectional(model: Model) -> None:
    """Change the last token and see that the first token's state changes."""
    bos, eos, word, last, other_last = 2, 1, 100, 200, 300
    state, other_state = (model.token_states([bos, word, end, eos])[0] for end in (last, other_last))
    if torch.equal(state, other_state):
        raise RuntimeError("attention is causal: the first token does not see the last; vectors would be wrong")
