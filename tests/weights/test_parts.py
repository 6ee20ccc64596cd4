"""A file in parts, and digests of files that grow."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddinggemma.weights.parts import Digest, Follower, Parts


@settings(deadline=None)
@given(st.integers(1, 1000), st.integers(1, 100), st.randoms(use_true_random=False))
def test_what_has_arrived_without_a_gap_is_known_in_any_order(size: int, part_size: int, dice: object) -> None:
    parts = Parts(size, part_size)
    claimed = []
    while (part := parts.claim()) is not None:
        claimed.append(part)
    arrived = [False] * size
    dice.shuffle(claimed)  # type: ignore[attr-defined]
    for part in claimed:
        begin, end = parts.missing(part)
        for place in range(begin, end):
            arrived[place] = True
            parts.append(part, 1)
            assert parts.frontier() == (arrived.index(False) if False in arrived else size)
    assert all(arrived)


def test_after_a_stop_no_part_can_be_claimed() -> None:
    parts = Parts(300, 100)
    assert parts.claim() == 0
    assert not parts.pause(0.01)
    parts.stop()
    assert parts.claim() is None
    assert parts.pause(600), "a pause ends when nobody wants the rest"


def test_a_digest_reads_on_and_refuses_a_file_that_is_too_short(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with path.open("rb") as file:
        digest = Digest(file)
        for end in (3, 3, 10):
            digest.read_on(end)
        assert digest.sha256.digest() == hashlib.sha256(b"0123456789").digest()
        with pytest.raises(OSError, match="ended after 10 of 11 bytes"):
            digest.read_on(11)


def test_a_follower_hashes_a_file_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "file"
    follower = Follower(path)
    follower.look()  # it is not there yet
    for piece in (b"01", b"234", b""):
        with path.open("ab") as file:
            file.write(piece)
        follower.look()
    assert follower.finish(5) == hashlib.sha256(b"01234").hexdigest()
    assert follower.finish(6) is None


def test_a_follower_begins_again_if_a_file_becomes_shorter(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"wrong bytes")
    follower = Follower(path)
    follower.look()
    path.write_bytes(b"right")
    assert follower.finish(5) == hashlib.sha256(b"right").hexdigest()
