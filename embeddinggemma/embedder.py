"""The library: settings to verified weights to a loaded model, and texts to vectors."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embeddinggemma.batching import token_batches
from embeddinggemma.engine.architecture import check_pinned
from embeddinggemma.engine.contract import Float32Array
from embeddinggemma.prompts import DOCUMENT_TASK, TASKS, add_prompt
from embeddinggemma.settings import Settings
from embeddinggemma.tokenizer import Tokenizer
from embeddinggemma.validation import a_type, check_choice, check_string, check_text
from embeddinggemma.vectors import DIMENSIONS, OUTPUT_DTYPES, finish
from embeddinggemma.weights.background import WeightsInBackground
from embeddinggemma.weights.cache import ensure_weights
from embeddinggemma.weights.manifest import Manifest, read_manifest

if TYPE_CHECKING:
    from embeddinggemma.engine.encoder import Encoder  # imports torch, for which nobody waits before it is needed


class Embedder:
    """EmbeddingGemma-300M, loaded; make one with `load`."""

    def __init__(
        self, manifest: Manifest, engine: str, tokenizer: Tokenizer, encoder: "Encoder", tokens_per_batch: int
    ) -> None:
        self.manifest = manifest
        """What the weights are."""
        self.engine = engine
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.tokens_per_batch = tokens_per_batch
        """Tokens of one forward pass, unless a single text has more."""

    @classmethod
    def load(cls, settings: Settings | None = None, manifest: Manifest | None = None) -> "Embedder":
        """Verify the weights, download what is missing, and load them onto the GPU, or the CPU where there is none.

        Torch is imported while the weights are verified or on their way.

        Args:
            settings: by default those of the environment variables; docs/operations.md lists them.
            manifest: by default the one that the settings name.

        Raises:
            ValueError: a setting that this machine cannot have, or files that are not EmbeddingGemma's.
            ManifestError: the manifest cannot be read, or does not pin every file that counts.
            WeightsError: the pinned bytes came from no source, or could not be kept.
            RuntimeError: the engine computes causal attention, so that its vectors would be wrong.

        """
        settings = settings or Settings.from_environment()
        manifest = manifest or pinned_manifest(settings)
        with WeightsInBackground(manifest, settings.store) as weights:
            from embeddinggemma.engine.encoder import choose_device, choose_dtype, load_encoder

            choose_dtype(settings.dtype, choose_device())  # refused now, not once everything has been downloaded
            early = weights.load_early("tokenizer.json", Tokenizer)  # takes a second, in which the rest may come
            tokenizer, encoder = weights.load(
                lambda folder: (early or Tokenizer(folder), load_encoder(folder, settings.engine, settings.dtype))
            )
        tokens_per_batch = settings.tokens_per_batch or encoder.tokens_per_batch
        return cls(manifest, settings.engine, tokenizer, encoder, tokens_per_batch)

    def embed(
        self,
        texts: Sequence[str],
        *,
        task: str = DOCUMENT_TASK,
        title: str | None = None,
        dimension: int = 768,
        normalize: bool = True,
        dtype: str = "float32",
    ) -> npt.NDArray[Any]:
        """Return a vector for each text, in order; of a text the first 2,048 tokens count, prompt included.

        Args:
            texts: any number of them; none gives no vectors.
            task: what the vectors are for, one of prompts.TASKS; each puts its own prompt before the text.
            title: of the document, for retrieval_document only; used for every text.
            dimension: 768, 512, 256 or 128: the first values of the vector (Matryoshka).
            normalize: scale each vector to length 1, after the dimension is cut.
            dtype: float32, float16, int8 or ubinary; vectors.finish describes them.

        Returns:
            [texts, dimension], or [texts, dimension / 8] of uint8 for ubinary.

        Raises:
            ValueError: an argument out of its limits; the message names it, the limit and the value.
            BatchTooLargeError: memory is short for a batch.
            BrokenEncoderError: no vector can be trusted any more; load anew.

        """
        if isinstance(texts, str):
            raise ValueError(f"texts is {a_type(texts)}; it must be a list of strings")
        check_choice("task", task, TASKS)
        check_choice("dimension", dimension, DIMENSIONS)
        check_choice("dtype", dtype, OUTPUT_DTYPES)
        if title is not None:
            check_string("title", title)
        for position, text in enumerate(texts):
            check_text(f"texts[{position}]", text)
        tokenized = self.tokenizer.tokenize([add_prompt(text, task, title) for text in texts])
        return finish(self.encode([text.ids for text in tokenized]), dimension, normalize, dtype)

    def encode(self, token_ids: Sequence[Sequence[int]]) -> Float32Array:
        """Return the raw vector of each text, float32 [texts, 768]; texts of similar length share a forward pass.

        Raises:
            BatchTooLargeError, BrokenEncoderError: as for `embed`.

        """
        batches = token_batches([len(ids) for ids in token_ids], self.tokens_per_batch)
        submitted = [self.encoder.submit([token_ids[position] for position in batch]) for batch in batches]
        raw = np.empty((len(token_ids), DIMENSIONS[0]), np.float32)
        for batch, vectors in zip(batches, submitted, strict=True):
            raw[batch] = vectors.result()
        return raw

    def runtime(self) -> dict[str, Any]:
        """Return what runs here, and on what: all that the last bits of a vector can depend on."""
        from embeddinggemma.runtime import runtime

        return runtime(self.manifest, self.engine, self.encoder, self.tokens_per_batch)


def pinned_manifest(settings: Settings) -> Manifest:
    """Return the manifest that the settings name.

    Raises:
        ManifestError: it cannot be read, or does not pin every file that decides what a vector is.

    """
    manifest = read_manifest(settings.manifest)
    check_pinned(manifest)
    return manifest


def verified_weights(settings: Settings) -> tuple[Manifest, Path]:
    """Return the manifest, and a folder that holds its files verified, for those who do not load them here.

    Raises:
        ManifestError, WeightsError: as for Embedder.load.

    """
    manifest = pinned_manifest(settings)
    return manifest, ensure_weights(manifest, settings.store)
