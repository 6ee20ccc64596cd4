import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings

from embeddinggemma.prompts import DOCUMENT_TASK, add_prompt
from embeddinggemma.tokenizer import MAX_TOKEN_CHARACTERS, MAX_TOKENS, Tokenizer, turns
from tests.support.texts import CONTROL_TOKENS, ENGLISH, HOSTILE, IMAGE_TOKEN, LONG_TEXTS, ODD_TEXTS

BOS, EOS = 2, 1
VOCABULARY = 262_144  # config.json: vocab_size


@pytest.fixture(scope="module")
def tokenizer(small_model: Path) -> Tokenizer:
    return Tokenizer(small_model)


@pytest.fixture(scope="module")
def reference(small_model: Path) -> tokenizers.Tokenizer:
    """The same library, given the whole text and its own truncation."""
    reference = tokenizers.Tokenizer.from_file(str(small_model / "tokenizer.json"))
    reference.enable_truncation(MAX_TOKENS)
    return reference


@pytest.fixture(scope="module")
def without_image_token(small_model: Path) -> tokenizers.Tokenizer:
    """The same library, given a tokenizer.json in which the image's token is not written."""
    data = json.loads((small_model / "tokenizer.json").read_text())
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] != IMAGE_TOKEN]
    return tokenizers.Tokenizer.from_str(json.dumps(data))


def _assert_read_alike(tokenizer: Tokenizer, reference: tokenizers.Tokenizer, texts: Sequence[str]) -> None:
    """The ids and, for chunks, where each token begins are the reference's; the model has an embedding for each id."""
    encodings = reference.encode_batch(texts)
    for text, tokenized, expected in zip(texts, tokenizer.tokenize(texts), encodings, strict=True):
        assert list(tokenized.ids) == expected.ids, text
        assert max(expected.ids) < VOCABULARY
        assert tokenizer.token_starts(text) == [start for start, _ in expected.offsets[1:-1]], text


@pytest.mark.parametrize("name", LONG_TEXTS)
def test_a_long_texts_ids_are_those_of_the_whole_text(
    tokenizer: Tokenizer, reference: tokenizers.Tokenizer, name: str
) -> None:
    text = LONG_TEXTS[name]
    assert len(text) > 65_536
    [tokenized] = tokenizer.tokenize([text])
    assert list(tokenized.ids) == reference.encode(text).ids
    assert tokenized.truncated


@pytest.mark.parametrize("name", LONG_TEXTS)
def test_pieces_of_every_language_are_read_as_by_the_reference(
    tokenizer: Tokenizer, reference: tokenizers.Tokenizer, name: str
) -> None:
    text = LONG_TEXTS[name]
    pieces = [text[start : start + 1 + start % 389] for start in range(0, 60_000, 97)]
    _assert_read_alike(tokenizer, reference, pieces)


@pytest.mark.parametrize("name", ODD_TEXTS)
def test_an_odd_text_is_read_as_by_the_reference(
    tokenizer: Tokenizer, reference: tokenizers.Tokenizer, name: str
) -> None:
    _assert_read_alike(tokenizer, reference, [ODD_TEXTS[name], add_prompt(ODD_TEXTS[name], DOCUMENT_TASK)])


def test_every_other_added_token_is_read_as_by_the_reference(
    tokenizer: Tokenizer, reference: tokenizers.Tokenizer
) -> None:
    added = [token.content for token in reference.get_added_tokens_decoder().values() if token.content != IMAGE_TOKEN]
    assert len(added) == 6414
    assert set(CONTROL_TOKENS) - {"<0x0A>"} <= set(added)
    _assert_read_alike(tokenizer, reference, [text for token in added for text in (token, f"a {token}{token} b")])


@pytest.mark.parametrize(
    "text",
    [
        IMAGE_TOKEN,
        f"the token {IMAGE_TOKEN} is used by Gemma 3",
        IMAGE_TOKEN * 50,
        f"<{IMAGE_TOKEN}>",
        f"<bos>{IMAGE_TOKEN}<eos>\n\n{IMAGE_TOKEN}\n",
        f"<image_soft{IMAGE_TOKEN}_token>",
        add_prompt("text", DOCUMENT_TASK, f"A title with {IMAGE_TOKEN}"),
    ],
)
def test_a_token_that_the_model_does_not_have_is_ordinary_text(
    tokenizer: Tokenizer, reference: tokenizers.Tokenizer, without_image_token: tokenizers.Tokenizer, text: str
) -> None:
    assert VOCABULARY in reference.encode(text).ids
    _assert_read_alike(tokenizer, without_image_token, [text])


