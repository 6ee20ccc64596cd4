"""The API of text-embeddings-inference. https://huggingface.github.io/text-embeddings-inference."""

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from embeddinggemma.prompts import NO_TASK, TASKS, add_prompt
from embeddinggemma.tokenizer import MAX_TOKENS, Tokenizer
from gateway.core.call import read_json
from gateway.core.containers import RETRY_SECONDS
from gateway.core.embedding import Wanted, embed
from gateway.core.errors import json_response
from gateway.core.refusal import Refusal
from gateway.doors.fields import Body, choice_of, dimension_of, flag_of, texts_of

PROMPTS = {
    "query": "task: search result | query: ",
    "document": "title: none | text: ",
    "BitextMining": "task: search result | query: ",
    "Clustering": "task: clustering | query: ",
    "Classification": "task: classification | query: ",
    "InstructionRetrieval": "task: code retrieval | query: ",
    "MultilabelClassification": "task: classification | query: ",
    "PairClassification": "task: sentence similarity | query: ",
    "Reranking": "task: search result | query: ",
    "Retrieval": "task: search result | query: ",
    "Retrieval-query": "task: search result | query: ",
    "Retrieval-document": "title: none | text: ",
    "STS": "task: sentence similarity | query: ",
    "Summarization": "task: summarization | query: ",
}
"""What sentence-transformers puts before a text, by the names of the model's config_sentence_transformers.json."""

_DIRECTIONS = ("right", "Right")
"""In which a text can be truncated: its start is kept."""
_MAX_CHARACTERS = 65_536
"""Of a text to tokenize: longer ones take too long."""


def routes() -> list[Route]:
    """Return the API's routes."""
    return [
        Route("/embed", _embed, methods=["POST"]),
        Route("/", _embed, methods=["POST"]),
        Route("/tokenize", _tokenize, methods=["POST"]),
        Route("/info", _info),
        Route("/health", _health),
    ]


async def _embed(request: Request) -> Response:
    body = await read_json(request)
    texts = texts_of(body, "inputs")
    choice_of(body, "truncation_direction", _DIRECTIONS, "right")
    embedded = await embed(
        request,
        Wanted(
            _prompted(body, texts),
            NO_TASK,
            dimension=dimension_of(body),
            normalize=flag_of(body, "normalize", default=True),
            truncate=flag_of(body, "truncate", default=False),
            field="inputs",
        ),
    )
    return json_response(embedded.vectors())


def _prompted(body: Body, texts: list[str]) -> list[str]:
    """Return the texts with the prompt that the body names, if it names one."""
    name = choice_of(body, "prompt_name", (*PROMPTS, *TASKS), NO_TASK)
    prompt = PROMPTS[name] if name in PROMPTS else add_prompt("", name)
    return [prompt + text for text in texts] if prompt else texts


async def _tokenize(request: Request) -> Response:
    """Answer with the tokens of each text, as the model sees them, but not truncated."""
    body = await read_json(request)
    texts = _prompted(body, texts_of(body, "inputs"))
    for position, text in enumerate(texts):
        if len(text) > _MAX_CHARACTERS:
            message = f"inputs[{position}] has {len(text):,} characters; the limit here is {_MAX_CHARACTERS:,}"
            raise Refusal(413, message, "inputs")
    tokenizer = await request.app.state.tokenizer.get()
    special = flag_of(body, "add_special_tokens", default=True)
    return json_response(await asyncio.to_thread(_tokens, tokenizer, texts, special))


def _tokens(tokenizer: Tokenizer, texts: list[str], special: bool) -> list[list[dict[str, Any]]]:
    """Return the tokens of each text in TEI's form, in which a special token stands nowhere."""
    return [
        [
            {**vars(token), "start": None, "stop": None} if token.special else vars(token)
            for token in tokenizer.tokens(text, special=special)
        ]
        for text in texts
    ]


async def _info(request: Request) -> Response:
    settings = request.app.state.settings
    return json_response(
        {
            "model_id": "google/embeddinggemma-300m",
            "model_sha": None,
            "model_dtype": "float32",
            "model_type": {"embedding": {"pooling": "mean"}},
            "max_concurrent_requests": settings.max_at_once + settings.max_waiting,
            "max_input_length": MAX_TOKENS,
            "max_batch_tokens": MAX_TOKENS,
            "max_batch_requests": None,
            "max_client_batch_size": settings.max_texts,
            "auto_truncate": False,
            "tokenization_workers": 1,
            "version": "1.8.0",
            "sha": None,
            "docker_label": None,
        }
    )


async def _health(request: Request) -> Response:
    if not request.app.state.containers.ready():  # anybody may ask, so it does not say which
        raise Refusal(503, "no container can answer", retry_after=RETRY_SECONDS)
    return Response()
