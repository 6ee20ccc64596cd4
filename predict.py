"""The form and the wiring: what a caller may ask for, and the stages that a request goes through."""

import asyncio
import gc
import json
import logging
import os
import time
from pathlib import Path
from typing import Any, Optional

import cog
import numpy.typing as npt
from cog import BaseModel, BasePredictor, Input

from embeddinggemma.architecture import check_pinned
from embeddinggemma.background import WeightsInBackground
from embeddinggemma.batching import Batcher, Job
from embeddinggemma.load_log import LoadLog
from embeddinggemma.manifest import read_manifest
from embeddinggemma.request import Request, check_request
from embeddinggemma.settings import Settings
from embeddinggemma.tokenizer import MAX_TOKENS, TokenizedText, Tokenizer, portions
from embeddinggemma.vectors import Float32Array, finish, serialize


class Output(BaseModel):
    """One vector, or one for each of the texts."""

    embedding: Any
    output_format: str
    shape: list[int]
    processing_time_ms: float
    tokens: list[int]
    truncated: list[bool]


class Predictor(BasePredictor):
    """EmbeddingGemma-300M."""

    def setup(self) -> None:
        """Verify or download the weights, and load them."""
        gc.disable()  # imports make objects that stay; collecting among them would cost a tenth of a second
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        settings = Settings.from_environment(os.environ, Path(__file__).resolve().parent)
        manifest = read_manifest(settings.manifest)
        check_pinned(manifest)
        weights = WeightsInBackground(manifest, settings.store)
        # These import torch, and take seconds in which the weights come.
        from embeddinggemma.encoder import load_encoder
        from embeddinggemma.running import running

        early = weights.load_early("tokenizer.json", Tokenizer)  # takes a second, in which the rest may come
        self.tokenizer, encoder = weights.load(
            lambda folder: (early or Tokenizer(folder), load_encoder(folder, settings.engine, settings.dtype))
        )
        tokens_per_batch = settings.tokens_per_batch or encoder.tokens_per_batch
        self.batcher = Batcher(encoder.submit, tokens_per_batch, encoder.longest_pass)
        self.load_log = LoadLog(settings.load_log_seconds)
        started = time.perf_counter()
        encoder.encode([one.ids for one in self.tokenizer.encode(["warm-up"])])
        logging.info("warm-up: %.2f s", time.perf_counter() - started)
        logging.info("running: %s", json.dumps(running(manifest, settings.engine, encoder, tokens_per_batch)))
        gc.freeze()
        gc.enable()

    @cog.concurrent(max=256)
    async def predict(
        self,
        text: Optional[str] = Input(description="The text to embed. Give this, or several in texts.", default=None),
        texts: Optional[list[str]] = Input(
            description="Up to 1,024 texts to embed in one request: one vector each, in the same order.", default=None
        ),
        task: str = Input(
            description="What the vector is for: retrieval_document for what is searched, retrieval_query for what is asked; each task puts its own prompt before the text.",
            default="retrieval_document",
            choices=[
                "retrieval_document",
                "retrieval_query",
                "question_answering",
                "fact_verification",
                "classification",
                "clustering",
                "semantic_similarity",
                "code_retrieval",
            ],
        ),
        title: Optional[str] = Input(
            description="For retrieval_document: the document's title, if it has one. It helps retrieval, and goes with every text of the request.",
            default=None,
        ),
        embedding_dim: int = Input(
            description="How many numbers a vector has. Fewer take less room and lose a little quality (Matryoshka).",
            default=768,
            choices=[768, 512, 256, 128],
        ),
        normalize: bool = Input(
            description="Scale each vector to length 1, so that a dot product is the cosine similarity.", default=True
        ),
        output_format: str = Input(
            description="base64 (compact: the little-endian, row-major bytes of the array) or array (JSON numbers).",
            default="base64",
            choices=["base64", "array"],
        ),
        output_dtype: str = Input(
            description="The number type: float32, float16, int8 (each vector scaled to -127..127) or ubinary (one sign bit a value, eight to a byte).",
            default="float32",
            choices=["float32", "float16", "int8", "ubinary"],
        ),
    ) -> Output:
        """Embed one text, or several."""
        started = time.perf_counter()
        with self.load_log.request() as served:
            request = check_request(
                text=text,
                texts=texts,
                task=task,
                title=title,
                embedding_dim=embedding_dim,
                normalize=normalize,
                output_format=output_format,
                output_dtype=output_dtype,
            )
            tokenized = await self._tokenize(request)
            _log_truncated(tokenized)
            job = await self.batcher.encode([one.ids for one in tokenized])
            embedding, shape = await asyncio.to_thread(_finish, job.vectors.result(), request)
            tokens = [len(one.ids) for one in tokenized]
            served.texts, served.tokens = len(tokens), sum(tokens)
            self._record_metrics(job, served.tokens)
        return Output(
            embedding=embedding,
            output_format=request.output_format,
            shape=shape,
            processing_time_ms=round((time.perf_counter() - started) * 1000, 3),
            tokens=tokens,
            truncated=[one.truncated for one in tokenized],
        )

    async def healthcheck(self) -> None:
        """Raise BrokenEncoderError once no vector can be trusted any more: the container has to be started anew.

        Seen with coglet 0.23.1: each GET /health-check calls this on the event loop that serves the predictions, whether
        or not a slot is free. An exception turns the answer, which stays HTTP 200, into `"status": "UNHEALTHY"`, with
        its type and message in `user_healthcheck_error`; so does the return value False, while None and all else is
        healthy. A loop that is held up is UNHEALTHY after 6 seconds and READY when it goes on (a method without `async`
        would be called in a thread and not notice). The server goes on handing over predictions all the same, so these
        have to fail by themselves.
        """
        self.batcher.check()

    async def _tokenize(self, request: Request) -> list[TokenizedText]:
        tokenized: list[TokenizedText] = []
        for portion in portions(request.prompted):
            tokenized += await asyncio.to_thread(self.tokenizer.encode, portion)
        return tokenized

    def _record_metrics(self, job: Job, tokens: int) -> None:
        self.record_metric("tokens", tokens)
        self.record_metric("queue_ms", round(job.queue_ms or 0, 3))
        self.record_metric("encode_ms", round(job.encode_ms, 3))
        self.record_metric("batch_texts", job.batch_texts)


def _finish(raw: Float32Array, request: Request) -> tuple[str | npt.NDArray[Any], list[int]]:
    """Return the answer's embedding and its shape."""
    vectors = finish(raw, request.dimension, request.normalize, request.output_dtype)
    answer = vectors[0] if request.single else vectors
    return serialize(answer, request.output_format), list(answer.shape)


def _log_truncated(tokenized: list[TokenizedText]) -> None:
    for position, one in enumerate(tokenized):
        if one.truncated:
            count = f"over {MAX_TOKENS:,}" if one.untruncated is None else f"{one.untruncated:,}"
            print(f"texts[{position}] has {count} tokens; the first {MAX_TOKENS:,} were kept")  # noqa: T201
