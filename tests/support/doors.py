"""The gateway's doors: how each is asked, and how each says that something is wrong."""

from collections.abc import Mapping
from typing import Any

from tests.support.replicate import MODEL

PATHS = {
    "openai": "/v1/embeddings",
    "tei": "/embed",
    "ollama": "/api/embed",
    "replicate": f"/v1/models/{MODEL}/predictions",
    "cog": "/predictions",
}


def body_of(door: str, text: Any) -> dict[str, Any]:
    """Return what a client sends to a door for a text, or for a list of texts."""
    if door == "openai":
        return {"model": "embeddinggemma-300m", "input": text}
    if door == "tei":
        return {"inputs": text}
    if door == "ollama":
        return {"model": "embeddinggemma", "input": text}
    return {"input": {"texts" if isinstance(text, list) else "text": text}}


def message_of(door: str, answer: Mapping[str, Any]) -> str:
    """Return the message of an error, which must have the door's shape."""
    if door == "openai":
        assert set(answer) == {"error"}
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        return str(answer["error"]["message"])
    if door == "tei":
        assert set(answer) == {"error", "error_type"}
    if door == "ollama":
        assert set(answer) == {"error"}
    if door == "replicate":
        assert {"title", "detail", "status"} <= set(answer)
    if door == "cog":
        assert set(answer) == {"detail"}
    return str(answer["error"] if door in ("tei", "ollama") else answer["detail"])
