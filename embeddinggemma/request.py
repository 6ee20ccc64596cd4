"""One request, checked: an invalid request is refused here, before it costs a forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from embeddinggemma.prompts import add_prompt
from embeddinggemma.validation import check_choice, check_string, check_text, check_texts
from embeddinggemma.vectors import DIMENSIONS, OUTPUT_DTYPES, OUTPUT_FORMATS

MAX_TEXTS = 1024
MAX_NUMBERS = 49_152
"""Of an array answer: 64 vectors.

Cog's server reads the numbers back twice, and other requests wait meanwhile. A short text beside such answers took, at
p99 on two cores and in one run, 68 ms with 64 vectors, 93 with 96 and 143 with 128. `scripts/promises --full overload`
measured 96 ms with 64 in a slower hour.
"""
_SMALL_TEXTS, _SMALL_CHARACTERS = 4, 2000


@dataclass(frozen=True)
class Request:
    """What a caller asks for."""

    prompted: tuple[str, ...]
    """The texts with their prompts, in the caller's order; none, if they are in a file."""
    task: str
    title: str | None
    """The title in each of these prompts."""
    single: bool
    """Whether the caller gave `text`, and so gets a vector instead of a list with one vector."""
    dimension: int
    normalize: bool
    output_format: str
    output_dtype: str
    truncate: bool
    skip_invalid: bool
    """Whether rows of a file that cannot be embedded are left out; otherwise they fail the request."""
    upload_url: str | None
    """Where a file of vectors is stored, instead of within the answer."""

    @property
    def is_small(self) -> bool:
        """Whether it can be tokenized and answered on the event loop: less than a millisecond of work."""
        return len(self.prompted) <= _SMALL_TEXTS and sum(map(len, self.prompted)) <= _SMALL_CHARACTERS


def check_request(
    *,
    text: str | None,
    texts: Sequence[str] | None,
    texts_file: object,
    task: str,
    title: str | None,
    embedding_dim: int,
    normalize: bool,
    output_format: str,
    output_dtype: str,
    truncate: bool,
    skip_invalid: bool,
    upload_url: str | None,
) -> Request:
    """Return the request if it can be answered.

    Raises:
        ValueError: an input is missing or out of its limits; the message names the input, the limit and the value.

    """
    check_choice("embedding_dim", embedding_dim, DIMENSIONS)
    check_choice("output_format", output_format, OUTPUT_FORMATS)
    check_choice("output_dtype", output_dtype, OUTPUT_DTYPES)
    if title is not None:
        check_string("title", title)
    _check_one_given(text=text, texts=texts, texts_file=texts_file)
    if texts_file is None:
        _check_no_file_options(skip_invalid, upload_url)
    else:
        _check_file(texts_file, output_format, upload_url)
    add_prompt("", task, title)  # refuses what goes with no text
    prompted = tuple(add_prompt(given, task, title) for given in _check_texts(text, texts))
    dimension = int(embedding_dim)  # JSON may write 128 as 128.0
    if output_format == "array":
        _check_numbers(len(prompted), dimension // 8 if output_dtype == "ubinary" else dimension)
    return Request(
        prompted,
        task,
        title,
        text is not None,
        dimension,
        normalize,
        output_format,
        output_dtype,
        truncate,
        skip_invalid,
        upload_url,
    )


def _check_numbers(texts: int, numbers: int) -> None:
    if texts * numbers > MAX_NUMBERS:
        raise ValueError(
            f"output_format is array: {texts:,} texts of {numbers} numbers are {texts * numbers:,} numbers; the limit "
            f"is {MAX_NUMBERS:,}, so use base64 or send several requests"
        )


def _check_one_given(**inputs: object) -> None:
    given = [name for name, value in inputs.items() if value is not None]
    if len(given) != 1:
        what = f"{' and '.join(given)} were given together" if given else "no text was given"
        raise ValueError(f"{what}; give one of text, texts and texts_file")


def _check_no_file_options(skip_invalid: bool, upload_url: str | None) -> None:
    if skip_invalid:
        raise ValueError("skip_invalid is true; it goes with texts_file only")
    if upload_url is not None:
        raise ValueError("upload_url was given; it goes with texts_file only")


def _check_file(texts_file: object, output_format: str, upload_url: str | None) -> None:
    if not isinstance(texts_file, Path):  # what Cog's server has not fetched, such as the path of a file of our own
        raise ValueError("texts_file is no file; give an http or https URL, or a data URI")
    if output_format == "array":
        raise ValueError("output_format is array; with texts_file the vectors are a file, so leave output_format out")
    if upload_url is not None and not _is_url(upload_url):
        raise ValueError("upload_url is no URL; give an http or https URL that takes a PUT")


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _check_texts(text: str | None, texts: Sequence[str] | None) -> Sequence[str]:
    if text is not None:
        check_text("text", text)
        return [text]
    if texts is None:
        return []
    if not texts:
        raise ValueError(f"texts is empty; give between 1 and {MAX_TEXTS:,} texts")
    if len(texts) > MAX_TEXTS:
        raise ValueError(
            f"texts has {len(texts):,} texts; the limit is {MAX_TEXTS:,}, so give texts_file, or send several requests"
        )
    check_texts(texts)
    return texts
