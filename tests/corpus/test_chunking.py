from itertools import pairwise
from pathlib import Path

import pytest

from embeddinggemma.corpus.chunking import chunk_spans
from embeddinggemma.corpus.options import JOINT_TOKENS, text_room
from embeddinggemma.prompts import TASKS, add_prompt
from embeddinggemma.tokenizer import Tokenizer
from tests.support.texts import LONG_TEXTS

SHORT_TEXTS = {
    "one letter": "x",
    "spaces around": "  \n two words \t ",
    "emoji family": "👩‍👩‍👧‍👦" * 20,
    "bytes": "\U0001fae8\ufffd\u200b\u0378" * 30,
    "a token that the model does not have": "<image_soft_token> is ordinary text\n" * 40,
    "special tokens": "<bos>a<eos><unused3>\n\n\n<table></td>" * 20,
}
TEXTS = SHORT_TEXTS | {name: text[:70_000] for name, text in LONG_TEXTS.items()}


@pytest.fixture(scope="module")
def tokenizer(small_model: Path) -> Tokenizer:
    return Tokenizer(small_model)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize(("chunk", "overlap"), [(16, 8), (16, 0), (500, 60)])
def test_chunks_cover_the_whole_text(tokenizer: Tokenizer, name: str, chunk: int, overlap: int) -> None:
    text = TEXTS[name][: 200 * chunk]
    spans = list(chunk_spans(tokenizer.token_starts(text), len(text), chunk, overlap))
    assert spans[0][0] == 0
    assert spans[-1][1] == len(text)
    assert all(start < end for start, end in spans)
    for (start, end), (next_start, next_end) in pairwise(spans):
        assert start < next_start <= end < next_end
        assert overlap or next_start == end


@pytest.mark.parametrize("name", TEXTS)
def test_the_largest_chunk_fits_into_2048_tokens_with_its_prompt(tokenizer: Tokenizer, name: str) -> None:
    text = TEXTS[name]
    for task in (TASKS[0], TASKS[1]):
        room = text_room(tokenizer, task, None)
        spans = chunk_spans(tokenizer.token_starts(text), len(text), room, room // 2)
        tokenized = tokenizer.tokenize([add_prompt(text[start:end], task) for start, end in spans])
        assert not any(chunk.truncated for chunk in tokenized)


@pytest.mark.parametrize("name", TEXTS)
def test_a_prompt_adds_at_most_a_few_tokens_where_it_joins_a_chunk(tokenizer: Tokenizer, name: str) -> None:
    text = TEXTS[name][:10_000]
    chunk, prompt = 16, len(tokenizer.tokenize([add_prompt("", TASKS[0])])[0].ids)
    spans = chunk_spans(tokenizer.token_starts(text), len(text), chunk, 0)
    tokenized = tokenizer.tokenize([add_prompt(text[start:end], TASKS[0]) for start, end in spans])
    assert max(len(tokens.ids) for tokens in tokenized) <= prompt + chunk + JOINT_TOKENS // 2


@pytest.mark.parametrize("overlap", [0, 3])
def test_neighbouring_chunks_share_the_overlap(overlap: int) -> None:
    spans = list(chunk_spans(list(range(0, 100, 2)), 100, 16, overlap))
    assert spans[0] == (0, 32)
    assert spans[1] == (32 - 2 * overlap, 64 - 2 * overlap)


def test_the_starts_are_those_of_the_tokens_of_the_whole_text(tokenizer: Tokenizer) -> None:
    text = LONG_TEXTS["mixed"]
    assert len(text) > 3 * 65_536
    starts = tokenizer.token_starts(text)
    whole = [start for start, _ in tokenizer._tokenizer.encode(text, add_special_tokens=False).offsets]
    assert starts == whole
