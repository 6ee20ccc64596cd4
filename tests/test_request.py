from typing import Any

import pytest

from embeddinggemma.request import Request, check_request

DEFAULTS: dict[str, Any] = {
    "text": None,
    "texts": None,
    "task": "retrieval_document",
    "title": None,
    "embedding_dim": 768,
    "normalize": True,
    "output_format": "base64",
    "output_dtype": "float32",
}


def test_one_text_is_a_request_for_one_vector() -> None:
    request = check_request(**DEFAULTS | {"text": "hello"})
    assert request == Request(("title: none | text: hello",), True, 768, True, "base64", "float32")


def test_texts_keep_their_order_and_share_the_title() -> None:
    request = check_request(**DEFAULTS | {"texts": ["b", "a"], "title": "T"})
    assert request.prompted == ("title: T | text: b", "title: T | text: a")
    assert not request.single


def test_a_whole_number_may_be_written_as_json_writes_fractions() -> None:
    request = check_request(**DEFAULTS | {"text": "hello", "embedding_dim": 128.0})
    assert isinstance(request.dimension, int)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "neither text nor texts was given"),
    ({"text": "a", "texts": ["b"]}, "text and texts were both given"),
    ({"text": ""}, "text is empty"),
    ({"text": " \t\n\u3000"}, "text is empty"),
    ({"texts": []}, "texts is empty"),
    ({"texts": ["a", "b", " "]}, r"texts\[2\] is empty"),
    ({"texts": ["a", 3]}, r"texts\[1\] is a int; it must be a string"),
    ({"texts": ["a"] * 1025}, r"texts has 1,025 texts; the limit is 1,024"),
    ({"text": "a\ud800"}, "text has a lone surrogate at character 1"),
    ({"text": "a", "title": "T", "task": "clustering"}, "title goes with task retrieval_document only"),
    ({"text": "a", "task": "search"}, "task is 'search'; it must be one of"),
    ({"text": "a", "embedding_dim": 300}, "embedding_dim is 300; it must be one of 768, 512, 256, 128"),
    ({"text": "a", "output_format": "csv"}, "output_format is 'csv'; it must be one of base64, array"),
    ({"text": "a", "output_dtype": "int4"}, "output_dtype is 'int4'; it must be one of float32, "),
]


@pytest.mark.parametrize(("inputs", "message"), REFUSED)
def test_what_cannot_be_answered_is_refused_with_the_reason(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_request(**DEFAULTS | inputs)


def test_1024_texts_are_allowed() -> None:
    assert len(check_request(**DEFAULTS | {"texts": ["a"] * 1024}).prompted) == 1024
