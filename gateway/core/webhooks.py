"""Where a webhook may be sent: only to hosts that the operator has named."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from gateway.core.refusal import Refusal
from gateway.core.settings import Settings


def check_webhook(body: Mapping[str, Any], settings: Settings) -> None:
    """Raise a Refusal if the body names a webhook whose host is not on the operator's list."""
    webhook = body.get("webhook")
    if webhook is None:
        return
    if not isinstance(webhook, str) or not is_allowed(webhook, settings.webhook_hosts):
        allowed = ", ".join(settings.webhook_hosts) or "none"
        message = f"webhook must be an http or https URL of a host that this gateway allows (--webhook-host): {allowed}"
        raise Refusal(422, message, "webhook")


def is_allowed(url: str, hosts: tuple[str, ...]) -> bool:
    """Return whether a URL is that of a host on the operator's list."""
    try:
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return parts.scheme in ("http", "https") and host in hosts and "@" not in parts.netloc
    except ValueError:
        return False
