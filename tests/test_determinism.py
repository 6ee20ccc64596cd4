"""The same request gives the same bytes, no matter which other texts are encoded with it."""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from embeddinggemma.engine.encoder import Encoder, load_encoder
from embeddinggemma.engine.linear import onednn_works
from tests.support.servers import RunningServer

TEXTS = ["Mars is red.", "Venus is hot. " * 20, "木星は大きい。", "x", "🪐 " * 90, "Attention. " * 300]
LENGTHS = (9, 9, 10, 11, 12, 13, 16, 17, 33, 64, 65, 100, 128, 129, 200, 256, 257, 300, 513, 700, 1000)


def _embedding(server: RunningServer, text: str) -> str:
    return str(server.predict(text=text)["embedding"])


def test_the_log_says_what_the_bytes_depend_on(server: RunningServer) -> None:
    [line] = [line for line in server.log.read_text().splitlines() if "running: {" in line]
    for name in ("model", "weights", "engine", "dtype", "operators", "device", "threads", "tokens_per_batch"):
        assert f'\\"{name}\\"' in line


def test_other_requests_change_no_bit_of_a_servers_answer(server: RunningServer) -> None:
    if not onednn_works(torch.float32):
        pytest.skip("only oneDNN's products are the same in every batch")
    alone = [_embedding(server, text) for text in TEXTS]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda text: _embedding(server, text), TEXTS * 20))
    assert answers == alone * 20


@pytest.fixture(scope="module")
def encoder(model: Path) -> Encoder:
    return load_encoder(model)


def test_other_texts_change_no_bit_of_a_vector(encoder: Encoder) -> None:
    if not onednn_works(torch.float32):
        pytest.skip("only oneDNN's products are the same in every batch")
    numbers = random.Random(0)  # noqa: S311
    texts = [[2, *(numbers.randrange(3, 262_144) for _ in range(length - 2)), 1] for length in LENGTHS]
    alone = [encoder.encode([text]).tobytes() for text in texts]
    for _ in range(5):
        batch = numbers.choices(range(12), k=40) + numbers.choices(range(len(texts)), k=3)
        together = encoder.encode([texts[position] for position in batch])
        assert [vector.tobytes() for vector in together] == [alone[position] for position in batch]
