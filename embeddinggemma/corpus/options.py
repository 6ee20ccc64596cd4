"""What the vectors of a corpus depend on, besides its rows and the weights; invalid values are refused here."""

from dataclasses import dataclass

from embeddinggemma.prompts import DOCUMENT_TASK, TASKS, add_prompt
from embeddinggemma.tokenizer import MAX_TOKENS, Tokenizer
from embeddinggemma.validation import check_choice
from embeddinggemma.vectors import DIMENSIONS, OUTPUT_DTYPES

MIN_CHUNK = 16  # tokens: a character takes up to four, so even with half of them repeated each chunk gets ahead

# The prompt ends in a space, which joins a chunk's first word, so the word may be split into other tokens. Measured
# on 121,000 chunks of many scripts, code and white space: from three tokens fewer to two tokens more.
JOINT_TOKENS = 8


@dataclass(frozen=True)
class Options:
    """How rows become vectors; the names are those of the command line."""

    text_column: str = "text"
    id_column: str | None = None
    """None: the id is made from the file's name and the row's number."""
    title_column: str | None = None
    task: str = DOCUMENT_TASK
    dimension: int = 768
    dtype: str = "float32"
    text: bool = True
    """Whether the texts are written along with their vectors."""
    chunk: int | None = None
    """Tokens of text per vector; None: one vector per row, of its first 2,048 tokens."""
    overlap: int = 0
    """Tokens of the chunk before it that a chunk repeats."""
    truncate: bool = True
    """Whether the text of a vector is cut after 2,048 tokens; otherwise its row is rejected."""
    rows_per_part: int = 10_000
    encoding: str = "utf-8"
    """Of files of text: JSON, CSV and plain text."""
    delimiter: str | None = None
    """Between the fields of CSV; None: a comma, and a tab in .tsv files."""
    quotes: bool = True
    """Whether quotes in CSV can enclose a field; otherwise they are ordinary characters."""

    def __post_init__(self) -> None:
        """Refuse invalid values, and options that contradict each other.

        Raises:
            ValueError: the message names the option, the limit and the value.

        """
        check_choice("--task", self.task, TASKS)
        check_choice("--dimension", self.dimension, DIMENSIONS)
        check_choice("--dtype", self.dtype, OUTPUT_DTYPES)
        if self.title_column and self.task != DOCUMENT_TASK:
            raise ValueError(f"--title-column goes with --task {DOCUMENT_TASK} only; the task is {self.task}")
        if not self.truncate and self.chunk is not None:
            raise ValueError("--no-truncate goes without --chunk, which cuts nothing off")
        if self.rows_per_part < 1:
            raise ValueError(f"--rows-per-part is {self.rows_per_part}; it must be at least 1")
        if self.chunk is None and self.overlap:
            raise ValueError("--overlap goes with --chunk only")
        if self.chunk is not None and self.chunk < MIN_CHUNK:
            raise ValueError(f"--chunk is {self.chunk}; it must be at least {MIN_CHUNK} tokens")
        if self.chunk is not None and not 0 <= self.overlap <= self.chunk // 2:
            raise ValueError(
                f"--overlap is {self.overlap}; it must be between 0 and half of --chunk, {self.chunk // 2}"
            )

        _check_encoding(self.encoding)
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise ValueError(f"--delimiter is {self.delimiter!r}; it must be one character, and no quote or line break")

    @property
    def columns(self) -> dict[str, str]:
        """Return the columns that are read, each with the option that chooses it."""
        chosen = {
            "--text-column": self.text_column,
            "--id-column": self.id_column,
            "--title-column": self.title_column,
        }
        return {column: option for option, column in chosen.items() if column}

    def check_chunk(self, tokenizer: Tokenizer) -> None:
        """Refuse chunks that do not fit into the model's 2,048 tokens, even without a title.

        Raises:
            ValueError: the message says how large a chunk may be.

        """
        room = text_room(tokenizer, self.task, None)
        if self.chunk is not None and self.chunk > room:
            raise ValueError(f"--chunk is {self.chunk:,}; with the prompt at most {room:,} tokens of text fit")


def _check_encoding(encoding: str) -> None:
    try:
        "".encode(encoding)
    except (LookupError, UnicodeError, ValueError):
        raise ValueError(
            f"--encoding is {encoding!r}, which Python does not know; some that it does: utf-8, utf-16, cp1252, "
            "latin-1, shift_jis, gb18030"
        ) from None


def text_room(tokenizer: Tokenizer, task: str, title: str | None) -> int:
    """Return how many tokens of a text are sure to fit along with its prompt, <bos> and <eos>."""
    return MAX_TOKENS - len(tokenizer.tokenize([add_prompt("", task, title)])[0].ids) - JOINT_TOKENS
