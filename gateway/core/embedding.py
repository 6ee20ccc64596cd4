"""Texts to vectors by the containers: what every door but Cog's and Replicate's asks for."""

import asyncio
import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from starlette.requests import Request

from embeddinggemma.prompts import DOCUMENT_TASK
from embeddinggemma.request import MAX_TEXTS
from gateway.core.call import Call, unless_left
from gateway.core.containers import Containers
from gateway.core.refusal import TOO_LONG, Refusal

_BYTES_PER_NUMBER = 4
_CHARACTERS_PER_TOKEN = 4  # of English; only to tell large requests from small ones
_PROMPT_TOKENS = 8
_ERROR = re.compile(r"(?:[\w ]+: )*?(\w+Error): (.*)", re.DOTALL)
_POSITION = re.compile(r"texts\[(\d+)\]")
_KEY = b'"embedding":"'
_TOO_MANY_TOKENS = " tokens, prompt included"


@dataclass(frozen=True)
class Wanted:
    """Texts to embed, and how."""

    texts: Sequence[str]
    task: str = DOCUMENT_TASK
    title: str | None = None
    dimension: int = 768
    normalize: bool = True
    truncate: bool = True
    field: str = "input"
    """What the door calls its texts, for messages."""


@dataclass(frozen=True)
class Embedded:
    """The vectors of all texts, in order."""

    parts: Sequence[memoryview]
    """Base64 of little-endian float32 [texts, dimension], of each request to a container."""
    dimension: int
    tokens: Sequence[int]
    """Of each text, prompt and special tokens included."""

    def rows(self) -> list[memoryview | bytes]:
        """Return the base64 of each vector."""
        size = self.dimension * _BYTES_PER_NUMBER
        if size % 3 == 0:  # then no character of the base64 belongs to two vectors
            width = size // 3 * 4
            return [part[at : at + width] for part in self.parts for at in range(0, len(part), width)]
        return [base64.b64encode(vector) for vector in self.vectors()]

    def vectors(self) -> npt.NDArray[np.float32]:
        """Return the vectors, float32 [texts, dimension]."""
        joined = b"".join(base64.b64decode(part) for part in self.parts)
        return np.frombuffer(joined, "<f4").reshape(-1, self.dimension)


async def embed(request: Request, wanted: Wanted) -> Embedded:
    """Embed the texts for a request, in several requests to containers if there are more than one takes.

    Raises:
        Refusal: 400, there is no text, or a container refuses a text or an option; 413, there are too many texts, or
            one is too long and must not be truncated; 429 and 503, as for Containers.ask; 500, the container failed.

    """
    if not wanted.texts:
        raise Refusal(400, f"{wanted.field} is empty; give at least one text", wanted.field)
    limit = request.app.state.settings.max_texts
    if len(wanted.texts) > limit:
        message = f"{wanted.field} has {len(wanted.texts):,} texts; the limit is {limit:,}, so send several requests"
        raise Refusal(413, message, wanted.field)
    outputs = await unless_left(request, _embed(request.app.state.containers, wanted))
    tokens = [count for _, counts in outputs for count in counts]
    Call.of(request).count(wanted.task, len(tokens), sum(tokens))
    return Embedded([embedding for embedding, _ in outputs], wanted.dimension, tokens)


async def _embed(containers: Containers, wanted: Wanted) -> list[tuple[memoryview, list[int]]]:
    if len(wanted.texts) <= MAX_TEXTS:
        return [await _ask(containers, wanted, 0)]
    try:
        async with asyncio.TaskGroup() as group:
            starts = range(0, len(wanted.texts), MAX_TEXTS)
            asked = [group.create_task(_ask(containers, wanted, start)) for start in starts]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in asked]


async def _ask(containers: Containers, wanted: Wanted, start: int) -> tuple[memoryview, list[int]]:
    """Return base64 and tokens of up to MAX_TEXTS of the texts, from position `start`."""
    texts = wanted.texts[start : start + MAX_TEXTS]
    inputs: dict[str, Any] = {
        "texts": texts,
        "task": wanted.task,
        "embedding_dim": wanted.dimension,
        "normalize": wanted.normalize,
        "truncate": wanted.truncate,
    }
    if wanted.title is not None:
        inputs["title"] = wanted.title
    work = sum(map(len, texts)) // _CHARACTERS_PER_TOKEN + _PROMPT_TOKENS * len(texts)
    answer = await containers.ask("/predictions", orjson.dumps({"input": inputs}), work=work)
    embedding, rest = _taken_out(answer.body)
    prediction = orjson.loads(rest)
    if prediction.get("status") == "succeeded":
        return embedding, prediction["output"]["tokens"]
    raise _refusal(answer.status, prediction, wanted.field, start)


def _taken_out(body: bytes) -> tuple[memoryview, bytes]:
    """Return the base64 of an answer, where it lies, and the answer without it: megabytes not to parse or to copy.

    Within a string of JSON a quotation mark has a backslash before it, so the key is found nowhere else; and base64
    holds neither of the two.
    """
    start = body.find(_KEY) + len(_KEY)
    stop = body.find(b'"', start)
    if start < len(_KEY) or stop < 0:
        return memoryview(b""), body
    return memoryview(body)[start:stop], body[:start] + body[stop:]


def _refusal(status: int, prediction: dict[str, Any], field: str, start: int) -> Refusal:
    """Return what the container says, with the caller's name and position for a text."""
    if status != 200:  # its schema refused what this gateway has sent
        return Refusal(500, f"the container answered HTTP {status}: {prediction.get('detail')}")
    found = _ERROR.fullmatch(str(prediction.get("error")))
    kind, message = (found[1], found[2]) if found else ("", str(prediction.get("error")))
    if position := _POSITION.match(message):
        name = f"{field}[{start + int(position[1])}]"
        message = name + message[position.end() :]
    at_fault = field if position else None
    if kind != "ValueError":
        return Refusal(500, f"{kind}: {message}" if kind else message)
    if _TOO_MANY_TOKENS in message:
        return Refusal(413, message, at_fault, TOO_LONG)
    return Refusal(400, message, at_fault)
