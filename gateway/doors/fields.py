"""Fields of a request's body, checked: what is wrong is said with the field's name, the limit and the value."""

from collections.abc import Collection, Mapping
from typing import Any

from embeddinggemma.validation import a_type
from embeddinggemma.vectors import DIMENSIONS
from gateway.core.refusal import Refusal

Body = Mapping[str, Any]
"""A request's body. A field that is null is as good as absent."""


def texts_of(body: Body, field: str) -> list[str]:
    """Return the texts of a field that holds one string or a list of strings."""
    given = body.get(field)
    if given is None:
        raise Refusal(400, f"{field} is missing; give a string, or a list of strings", field)
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list):
        raise Refusal(400, f"{field} is {a_type(given)}; it must be a string, or a list of strings", field)
    for position, text in enumerate(given):
        if isinstance(text, int | list):
            message = (
                f"{field} has token ids, which are another model's; send the text as a string "
                "(LangChain's OpenAIEmbeddings does so with check_embedding_ctx_length=False)"
            )
            raise Refusal(400, message, field)
        if not isinstance(text, str):
            raise Refusal(400, f"{field}[{position}] is {a_type(text)}; it must be a string", field)
    return given


def string_of(body: Body, field: str) -> str | None:
    """Return a field that holds a string, or None."""
    given = body.get(field)
    if given is None or isinstance(given, str):
        return given
    raise Refusal(400, f"{field} is {a_type(given)}; it must be a string", field)


def flag_of(body: Body, field: str, *, default: bool) -> bool:
    """Return a field that holds true or false."""
    given = body.get(field)
    if given is None or isinstance(given, bool):
        return default if given is None else given
    raise Refusal(400, f"{field} is {a_type(given)}; it must be true or false", field)


def choice_of(body: Body, field: str, choices: Collection[str], default: str) -> str:
    """Return a field that holds one of some words."""
    given = string_of(body, field)
    if given is None or given in choices:
        return default if given is None else given
    raise Refusal(400, f"{field} is {given!r}; it must be one of {', '.join(choices)}", field)


def dimension_of(body: Body) -> int:
    """Return how many numbers a vector is to have."""
    given = body.get("dimensions")
    if given is None:
        return DIMENSIONS[0]
    if isinstance(given, bool) or given not in DIMENSIONS:
        choices = ", ".join(map(str, DIMENSIONS))
        value = repr(given) if isinstance(given, int | float | str) else a_type(given)
        raise Refusal(400, f"dimensions is {value}; it must be one of {choices}", "dimensions")
    return int(given)
