"""Inputs of a prediction: the defaults, and inputs that must be refused, each with its message."""

from typing import Any

DEFAULTS: dict[str, Any] = {
    "text": None,
    "texts": None,
    "texts_file": None,
    "task": "retrieval_document",
    "title": None,
    "embedding_dim": 768,
    "normalize": True,
    "output_format": "base64",
    "output_dtype": "float32",
    "truncate": True,
    "skip_invalid": False,
    "upload_url": None,
}

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "no text was given; give one of text, texts and texts_file"),
    ({"text": "a", "texts": ["b"]}, "text and texts were given together; give one of text, texts and texts_file"),
    ({"text": ""}, "text is empty"),
    ({"text": " \t\n\u3000"}, "text is empty"),
    ({"texts": []}, "texts is empty"),
    ({"texts": ["a", "b", " "]}, r"texts\[2\] is empty"),
    ({"texts": ["a", 3]}, r"texts\[1\] is an int; it must be a string"),
    ({"texts": ["a"] * 1025}, r"texts has 1,025 texts; the limit is 1,024"),
    ({"text": "a\ud800"}, "text has a lone surrogate at character 1"),
    ({"text": "a", "title": "T\ud800"}, "title has a lone surrogate at character 1"),
    ({"text": "a", "title": "T", "task": "clustering"}, "title goes with task retrieval_document only"),
    ({"text": "a", "title": "T", "task": "none"}, "title goes with task retrieval_document only"),
    (
        {"texts": ["a"] * 65, "output_format": "array"},
        "65 texts of 768 numbers are 49,920 numbers; the limit is 49,152",
    ),
    ({"text": "a", "task": "search"}, "task is 'search'; it must be one of"),
    ({"text": "a", "embedding_dim": 300}, "embedding_dim is 300; it must be one of 768, 512, 256, 128"),
    ({"text": "a", "output_format": "csv"}, "output_format is 'csv'; it must be one of base64, array"),
    ({"texts_file": "/etc/passwd"}, "texts_file is no file; give an http or https URL, or a data URI"),
    ({"texts_file": "file:///etc/passwd"}, "texts_file is no file; give an http or https URL, or a data URI"),
    ({"text": "a", "skip_invalid": True}, "skip_invalid is true; it goes with texts_file only"),
    ({"text": "a", "upload_url": "https://example.com"}, "upload_url was given; it goes with texts_file only"),
    ({"text": "a", "output_dtype": "int4"}, "output_dtype is 'int4'; it must be one of float32, "),
]
