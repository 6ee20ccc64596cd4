"""The texts to embed: real English and code from the Python standard library, the same on every run."""

import random
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from embeddinggemma.tokenizer import Tokenizer

_SEED = 300


@dataclass(frozen=True)
class Workload:
    """Texts that are embedded in one call, and how an engine is timed with them in a round."""

    name: str
    """The letter of the measure."""
    title: str
    """The texts' lengths, for people."""
    texts: tuple[str, ...]
    """All are embedded in each call."""
    turns: int
    """How often each engine has its turn in a round."""
    calls: int
    """How many calls of a turn count."""
    warm: bool
    """Whether a call that does not count comes first: engines that take turns empty each other's caches, which does not
    happen in a container."""


def workloads(folder: Path) -> list[Workload]:
    """Return the workloads, measured in the tokens of the tokenizer in `folder`."""
    corpus = _Corpus(Tokenizer(folder))
    return [
        Workload("a", "12 tokens", (corpus.text(12),), turns=5, calls=8, warm=True),
        Workload("b", "128 tokens", (corpus.text(128),), turns=3, calls=5, warm=True),
        Workload("c", "2,048 tokens", (corpus.text(2048),), turns=3, calls=1, warm=True),
        Workload("d", "256 mixed texts", tuple(corpus.mixed(256)), turns=1, calls=1, warm=False),
    ]


def short_texts(folder: Path, count: int) -> list[str]:
    """Return different texts of 12 tokens."""
    corpus = _Corpus(Tokenizer(folder))
    return [corpus.text(12) for _ in range(count)]


class _Corpus:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._random = random.Random(_SEED)  # noqa: S311 - nothing here is secret
        library = Path(sysconfig.get_path("stdlib"))
        self._words = " ".join(path.read_text() for path in sorted(library.glob("*.py"))).split(" ")

    def text(self, tokens: int) -> str:
        """Return a text of exactly this many tokens, <bos> and <eos> included, from somewhere in the library."""
        start = self._random.randrange(len(self._words) - 20 * tokens)
        words = [word for word in self._words[start : start + 20 * tokens] if word]
        low, high = 0, len(words)
        while low < high:  # the longest run of words that is not too long
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._tokens(words[:middle]) <= tokens else (low, middle - 1)
        missing = tokens - self._tokens(words[:low])
        return " ".join([*words[:low], *["the"] * missing])

    def mixed(self, texts: int) -> list[str]:
        """Return texts of log-normal length: median 60 tokens, at most 1,000."""
        return [self.text(min(1000, max(8, round(self._random.lognormvariate(4.09, 0.9))))) for _ in range(texts)]

    def _tokens(self, words: list[str]) -> int:
        return len(self._tokenizer.tokenize([" ".join(words)])[0].ids)
