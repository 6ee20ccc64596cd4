from pathlib import Path
from typing import Any

import pytest

from embeddinggemma.request import Request, check_request
from tests.support.inputs import DEFAULTS, REFUSED


def test_one_text_is_a_request_for_one_vector() -> None:
    request = check_request(**DEFAULTS | {"text": "hello"})
    assert request == Request(
        ("title: none | text: hello",),
        "retrieval_document",
        title=None,
        single=True,
        dimension=768,
        normalize=True,
        output_format="base64",
        output_dtype="float32",
        truncate=True,
        skip_invalid=False,
        upload_url=None,
    )


def test_texts_keep_their_order_and_share_the_title() -> None:
    request = check_request(**DEFAULTS | {"texts": ["b", "a"], "title": "T"})
    assert request.prompted == ("title: T | text: b", "title: T | text: a")
    assert not request.single


def test_a_whole_number_may_be_written_as_json_writes_fractions() -> None:
    request = check_request(**DEFAULTS | {"text": "hello", "embedding_dim": 128.0})
    assert isinstance(request.dimension, int)


FILE = {"texts_file": Path("texts.jsonl")}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        *REFUSED,
        (FILE | {"texts": ["a"]}, "^texts and texts_file were given together"),
        (FILE | {"output_format": "array"}, "^output_format is array; with texts_file the vectors are a file"),
        (FILE | {"title": "T", "task": "none"}, "^title goes with task retrieval_document only"),
        (FILE | {"upload_url": "ftp://example.com/a"}, "^upload_url is no URL; give an http or https URL"),
        (FILE | {"upload_url": "https://[example"}, "^upload_url is no URL"),
        (FILE | {"upload_url": "/etc/passwd"}, "^upload_url is no URL"),
    ],
)
def test_a_bad_request_is_refused_with_the_reason(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_request(**DEFAULTS | inputs)


def test_1024_texts_are_allowed() -> None:
    assert len(check_request(**DEFAULTS | {"texts": ["a"] * 1024}).prompted) == 1024


@pytest.mark.parametrize(
    ("texts", "small"),
    [(["short"], True), (["short"] * 4, True), (["short"] * 5, False), (["x" * 1900], True), (["x" * 2001], False)],
)
def test_a_request_is_small_by_its_texts_and_their_characters(texts: list[str], small: bool) -> None:
    assert check_request(**DEFAULTS | {"texts": texts}).is_small is small
