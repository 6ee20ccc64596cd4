"""Texts to vectors, from a container or from Replicate: the other examples import this file."""

import base64
import os
import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

URL = os.environ.get("EMBEDDINGGEMMA_URL", "http://127.0.0.1:5000")
MAX_TEXTS = 1024  # per request

# HTTP 409 says that the container has no free slot right now. No other error is worth another try.
_RETRIES = Retry(
    10, connect=0, read=0, status_forcelist=[409], allowed_methods=None, backoff_factor=0.1, raise_on_status=False
)
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1", "0.0.0.0")  # noqa: S104 - no proxy can reach it


def embed(texts: Sequence[str], task: str, where: str = URL, embedding_dim: int = 768) -> npt.NDArray[np.float32]:
    """Return a vector of length 1 for each text, [texts, embedding_dim].

    where: a container's URL, or a model's name on Replicate, whose client raises its own errors.
    Raises RuntimeError with the reason if the container refuses, and ConnectionError if no container answers.
    """
    parts = [np.empty((0, embedding_dim), np.float32)]
    for start in range(0, len(texts), MAX_TEXTS):
        inputs = {"texts": list(texts[start : start + MAX_TEXTS]), "task": task, "embedding_dim": embedding_dim}
        try:
            output = ask(where, inputs)
        except Exception as error:
            error.add_note(f"This request began with texts[{start}].")
            raise
        parts.append(np.frombuffer(base64.b64decode(output["embedding"]), "<f4").reshape(output["shape"]))
    return np.concatenate(parts)


def ask(where: str, inputs: dict[str, Any]) -> Any:
    """Return the output of a prediction; where and errors are as for `embed`."""
    if "://" not in where:
        return _from_replicate(where, inputs)
    with requests.Session() as session:
        session.trust_env = urlsplit(where).hostname not in _THIS_MACHINE
        session.mount(where, HTTPAdapter(max_retries=_RETRIES))
        try:
            response = session.post(f"{where.rstrip('/')}/predictions", json={"input": inputs}, timeout=600)
        except requests.ConnectionError as error:
            raise ConnectionError(f"no container answers at {where}, EMBEDDINGGEMMA_URL: {error}") from None
    try:
        prediction = response.json()
    except requests.JSONDecodeError:  # a proxy's page, or the container's answer to what is not JSON
        prediction = {}
    if prediction.get("status") != "succeeded":
        reason = prediction.get("error") or prediction.get("detail") or response.text[:300]
        raise RuntimeError(f"{where} answers HTTP {response.status_code}: {reason}")
    return prediction["output"]


def _from_replicate(model: str, inputs: dict[str, Any]) -> Any:
    if not re.fullmatch(r"[\w-]+/[\w.-]+(:\w+)?", model):
        raise ValueError(f"{model!r} is no URL (http://...) and no model's name on Replicate (owner/name)")
    import replicate  # needed only for a model on Replicate

    return replicate.run(model, input=inputs)


def run(main: Callable[[], None], asked: str = "") -> None:
    """Run an example's main(); what goes wrong ends it with a sentence, which begins with whom main() asked."""
    try:
        main()
    except Exception as error:
        raise SystemExit(f"{asked}{error}") from None
