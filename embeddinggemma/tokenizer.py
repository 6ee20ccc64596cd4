"""Text to token ids, truncated exactly as by the model's reference, at a limited cost."""

import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import tokenizers

from embeddinggemma.prompts import DOCUMENT_TASK, add_prompt

MAX_TOKENS = 2048  # config.json: max_position_embeddings; <bos> and <eos> count
MAX_TOKEN_CHARACTERS = 31  # runs of spaces, tabs or newlines are the longest; measured over the vocabulary

# The first 2,048 tokens lie within the first 2,048 x 31 characters. The tokenizer sees some more characters, so that a
# cut in the middle of a word can only change tokens that are dropped anyway.
_MIN_PREFIX = MAX_TOKENS * MAX_TOKEN_CHARACTERS
_MAX_PREFIX = 65_536

# Words, accents, scripts, an emoji, white space and a prompt, with their ids from the genuine tokenizer.json.
_PROBE = "title: none | text: Müller, 東京 \n\n🤖 été don't"
_PROBE_IDS = [
    *(2, 3250, 236787, 7293, 1109, 1816, 236787, 71503, 236764, 86459, 236743),
    *(108, 246143, 10267, 1537, 236789, 236745, 1),
]


@dataclass(frozen=True)
class TokenizedText:
    """The token ids of one text, at most 2,048, and how many there would have been."""

    ids: "array[int]"
    """<bos>, the prompt's and the text's tokens, <eos>; int32, because lists would take ten times the memory."""
    untruncated: int | None
    """Token count before truncation; None if the text is so long that counting its tokens would cost too much."""

    @property
    def truncated(self) -> bool:
        """Whether tokens were dropped."""
        return self.untruncated is None or self.untruncated > MAX_TOKENS


def check_whole(tokenized: "Sequence[TokenizedText]", single: bool = False) -> None:
    """Raise ValueError, which names the text, its tokens and the limit, if a text was truncated.

    single: whether the caller gave one text, and no list.
    """
    for position, text in enumerate(tokenized):
        if text.truncated:
            name, tokens = "text" if single else f"texts[{position}]", describe_tokens(text)
            raise ValueError(
                f"{name} has {tokens} tokens, prompt included; the limit is {MAX_TOKENS:,}, since truncate is false"
            )


def describe_tokens(text: "TokenizedText") -> str:
    """Return how many tokens a text had before it was truncated, for people."""
    return f"over {MAX_TOKENS:,}" if text.untruncated is None else f"{text.untruncated:,}"


@dataclass(frozen=True)
class Token:
    """One token of a text."""

    id: int
    text: str
    """The characters that it stands for; of a special token its name."""
    special: bool
    """Whether the tokenizer has added it: <bos> or <eos>."""
    start: int
    """Its first character in the text."""
    stop: int
    """The character after its last."""


