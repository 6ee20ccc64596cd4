"""A predict() that does nothing, with an answer as large as ours: what Cog's server itself can do."""

import base64
import os
from typing import Optional

import cog
from cog import BaseModel, BasePredictor

_EMBEDDING = base64.b64encode(os.urandom(4 * 768)).decode()


class Output(BaseModel):
    """One vector."""

    embedding: str
    shape: list[int]
    tokens: list[int]


class Predictor(BasePredictor):
    """Answers at once."""

    def setup(self) -> None:
        """Load nothing."""

    @cog.concurrent(max=256)
    async def predict(self, text: Optional[str] = None, task: str = "") -> Output:  # noqa: ARG002, UP045
        """Return the same vector for every text."""
        return Output(embedding=_EMBEDDING, shape=[768], tokens=[12])
