"""The same request gives the same bytes, from one start of the server to the next."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from embeddinggemma.vectors import DIMENSIONS, OUTPUT_DTYPES
from tools.client import Client
from tools.evidence import Evidence
from tools.observed_server import KNOWN, ObservedServer
from tools.server import LocalServer

LENGTHS = [{"text": "word " * count} for count in (1, 2, 3, 5, 9, 17, 60, 200, 500, 1_000, 2_100)]
REQUESTS: list[dict[str, Any]] = [
    *LENGTHS,
    {"texts": [f"{n} " + "word " * n for n in range(64)]},
    *(KNOWN | {"embedding_dim": size, "output_dtype": kind} for size, kind in product(DIMENSIONS, OUTPUT_DTYPES)),
]


@pytest.mark.slow
def test_the_same_request_gives_the_same_bytes_after_a_restart(
    container: ObservedServer, tmp_path: Path, evidence: Evidence
) -> None:
    answers = [container.embedding(**request) for request in REQUESTS]
    assert [container.embedding(**request) for request in REQUESTS] == answers, "they differ even without a restart"
    with LocalServer(tmp_path / "log", weights="small", changes={"EMBEDDINGGEMMA_CACHE": str(tmp_path)}) as server:
        assert [Client(server.url).embedding(**request) for request in REQUESTS] == answers
    evidence.record(
        "Deterministic: the same request gives the same bytes across restarts, on one machine and setting",
        "two servers, one started after the other, each asked alone",
        f"{len(REQUESTS)} requests, of 1 to 2,048 tokens, 1 to 64 texts and every output type: equal to the last bit",
    )
