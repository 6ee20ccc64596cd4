"""Checks that server, library and corpus share: each names the input, the limit and the value, and quotes no text."""

from collections.abc import Collection, Iterable


def check_choice(name: str, value: object, choices: Collection[object]) -> None:
    """Raise ValueError unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(str, choices))}")


def check_text(name: str, text: object) -> None:
    """Raise ValueError unless it is a text that can be embedded."""
    check_string(name, text)
    if not text or str(text).isspace():
        raise ValueError(f"{name} is empty; every text needs at least one character that is not white space")


def check_texts(texts: Iterable[object]) -> None:
    """Raise ValueError unless each is a text that can be embedded; the message has its position: `texts[2]`."""
    for position, text in enumerate(texts):
        check_text(f"texts[{position}]", text)


def check_string(name: str, value: object) -> None:
    """Raise ValueError unless it is a string that can be written in UTF-8, as tokenizers and files need."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {a_type(value)}; it must be a string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{name} has a lone surrogate at character {error.start}; send valid Unicode") from None


def a_type(value: object) -> str:
    """Return the name of a value's type with its article: "an int", "a list"."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