class Tokenizer:
    """The genuine tokenizer of the model, from `tokenizer.json` in its folder."""

    def __init__(self, folder: Path) -> None:
        """Load the tokenizer.

        Raises:
            ValueError: it is another model's tokenizer, whose ids would mean other tokens to this model, or has more
                tokens than the model.

        """
        vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
        self._tokenizer = _with_known_tokens(tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")), vocab_size)
        if (tokens := self._tokenizer.get_vocab_size()) > vocab_size:
            raise ValueError(f"{folder / 'tokenizer.json'} has {tokens:,} tokens; config.json has {vocab_size:,}")
        if (ids := self._tokenizer.encode(_PROBE).ids) != _PROBE_IDS:
            raise ValueError(f"{folder / 'tokenizer.json'} is not EmbeddingGemma's: {_PROBE!r} gave {ids}")

    def tokenize(self, texts: Sequence[str]) -> list[TokenizedText]:
        """Tokenize texts (prompt included), each cut to 2,048 tokens, the last of them <eos>."""
        prefixes = [_prefix(text) for text in texts]
        encodings = self._tokenizer.encode_batch_fast(prefixes)
        return [
            _truncate(encoding.ids, whole=len(prefix) == len(text))
            for encoding, prefix, text in zip(encodings, prefixes, texts, strict=True)
        ]

    def check_title(self, title: str | None, room: int = 1) -> None:
        """Raise ValueError, which names the title's tokens and the limit, unless its prompt leaves room for a text.

        room: tokens that must be left for the text.
        """
        [prompt] = self.tokenize([add_prompt("", DOCUMENT_TASK, title)])
        if len(prompt.ids) > MAX_TOKENS - room:
            raise ValueError(
                f"title has {describe_tokens(prompt)} tokens, prompt included; the limit is {MAX_TOKENS - room:,}, so "
                "that there is room for the text"
            )

    def tokens(self, text: str, *, special: bool) -> list[Token]:
        """Return the tokens of a text, without truncation.

        special: whether <bos> and <eos> are added, as before the model sees a text.
        """
        encoding = self._tokenizer.encode(text, add_special_tokens=special)
        parts = zip(encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True)
        return [
            Token(token_id, name if added else text[start:stop], bool(added), start, stop)
            for token_id, name, added, (start, stop) in parts
        ]

    def token_starts(self, text: str) -> list[int]:
        """Return the character at which each token of a text begins: without prompt, <bos>, <eos> or truncation.

        A character that takes several tokens (its bytes) is there as many times. A text may have any length: it is
        tokenized prefix by prefix, so the time is linear.
        """
        prefixes = list(_prefixes(text))
        encodings = self._tokenizer.encode_batch(prefixes, add_special_tokens=False)
        before = accumulate(map(len, prefixes), initial=0)
        return [
            offset + start for offset, encoding in zip(before, encodings, strict=False) for start, _ in encoding.offsets
        ]


def _with_known_tokens(genuine: tokenizers.Tokenizer, vocab_size: int) -> tokenizers.Tokenizer:
    """Return the tokenizer with only those added tokens that the model has an embedding for.

    Gemma 3 reads images too, so its tokenizer has `<image_soft_token>`, whose id is one past this model's table. In a
    text that is now a word like any other. tokenizers cannot remove an added token, so this puts the tokenizer's parts
    together again, in 9 ms.
    """
    tokenizer = tokenizers.Tokenizer(genuine.model)
    tokenizer.normalizer = genuine.normalizer
    tokenizer.pre_tokenizer = genuine.pre_tokenizer
    tokenizer.post_processor = genuine.post_processor
    added = genuine.get_added_tokens_decoder()
    tokenizer.add_tokens([added[token_id] for token_id in sorted(added) if token_id < vocab_size])
    return tokenizer


def _prefixes(text: str) -> Iterator[str]:
    """Cut a text into pieces, at places that no token can span if such places are near (see _prefix)."""
    start = 0
    while start < len(text):
        prefix = _prefix(text[start : start + _MAX_PREFIX + 1])
        yield prefix
        start += len(prefix)


def turns(texts: Sequence[str]) -> Iterator[list[str]]:
    """Divide texts into lists of some 20 ms of work; between two lists other requests have their turn.

    If the caller goes away during one list, the lists after it are never tokenized.
    """
    turn: list[str] = []
    room = _MAX_PREFIX
    for text in texts:
        characters = min(len(text), _MAX_PREFIX)
        if turn and characters > room:
            yield turn
            turn, room = [], _MAX_PREFIX
        turn.append(text)
        room -= characters
    yield turn


def _truncate(ids: list[int], *, whole: bool) -> TokenizedText:
    untruncated = len(ids) if whole else None
    if len(ids) > MAX_TOKENS:
        ids = [*ids[: MAX_TOKENS - 1], ids[-1]]
    return TokenizedText(array("i", ids), untruncated)


def _prefix(text: str) -> str:
    """Return the start of a text that determines its first 2,048 tokens.

    The whole text is one word to the tokenizer's byte-pair merges, so a megabyte takes a third of a second. But in the
    vocabulary only the token '>▁</' has a space after another character, and no token has a newline next to another
    character. So a cut at such a place changes nothing before it. If there is no such place near, the cut falls
    anywhere, after all the tokens that are kept.
    """
    if len(text) <= _MAX_PREFIX:
        return text
    for end in range(_MAX_PREFIX, _MIN_PREFIX, -1):
        before, after = text[end - 1], text[end]
        if (after == " " and before not in " ▁>") or (after == "\n" and before != "\n"):
            return text[:end]
    return text[:_MAX_PREFIX]