@settings(max_examples=500, derandomize=True, database=None, deadline=None)
@given(text=HOSTILE)
def test_no_text_is_read_as_a_token_that_the_model_does_not_have(
    tokenizer: Tokenizer, without_image_token: tokenizers.Tokenizer, text: str
) -> None:
    _assert_read_alike(tokenizer, without_image_token, [text])


def test_control_tokens_in_a_text_stay_control_tokens(tokenizer: Tokenizer) -> None:
    [tokenized] = tokenizer.tokenize(["a<eos><bos>b<pad>"])
    assert list(tokenized.ids) == [BOS, 236746, EOS, BOS, 236763, 0, EOS]


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
    (tmp_path / "config.json").symlink_to(small_model / "config.json")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not EmbeddingGemma's"):
        Tokenizer(tmp_path)


def _with_vocabulary(small_model: Path, folder: Path, size: int) -> Path:
    (folder / "tokenizer.json").symlink_to(small_model / "tokenizer.json")
    (folder / "config.json").write_text(json.dumps({"vocab_size": size}))
    return folder


def test_a_token_that_a_larger_model_has_is_kept(
    small_model: Path, tmp_path: Path, reference: tokenizers.Tokenizer
) -> None:
    larger = Tokenizer(_with_vocabulary(small_model, tmp_path, VOCABULARY + 64))
    assert list(larger.tokenize([IMAGE_TOKEN])[0].ids) == reference.encode(IMAGE_TOKEN).ids == [BOS, VOCABULARY, EOS]


def test_a_tokenizer_with_more_words_than_the_model_is_refused(small_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.json has 262,144 tokens; config\.json has 262,143"):
        Tokenizer(_with_vocabulary(small_model, tmp_path, VOCABULARY - 1))


def _title_of(tokenizer: Tokenizer, tokens: int) -> str:
    """Return a title that makes the prompt, with <bos> and <eos>, have this many tokens."""
    [untitled] = tokenizer.tokenize([add_prompt("", DOCUMENT_TASK, "word")])
    title = "word" + " word" * (tokens - len(untitled.ids))
    assert tokenizer.tokenize([add_prompt("", DOCUMENT_TASK, title)])[0].untruncated == tokens
    return title


@pytest.mark.parametrize("texts", [["word", "other"], ["東京", "京都"], ["\nword", "\tword"], [" a", "  a"]])
def test_the_longest_title_leaves_something_of_every_text(tokenizer: Tokenizer, texts: list[str]) -> None:
    longest = _title_of(tokenizer, MAX_TOKENS - 1)
    tokenizer.check_title(longest)
    first, second = tokenizer.tokenize([add_prompt(text, DOCUMENT_TASK, longest) for text in texts])
    assert first.ids != second.ids
    too_long = _title_of(tokenizer, MAX_TOKENS)
    with pytest.raises(ValueError, match=r"^title has 2,048 tokens, prompt included; the limit is 2,047"):
        tokenizer.check_title(too_long)


def test_a_title_without_an_end_is_refused_without_a_count(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"^title has over 2,048 tokens, prompt included"):
        tokenizer.check_title("word " * 100_000)


def test_more_room_than_one_token_can_be_asked_for(tokenizer: Tokenizer) -> None:
    title = _title_of(tokenizer, 2024)
    tokenizer.check_title(title, room=24)
    with pytest.raises(ValueError, match=r"title has 2,024 tokens, prompt included; the limit is 2,023"):
        tokenizer.check_title(title, room=25)


def test_no_title_leaves_room(tokenizer: Tokenizer) -> None:
    tokenizer.check_title(None)
    tokenizer.check_title("")


def test_turns_hold_all_texts_in_order_with_little_work_each() -> None:
    texts = [*["short"] * 30_000, ENGLISH * 100_000, *[ENGLISH * 300] * 9, "short"]
    cut = list(turns(texts))
    assert [text for portion in cut for text in portion] == texts
    assert max(sum(min(len(text), 65_536) for text in portion) for portion in cut) <= 65_536
    assert len(cut) == 3 + 1 + 5
