"""The form and the wiring: what a caller can ask for, and the stages that a request goes through."""

import asyncio
import gc
import json
import logging
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, Optional, TypeVar, cast

import cog
import numpy.typing as npt
from cog import BaseModel, BasePredictor, Input, Path

from embeddinggemma import Embedder
from embeddinggemma.batching import Batcher
from embeddinggemma.engine.contract import Float32Array
from embeddinggemma.leftovers import Leftovers
from embeddinggemma.request import Request, check_request
from embeddinggemma.settings import Settings
from embeddinggemma.tokenizer import MAX_TOKENS, TokenizedText, check_whole, describe_tokens, turns
from embeddinggemma.traffic_log import Served, TrafficLog
from embeddinggemma.vectors import finish, serialize

Result = TypeVar("Result")


class Output(BaseModel):
    """One vector for `text`, a vector for each of `texts`, or a file with a vector for each row of `texts_file`."""

    embedding: Any
    file: Optional[Path]
    output_format: str
    shape: list[int]
    processing_time_ms: float
    tokens: Any
    truncated: Any


class Predictor(BasePredictor):
    """EmbeddingGemma-300M."""

    def setup(self) -> None:
        """Verify or download the weights, and load them."""
        sys.setswitchinterval(0.001)  # a short text beside large answers: a median of 17 ms, with Python's own 5 ms 35
        gc.disable()  # imports create objects that stay; checking them for garbage would cost a tenth of a second
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        settings = Settings.from_environment()
        embedder = Embedder.load(settings)
        encoder, self.tokenizer = embedder.encoder, embedder.tokenizer
        self.batcher = Batcher(encoder.submit, embedder.tokens_per_batch, encoder.pass_timeout, encoder.in_flight)
        self.traffic_log = TrafficLog(settings.traffic_log_seconds, encoder.computed_again)
        self.leftovers = Leftovers()
        self.leftovers.start()
        started = time.perf_counter()
        embedder.embed(["warm-up"])
        logging.info("warm-up: %.2f s", time.perf_counter() - started)
        logging.info("running: %s", json.dumps(embedder.runtime()))
        gc.freeze()
        gc.enable()

    @cog.concurrent(max=256)
    async def predict(
        self,
        text: Optional[str] = Input(description="The text to embed. For several texts, use texts.", default=None),
        texts: Optional[list[str]] = Input(
            description="Up to 1,024 texts to embed in one request: one vector each, in the same order.", default=None
        ),
        texts_file: Optional[Path] = Input(
            description="A file with any number of texts: JSONL of strings or of objects with text and perhaps title and id, a JSON array of these, or plain text with a text in each line; also packed with gzip. The vectors are then a file, too.",
            default=None,
        ),
        task: str = Input(
            description="What the vector is for: retrieval_document for the texts to search, retrieval_query for the query; each task but none puts its own prompt before the text.",
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
                "none",
            ],
        ),
        title: Optional[str] = Input(
            description="The document's title, for retrieval_document only. It helps retrieval and is used for every text of the request.",
            default=None,
        ),
        embedding_dim: int = Input(
            description="How many numbers a vector has. Fewer numbers take less space and lose a little quality (Matryoshka).",
            default=768,
            choices=[768, 512, 256, 128],
        ),
        normalize: bool = Input(
            description="Scale each vector to length 1, so that a dot product is the cosine similarity.", default=True
        ),
        output_format: str = Input(
            description="base64 (compact: the little-endian, row-major bytes of the array) or array (JSON numbers, at most 49,152 a request).",
            default="base64",
            choices=["base64", "array"],
        ),
        output_dtype: str = Input(
            description="The number type: float32, float16, int8 (each vector scaled to -127..127) or ubinary (one sign bit per value, eight bits to a byte).",
            default="float32",
            choices=["float32", "float16", "int8", "ubinary"],
        ),
        truncate: bool = Input(
            description="Cut a text after 2,048 tokens, prompt included. If false, such a text is an error.",
            default=True,
        ),
        skip_invalid: bool = Input(
            description="For texts_file: leave out rows that cannot be embedded, and list them in the log. If false, one such row is an error.",
            default=False,
        ),
        upload_url: Optional[str] = Input(
            description="For texts_file: a URL at which the file of vectors is stored by PUT. Without it the file is within the answer and has at most 32,000,000 bytes.",
            default=None,
        ),
    ) -> Output:
        """Embed one text, several, or a file of them."""
        started = time.perf_counter()
        with self.leftovers.prediction(), self.traffic_log.request() as served:
            request = check_request(
                text=text,
                texts=texts,
                texts_file=texts_file,
                task=task,
                title=title,
                embedding_dim=embedding_dim,
                normalize=normalize,
                output_format=output_format,
                output_dtype=output_dtype,
                truncate=truncate,
                skip_invalid=skip_invalid,
                upload_url=upload_url,
            )
            if texts_file is not None:
                return await self._embed_file(texts_file, request, served, started)
            tokenized = await self._tokenize(request)
            _log_truncated(tokenized)
            encoded = await self.batcher.encode([text.ids for text in tokenized])
            embedding, shape = await _apart(request, _finish, encoded.vectors, request)
            tokens = [len(text.ids) for text in tokenized]
            served.texts, served.tokens = len(tokens), sum(tokens)
            self._record_metrics(served.tokens, encoded.queue_ms, encoded.encode_ms, encoded.batch_texts)
        return Output(
            embedding=embedding,
            file=None,
            output_format=request.output_format,
            shape=shape,
            processing_time_ms=_milliseconds_since(started),
            tokens=tokens,
            truncated=[text.truncated for text in tokenized],
        )

    async def healthcheck(self) -> None:
        """Raise BrokenEncoderError once no vector can be trusted any more: the container has to be restarted.

        Seen with coglet 0.23.1: each GET /health-check calls this on the event loop that serves the predictions, even if
        no slot is free. An exception turns the answer, which stays HTTP 200, into `"status": "UNHEALTHY"`, with the
        exception's type and message in `user_healthcheck_error`. The return value False has the same effect; None and
        every other value mean healthy. If the loop is blocked, the answer is UNHEALTHY after 6 seconds, and READY again
        when the loop continues (a method without `async` would be called in a thread and not notice). The server keeps
        handing over predictions to an unhealthy container, so these have to fail by themselves.
        """
        self.batcher.check()

    async def _tokenize(self, request: Request) -> list[TokenizedText]:
        if request.title:
            await _apart(request, self.tokenizer.check_title, request.title)
        tokenized: list[TokenizedText] = []
        for turn in turns(request.prompted):
            tokenized += await _apart(request, self.tokenizer.tokenize, turn)
        if not request.truncate:
            check_whole(tokenized, request.single)
        return tokenized

    async def _embed_file(self, path: Path, request: Request, served: Served, started: float) -> Output:
        await asyncio.to_thread(import_module, "embeddinggemma.texts_file.embedding")  # some tenths of a second
        from embeddinggemma.texts_file.embedding import FileEmbedder

        summary = await FileEmbedder(path, request, self.tokenizer, self.batcher).embed()
        served.texts, served.tokens = summary.texts, summary.tokens
        self._record_metrics(summary.tokens, summary.queue_ms, summary.encode_ms, summary.batch_texts)
        return Output(
            embedding=None,
            file=cast(Path, summary.file),  # a URI
            output_format=summary.format,
            shape=summary.shape,
            processing_time_ms=_milliseconds_since(started),
            tokens=summary.tokens,
            truncated=summary.truncated,
        )

    def _record_metrics(self, tokens: int, queue_ms: float, encode_ms: float, batch_texts: int) -> None:
        self.record_metric("tokens", tokens)
        self.record_metric("queue_ms", round(queue_ms, 3))
        self.record_metric("encode_ms", round(encode_ms, 3))
        self.record_metric("batch_texts", batch_texts)


def _milliseconds_since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)


async def _apart(request: Request, work: Callable[..., Result], *arguments: Any) -> Result:
    """Return work(*arguments), computed in a thread, unless that is less work than changing threads."""
    return work(*arguments) if request.is_small else await asyncio.to_thread(work, *arguments)


def _finish(raw: Float32Array, request: Request) -> tuple[str | npt.NDArray[Any], list[int]]:
    """Return the answer's embedding and its shape."""
    vectors = finish(raw, request.dimension, request.normalize, request.output_dtype)
    answer = vectors[0] if request.single else vectors
    return serialize(answer, request.output_format), list(answer.shape)


def _log_truncated(tokenized: list[TokenizedText]) -> None:
    for position, text in enumerate(tokenized):
        if text.truncated:
            print(f"texts[{position}] has {describe_tokens(text)} tokens; the first {MAX_TOKENS:,} were kept")  # noqa: T201
