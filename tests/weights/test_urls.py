"""Which URLs are safe, and how a URL is shown."""

import pytest

from embeddinggemma.weights.urls import UnsafeUrlError, check_redirect, check_url, joined, scrubbed, shown


@pytest.mark.parametrize(
    "url",
    ["https://cdn.example/a", "http://127.0.0.1:80/a", "http://localhost/a", "http://[::1]/a", "http://127.1.2.3/a"],
)
def test_https_and_this_machine_are_safe(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://cdn.example/a",
        "http://127.0.0.1.example/a",
        "http://127.0.0.1@cdn.example/a",
        "http://10.0.0.1/a",
        "ftp://cdn.example/a",
        "file:///etc/passwd",
        "https:///a",
        "https://cdn.example/a b",
        "https://cdn.example/a\nhttps://cdn.example/b",
        "https://[::1/a",
        "https://cdn.example:port/a",
        "https://cdn.example/a#b",
        "https://cdn.example/a?b#",
        "cdn.example/a",
        "",
    ],
)
def test_any_other_url_is_refused(url: str) -> None:
    with pytest.raises(UnsafeUrlError):
        check_url(url)


@pytest.mark.parametrize("target", ["http://cdn.example/b", "http://127.0.0.1/b", "ftp://cdn.example/b", "file:///b"])
def test_no_redirect_leads_away_from_https_even_to_this_machine(target: str) -> None:
    with pytest.raises(UnsafeUrlError):
        check_redirect("https://cdn.example/a", target)


@pytest.mark.parametrize("target", ["http://cdn.example/b", "file:///b"])
def test_no_redirect_leads_to_another_kind_of_address(target: str) -> None:
    with pytest.raises(UnsafeUrlError):
        check_redirect("http://127.0.0.1/a", target)


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("https://cdn.example", "https://cdn.example/b/c"),
        ("https://cdn.example/a", "https://cdn.example/a/b/c"),
        ("https://cdn.example/a/", "https://cdn.example/a/b/c"),
        ("https://cdn.example?signature=1/2", "https://cdn.example/b/c?signature=1/2"),
        ("https://u:p@cdn.example:8443/a/?x=/&y=%2F", "https://u:p@cdn.example:8443/a/b/c?x=/&y=%2F"),
    ],
)
def test_a_path_is_joined_before_the_query(base: str, url: str) -> None:
    assert joined(base, "b/c") == url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://cdn.example/a/b?X-Signature=secret#secret", "https://cdn.example/a/b"),
        ("https://user:secret@cdn.example:8443/a", "https://cdn.example:8443/a"),
        ("https://user:secret@more:secret@cdn.example/a", "https://cdn.example/a"),
        ("https://cdn.example?a=@secret", "https://cdn.example"),
        ("https://cdn.example/mail@home", "https://cdn.example/mail@home"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, expected: str) -> None:
    assert shown(url) == expected


def test_urls_in_a_text_are_scrubbed() -> None:
    text = 'ERR Get "https://u:secret@cdn.example/a?sig=secret": refused (after https://b.example/?secret)'
    assert scrubbed(text) == 'ERR Get "https://cdn.example/a": refused (after https://b.example/'
    assert scrubbed('proxy "http://u:a secret@proxy:1/": bad') == 'proxy "http://proxy:1/": bad'
