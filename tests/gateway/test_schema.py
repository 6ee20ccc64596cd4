"""OpenAI's door, asked by schemathesis: right and wrong requests, made from the types of OpenAI's own client."""

from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from openai.types import CreateEmbeddingResponse, EmbeddingCreateParams
from pydantic import TypeAdapter
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from gateway.core.models import all_names
from tests.support.doors import message_of

ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}


def described() -> dict[str, Any]:
    """Return an OpenAPI description of the route, with this model's names, dimensions and only floats."""
    request = TypeAdapter(EmbeddingCreateParams).json_schema()
    text = {"type": "string", "maxLength": 50, "pattern": r"\S"}
    request["properties"] |= {
        "input": {"anyOf": [text, {"type": "array", "items": text, "minItems": 1, "maxItems": 5}]},
        "model": {"enum": list(all_names())},
        "dimensions": {"enum": [768, 512, 256, 128]},
        "encoding_format": {"enum": ["float"]},
    }
    answer = CreateEmbeddingResponse.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas = answer.pop("$defs")

    def answered(description: str, schema: dict[str, Any]) -> dict[str, Any]:
        return {"description": description, "content": {"application/json": {"schema": schema}}}

    operation = {
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": {
            "200": answered("vectors", answer),
            **{str(status): answered("refused", ERROR) for status in (400, 404, 405, 413)},
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "OpenAI's embeddings", "version": "1"},
        "paths": {"/v1/embeddings": {"post": operation}},
        "components": {"schemas": schemas},
    }


@pytest.mark.parametrize("mode", GenerationMode)
def test_requests_made_from_the_description(gateway: str, mode: GenerationMode, full: bool) -> None:
    api = schemathesis.openapi.from_dict(described())
    [operation] = [found.ok() for found in api.get_all_operations() if isinstance(found, Ok)]
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=600 if full else 30,
        derandomize=not full,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case[Any]) -> None:
        response = case.call(base_url=gateway, timeout=600)
        statuses[response.status_code] += 1
        checks = [not_a_server_error, status_code_conformance, response_schema_conformance]
        case.validate_response(response, checks=checks)
        if response.status_code != 200:
            message_of("openai", response.json())

    ask()
    if mode == GenerationMode.POSITIVE:
        assert set(statuses) == {200}
    else:
        assert statuses[400]
