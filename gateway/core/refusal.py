"""Why a request is not answered; each door says it in its clients' own words."""

from dataclasses import dataclass

TOO_LONG = "context_length_exceeded"
"""OpenAI's code for a text that has too many tokens."""


@dataclass
class Refusal(Exception):
    """A request that is refused, or that no container could answer."""

    status: int
    """The HTTP status."""
    message: str
    field: str | None = None
    """The field of the request's body that is at fault."""
    code: str | None = None
    """A short name for the reason, which programs can compare: `model_not_found`."""
    retry_after: int | None = None
    """Seconds after which the client may ask again."""

    def __str__(self) -> str:
        return self.message
