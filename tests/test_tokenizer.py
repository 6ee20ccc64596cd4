import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from embeddinggemma.tokenizer import MAX_TOKEN_CHARACTERS, MAX_TOKENS, Tokenizer, turns
from tests.support.texts import ENGLISH, LONG_TEXTS

BOS, EOS = 2, 1


@pytest.fixture(scope="module")
def tokenizer(small_model: Path) -> Tokenizer:
    return Tokenizer(small_model)


@pytest.fixture(scope="module")
def reference(small_model: Path) -> tokenizers.Tokenizer:
    """The same library, given the whole text and its own truncation."""
    reference = tokenizers.Tokenizer.from_file(str(small_model / "tokenizer.json"))
    reference.enable_truncation(MAX_TOKENS)
    return reference


@pytest.mark.parametrize("name", LONG_TEXTS)
def test_a_long_texts_ids_are_those_of_the_whole_text(
    tokenizer: Tokenizer, reference: tokenizers.Tokenizer, name: str
) -> None:
    text = LONG_TEXTS[name]
    assert len(text) > 65_536
    [tokenized] = tokenizer.tokenize([text])
    assert list(tokenized.ids) == reference.encode(text).ids
    assert tokenized.truncated


def _text_of(tokenizer: Tokenizer, tokens: int) -> str:
    text = "word" + " word" * (tokens - 3)  # one token each, besides <bos> and <eos>
    assert tokenizer.tokenize([text])[0].untruncated == tokens
    return text


@pytest.mark.parametrize("tokens", [3, 2047, 2048, 2049, 10_000])
def test_at_most_2048_tokens_are_kept_between_bos_and_eos(tokenizer: Tokenizer, tokens: int) -> None:
    [tokenized] = tokenizer.tokenize([_text_of(tokenizer, tokens)])
    assert len(tokenized.ids) == min(tokens, MAX_TOKENS)
    assert (tokenized.ids[0], tokenized.ids[-1]) == (BOS, EOS)
    assert EOS not in tokenized.ids[:-1]
    assert tokenized.truncated == (tokens > MAX_TOKENS)
    assert tokenized.untruncated == tokens


def test_a_text_beyond_counting_is_truncated_without_a_count(tokenizer: Tokenizer) -> None:
    [tokenized] = tokenizer.tokenize([ENGLISH * 100_000])
    assert tokenized.truncated
    assert tokenized.untruncated is None
    assert len(tokenized.ids) == MAX_TOKENS


def test_a_batch_keeps_its_order(tokenizer: Tokenizer) -> None:
    texts = ["one", ENGLISH * 2000, "two words"]
    assert tokenizer.tokenize(texts) == [tokenizer.tokenize([text])[0] for text in texts]


def test_the_vocabulary_allows_the_cut(reference: tokenizers.Tokenizer) -> None:
    """Cutting relies on the longest token, and on the tokens that join a space or newline to the text before it."""
    vocabulary = reference.get_vocab()
    assert max(map(len, vocabulary)) == MAX_TOKEN_CHARACTERS
    assert [token for token in vocabulary if "▁" in token.lstrip("▁")] == [">▁</"]
    assert not [token for token in vocabulary if "\n" in token and token.strip("\n")]


def _swap_two_words(data: dict[str, Any]) -> None:
    words = data["model"]["vocab"]
    words["▁text"], words["▁none"] = words["▁none"], words["▁text"]


@pytest.mark.parametrize(
    "change",
    [
        _swap_two_words,
        pytest.param(lambda data: data.update(post_processor=None), marks=pytest.mark.slow),  # neither <bos> nor <eos>
        pytest.param(lambda data: data.update(normalizer={"type": "Lowercase"}), marks=pytest.mark.slow),
    ],
)
def test_another_tokenizer_is_refused(
    small_model: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    data = json.loads((small_model / "tokenizer.json").read_text())
    change(data)
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"tokenizer\.json is not EmbeddingGemma's"):
        Tokenizer(tmp_path)


def test_turns_hold_all_texts_in_order_with_little_work_each() -> None:
    texts = [*["short"] * 30_000, ENGLISH * 100_000, *[ENGLISH * 300] * 9, "short"]
    cut = list(turns(texts))
    assert [text for portion in cut for text in portion] == texts
    assert max(sum(min(len(text), 65_536) for text in portion) for portion in cut) <= 65_536
    assert len(cut) == 3 + 1 + 5
