from typing import Any

import pytest

from embeddinggemma.request import Request, check_request
from tests.support.inputs import DEFAULTS, REFUSED


def test_one_text_is_a_request_for_one_vector() -> None:
    request = check_request(**DEFAULTS | {"text": "hello"})
    assert request == Request(("title: none | text: hello",), None, True, 768, True, "base64", "float32", True)


def test_texts_keep_their_order_and_share_the_title() -> None:
    request = check_request(**DEFAULTS | {"texts": ["b", "a"], "title": "T"})
    assert request.prompted == ("title: T | text: b", "title: T | text: a")
    assert not request.single


def test_a_whole_number_may_be_written_as_json_writes_fractions() -> None:
    request = check_request(**DEFAULTS | {"text": "hello", "embedding_dim": 128.0})
    assert isinstance(request.dimension, int)


@pytest.mark.parametrize(("inputs", "message"), REFUSED)
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
