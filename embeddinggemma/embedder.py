"""The library: settings to verified weights to a loaded model, and texts to vectors."""

import ctypes
import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embeddinggemma.batching import token_batches
from embeddinggemma.engine.architecture import check_pinned
from embeddinggemma.engine.contract import Float32Array
from embeddinggemma.prompts import DOCUMENT_TASK, TASKS, add_prompt
from embeddinggemma.settings import Settings
from embeddinggemma.threads import set_threads
from embeddinggemma.tokenizer import Tokenizer, check_whole
from embeddinggemma.validation import a_type, check_choice, check_string, check_texts
from embeddinggemma.vectors import DIMENSIONS, OUTPUT_DTYPES, finish
from embeddinggemma.weights.background import WeightsInBackground
from embeddinggemma.weights.cache import ensure_weights
from embeddinggemma.weights.manifest import Manifest, read_manifest

if TYPE_CHECKING:
    from embeddinggemma.engine.encoder import Encoder  # imports torch, which takes seconds: only when it is needed


class Embedder:
    """A loaded EmbeddingGemma-300M; create it with `load`."""

    def __init__(
        self,
        manifest: Manifest,
        engine: str,
        tokenizer: Tokenizer,
        encoder: "Encoder",
        tokens_per_batch: int,
        threads_from: str,
    ) -> None:
        self.manifest = manifest
        """The weights' files, their digests and their sources."""
        self.engine = engine
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.tokens_per_batch = tokens_per_batch
        """Tokens of one forward pass, unless a single text has more."""
        self.threads_from = threads_from
        """What decides how many threads compute."""

    @classmethod
    def load(cls, settings: Settings | None = None, manifest: Manifest | None = None) -> "Embedder":
        """Verify the weights, download missing files, and load them onto the GPU, or onto the CPU if there is no GPU.

        Torch is imported while the weights are verified or downloaded.

        Args:
            settings: by default read from the environment variables that docs/operations.md lists.
            manifest: by default the manifest that the settings name.

        Raises:
            ValueError: this machine does not support a setting, or the files are not EmbeddingGemma's.
            ManifestError: the manifest cannot be read, or does not pin every file that decides what a vector is.
            WeightsError: no source had the pinned bytes, or they could not be stored.
            RuntimeError: the engine computes causal attention, so its vectors would be wrong.

        """
        settings = settings or Settings.from_environment()
        manifest = manifest or pinned_manifest(settings)
        threads, threads_from = set_threads(settings.threads)
        # Kept from one start to the next, so that a warm container compiles nothing.
        os.environ.setdefault("TRITON_CACHE_DIR", str(settings.store.cache / "kernels"))
        with WeightsInBackground(manifest, settings.store) as weights:
            from embeddinggemma.engine.encoder import choose_device, choose_dtype, load_encoder, prepare_kernels

            choose_dtype(settings.dtype, choose_device())  # refused now, not after the download
            prepare = partial(prepare_kernels, settings.engine, settings.dtype)
            weights.in_background("config.json", prepare)  # a second or more, most of it in compilers
            # Takes a second, while other files download.
            early = weights.load_early(["config.json", "tokenizer.json"], Tokenizer)
            tokenizer, encoder = weights.load(
                lambda folder: (
                    early or Tokenizer(folder),
                    load_encoder(folder, settings.engine, settings.dtype, threads),
                )
            )
        _return_freed_memory()
        tokens_per_batch = settings.tokens_per_batch or encoder.tokens_per_batch
        return cls(manifest, settings.engine, tokenizer, encoder, tokens_per_batch, threads_from)

    def embed(
        self,
        texts: Iterable[str],
        *,
        task: str = DOCUMENT_TASK,
        title: str | None = None,
        dimension: int = 768,
        normalize: bool = True,
        dtype: str = "float32",
        truncate: bool = True,
    ) -> npt.NDArray[Any]:
        """Return a vector for each text, in order.

        Args:
            texts: any number of texts; an empty list gives no vectors.
            task: what the vectors are for, one of prompts.TASKS; each but none puts its own prompt before the text.
            title: of the document, for retrieval_document only; used for every text.
            dimension: 768, 512, 256 or 128: the first values of the vector (Matryoshka).
            normalize: scale each vector to length 1, after the dimension is cut.
            dtype: float32, float16, int8 or ubinary; vectors.finish describes them.
            truncate: cut a text after 2,048 tokens, prompt included; otherwise such a text is an error.

        Returns:
            [texts, dimension], or [texts, dimension / 8] of uint8 for ubinary.

        Raises:
            ValueError: an argument is out of its limits; the message names the argument, the limit and the value.
            BatchTooLargeError: there is too little memory for a batch.
            BrokenEncoderError: no vector can be trusted any more; load the model again.

        """
        if isinstance(texts, str) or not isinstance(texts, Iterable):
            raise ValueError(f"texts is {a_type(texts)}; it must be a list of strings")
        check_choice("task", task, TASKS)
        check_choice("dimension", dimension, DIMENSIONS)
        check_choice("dtype", dtype, OUTPUT_DTYPES)
        if title is not None:
            check_string("title", title)
        texts = list(texts)
        check_texts(texts)
        prompted = [add_prompt(text, task, title) for text in texts]
        if title:
            self.tokenizer.check_title(title)
        tokenized = self.tokenizer.tokenize(prompted)
        if not truncate:
            check_whole(tokenized)
        return finish(self.encode([text.ids for text in tokenized]), int(dimension), normalize, dtype)

    def encode(self, token_ids: Sequence[Sequence[int]]) -> Float32Array:
        """Return the raw vector of each text, float32 [texts, 768]; texts of similar length share a forward pass.

        Raises:
            BatchTooLargeError, BrokenEncoderError: as for `embed`.

        """
        batches = token_batches([len(ids) for ids in token_ids], self.tokens_per_batch)
        if len(batches) == 1:
            return self.encoder.encode(token_ids)
        submitted = [self.encoder.submit([token_ids[position] for position in batch]) for batch in batches]
        raw = np.empty((len(token_ids), DIMENSIONS[0]), np.float32)
        try:
            for batch, vectors in zip(batches, submitted, strict=True):
                raw[batch] = vectors.result()
        finally:
            for vectors in submitted:
                vectors.cancel()  # after an error or Ctrl-C nobody waits for the batches that have not begun
        return raw

    def runtime(self) -> dict[str, Any]:
        """Return what runs here and on which hardware: everything that can change the last bits of a vector."""
        from embeddinggemma.runtime import runtime

        return runtime(self.manifest, self.engine, self.encoder, self.tokens_per_batch, self.threads_from)


def _return_freed_memory() -> None:
    """Return to the system what loading has freed: 0.2 GB, most of it from taking tokenizer.json apart."""
    if malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # only glibc has it
        malloc_trim(0)


def pinned_manifest(settings: Settings) -> Manifest:
    """Return the manifest that the settings name.

    Raises:
        ManifestError: it cannot be read, or does not pin every file that decides what a vector is.

    """
    manifest = read_manifest(settings.manifest)
    check_pinned(manifest)
    return manifest


def verified_weights(settings: Settings) -> tuple[Manifest, Path]:
    """Return the manifest, and a folder that holds its files verified, without loading them.

    Raises:
        ManifestError, WeightsError: as for Embedder.load.

    """
    manifest = pinned_manifest(settings)
    return manifest, ensure_weights(manifest, settings.store)
