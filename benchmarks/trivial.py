"""A predict() that does nothing, with an answer as large as ours: what Cog's server itself can do."""

import base64
import os
from typing import Optional

import cog
from cog import BaseModel, BasePredictor

_MAX_TEXTS = 256
_VECTORS = base64.b64encode(os.urandom(4 * 768 * _MAX_TEXTS)).decode()


class Output(BaseModel):
    """As many bytes as a vector for each text has."""

    embedding: str
    shape: list[int]
    tokens: list[int]
    truncated: list[bool]


class Predictor(BasePredictor):
    """Answers at once."""

    def setup(self) -> None:
        """Load nothing."""

    @cog.concurrent(max=256)
    async def predict(
        self,
        text: Optional[str] = None,  # noqa: ARG002, UP045
        texts: Optional[list[str]] = None,  # noqa: UP045
        task: str = "",  # noqa: ARG002
    ) -> Output:
        """Return the same vectors for all texts."""
        count = len(texts or [""])
        embedding = _VECTORS[: 4096 * count]  # base64 of 768 float32 values: 4,096 characters
        return Output(embedding=embedding, shape=[count, 768], tokens=[12] * count, truncated=[False] * count)
