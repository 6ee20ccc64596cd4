"""The model's tokenizer, for clients who want to count tokens; fetched and verified when the first one asks."""

import asyncio
from dataclasses import replace

from embeddinggemma.settings import Settings
from embeddinggemma.tokenizer import Tokenizer
from embeddinggemma.weights.cache import WeightsError, ensure_weights
from embeddinggemma.weights.manifest import read_manifest
from gateway.core.refusal import Refusal

_FILES = ("config.json", "tokenizer.json")


class LazyTokenizer:
    """Loads the tokenizer once; its files come from the same sources as a container's weights."""

    def __init__(self) -> None:
        self._loading = asyncio.Lock()
        self._tokenizer: Tokenizer | None = None

    async def get(self) -> Tokenizer:
        """Return the tokenizer; Refusal if it cannot be had."""
        async with self._loading:
            if not self._tokenizer:
                try:
                    self._tokenizer = await asyncio.to_thread(_load)
                except (WeightsError, ValueError) as error:
                    raise Refusal(503, f"the tokenizer could not be loaded: {error}", retry_after=60) from None
            return self._tokenizer


def _load() -> Tokenizer:
    settings = Settings.from_environment()
    manifest = read_manifest(settings.manifest)
    needed = replace(manifest, files=tuple(file for file in manifest.files if file.path in _FILES))
    return Tokenizer(ensure_weights(needed, settings.store))
