"""OpenAI's embeddings API. https://platform.openai.com/docs/api-reference/embeddings."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from embeddinggemma.prompts import DOCUMENT_TASK, TASKS
from gateway.core.call import read_json
from gateway.core.embedding import Wanted, embed
from gateway.core.errors import json_response
from gateway.core.models import all_names, task_of
from gateway.core.refusal import Refusal
from gateway.doors.fields import Body, choice_of, dimension_of, flag_of, string_of, texts_of

_INPUT_TYPES = {"query": "retrieval_query", "document": DOCUMENT_TASK}
_CREATED = 1757001600  # 4 September 2025, when Google published the model


def routes() -> list[Route]:
    """Return the API's routes."""
    return [
        Route("/v1/embeddings", _embeddings, methods=["POST"]),
        Route("/v1/models", _models),
        Route("/v1/models/{id}", _model),
    ]


async def _embeddings(request: Request) -> Response:
    body = await read_json(request)
    model = string_of(body, "model")
    if model is None:
        raise Refusal(400, "model is missing; it is embeddinggemma-300m", "model")
    texts = texts_of(body, "input")
    encoding = choice_of(body, "encoding_format", ("float", "base64"), "float")
    embedded = await embed(
        request,
        Wanted(
            texts,
            _task(body, task_of(model, request.app.state.settings.default_task)),
            string_of(body, "title"),
            dimension_of(body),
            truncate=flag_of(body, "truncate", default=True),
        ),
    )
    tokens = sum(embedded.tokens)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    items = _base64_items(embedded.rows()) if encoding == "base64" else [_items(embedded.vectors())]
    end = b'],"model":%b,"usage":%b}' % (orjson.dumps(model), orjson.dumps(usage))
    return Response(b"".join([b'{"object":"list","data":[', *items, end]), media_type="application/json")


def _items(vectors: npt.NDArray[np.float32]) -> bytes:
    items = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    return orjson.dumps(items, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]


def _base64_items(rows: Sequence[memoryview | bytes]) -> Iterator[memoryview | bytes]:
    """Yield the vectors as they came from the container, with what JSON has between them: megabytes copied once."""
    for index, row in enumerate(rows):
        yield b'%b{"object":"embedding","index":%d,"embedding":"' % (b"," if index else b"", index)
        yield row
        yield b'"}'


def _task(body: Body, task_of_model: str) -> str:
    """Return the task: by its own field, by input_type, or by the model's name."""
    input_type = choice_of(body, "input_type", tuple(_INPUT_TYPES), "")
    return choice_of(body, "task", TASKS, _INPUT_TYPES.get(input_type, task_of_model))


async def _models(_: Request) -> Response:
    return json_response({"object": "list", "data": [_described(name) for name in all_names()]})


async def _model(request: Request) -> Response:
    name = request.path_params["id"]
    task_of(name, DOCUMENT_TASK)
    return json_response(_described(name))


def _described(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "google"}
