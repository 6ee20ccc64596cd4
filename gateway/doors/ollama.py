"""Ollama's embedding API. https://docs.ollama.com/api/embed."""

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from embeddinggemma.prompts import NO_TASK, TASKS
from embeddinggemma.tokenizer import MAX_TOKENS
from embeddinggemma.vectors import DIMENSIONS
from gateway.core.call import read_json
from gateway.core.embedding import Wanted, embed
from gateway.core.errors import json_response
from gateway.core.models import task_of
from gateway.core.refusal import Refusal
from gateway.doors.fields import Body, dimension_of, flag_of, string_of, texts_of

_NAMES = tuple(f"embeddinggemma:{variant}" for variant in ("latest", "300m", *TASKS))
"""As it lists them; some clients ask only for a model that is listed."""
_VERSION = "0.11.10"
"""The version of Ollama whose API this is: the first that had this model."""
_DETAILS = {
    "parent_model": "",
    "format": "safetensors",
    "family": "gemma3",
    "families": ["gemma3"],
    "parameter_size": "307.58M",
    "quantization_level": "F32",
}
_MODEL = {
    "modified_at": "2025-09-04T16:00:00Z",
    "size": 1_211_486_072,
    "digest": "",
    "details": _DETAILS,
}


def routes() -> list[Route]:
    """Return the API's routes."""
    return [
        Route("/api/embed", _embed, methods=["POST"]),
        Route("/api/embeddings", _embeddings, methods=["POST"]),
        Route("/api/tags", _tags),
        Route("/api/version", _version),
        Route("/api/show", _show, methods=["POST"]),
        Route("/api/pull", _pull, methods=["POST"]),
    ]


async def _embed(request: Request) -> Response:
    started = time.perf_counter_ns()
    body = await read_json(request)
    model, task = _model(body)
    texts = [] if body.get("input") in (None, "") else texts_of(body, "input")
    answer: dict[str, Any] = {"model": model, "embeddings": []}
    if texts:
        wanted = Wanted(texts, task, dimension=dimension_of(body), truncate=flag_of(body, "truncate", default=True))
        embedded = await embed(request, wanted)
        answer = {"model": model, "embeddings": embedded.vectors(), "prompt_eval_count": sum(embedded.tokens)}
    return json_response({**answer, "total_duration": time.perf_counter_ns() - started, "load_duration": 0})


async def _embeddings(request: Request) -> Response:
    """Answer in the older form: one text, one vector."""
    body = await read_json(request)
    _, task = _model(body)
    prompt = string_of(body, "prompt")
    if not prompt:
        return json_response({"embedding": []})
    embedded = await embed(request, Wanted([prompt], task, field="prompt"))
    return json_response({"embedding": embedded.vectors()[0]})


async def _tags(_: Request) -> Response:
    return json_response({"models": [{"name": name, "model": name, **_MODEL} for name in _NAMES]})


async def _version(_: Request) -> Response:
    return json_response({"version": _VERSION})


async def _show(request: Request) -> Response:
    _model(await read_json(request))
    information = {
        "general.architecture": "gemma3",
        "general.parameter_count": 307_581_696,
        "gemma3.context_length": MAX_TOKENS,
        "gemma3.embedding_length": DIMENSIONS[0],
    }
    return json_response(
        {
            "license": "Gemma Terms of Use: https://ai.google.dev/gemma/terms",
            "modelfile": "",
            "parameters": "",
            "template": "{{ .Prompt }}",
            "details": _DETAILS,
            "model_info": information,
            "modified_at": _MODEL["modified_at"],
            "capabilities": ["embedding"],
        }
    )


async def _pull(request: Request) -> Response:
    """Say that the model is here: many programs pull it before they use it."""
    _model(await read_json(request))
    return json_response({"status": "success"})


def _model(body: Body) -> tuple[str, str]:
    """Return the model's name as given, and the task that it asks for; Ollama adds no prompt by itself."""
    name = string_of(body, "model") or string_of(body, "name")
    if name is None:
        raise Refusal(400, "model is missing; it is embeddinggemma", "model")
    return name, task_of(name, NO_TASK)
