"""The names under which clients ask for the model, and what each means."""

from collections.abc import Iterator

from embeddinggemma.prompts import TASKS
from gateway.core.refusal import Refusal

NAME = "embeddinggemma-300m"
_NAMES = ("embeddinggemma-300m", "google/embeddinggemma-300m", "embeddinggemma")
_VARIANTS = ("", "300m", "latest")
"""What stands after Ollama's colon, for the only variant that there is."""


def task_of(model: str, default: str) -> str:
    """Return the task that a model's name asks for: `embeddinggemma-300m:retrieval_query`.

    Raises:
        Refusal: 404, it is no name of this model.

    """
    name, _, variant = model.partition(":")
    if name in _NAMES and variant in _VARIANTS:
        return default
    if name in _NAMES and variant in TASKS:
        return variant
    names = f"{NAME}, or {NAME}:TASK with TASK one of {', '.join(TASKS)}"
    raise Refusal(404, f"the model {model!r} does not exist here; there is {names}", "model", "model_not_found")


def all_names() -> Iterator[str]:
    """Yield the names to list: the model's own, and one for each task."""
    yield NAME
    for task in TASKS:
        yield f"{NAME}:{task}"
