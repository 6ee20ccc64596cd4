"""A prediction's folder goes once its prediction is over; nothing else ever does."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import pytest

from embeddinggemma import leftovers
from embeddinggemma.leftovers import Leftovers

ID: ContextVar[str] = ContextVar("_coglet_prediction_id")  # as Cog's server names it


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for nothing after an end."""
    monkeypatch.setattr(leftovers, "_AFTER_END", 0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "coglet" / "predictions"
    path.mkdir(parents=True)
    return path


def _made(folder: Path, name: str) -> Path:
    """Make what the server makes."""
    for part in ("inputs", "outputs"):
        (folder / name / part).mkdir(parents=True)
    return folder / name


@contextmanager
def _called(swept: Leftovers, name: str) -> Iterator[None]:
    """Be in a call of predict() for the prediction of this name."""
    token = ID.set(name)
    with swept.prediction():
        yield
    ID.reset(token)


def _ended(swept: Leftovers, name: str) -> None:
    with _called(swept, name):
        pass


def test_the_folder_of_a_prediction_goes_when_it_has_ended(folder: Path) -> None:
    swept, made, other = Leftovers(folder), _made(folder, "a"), _made(folder, "b")
    with _called(swept, "a"):
        swept.sweep()
        assert made.is_dir()
    swept.sweep()
    assert not made.exists()
    assert other.is_dir()


def test_an_answer_that_was_too_large_goes_with_its_folder(folder: Path) -> None:
    swept, made = Leftovers(folder), _made(folder, "a")
    (made / "outputs" / "spill_1.json").write_text("[0.1]")
    _ended(swept, "a")
    swept.sweep()
    assert not made.exists()


def test_a_folder_stays_for_some_seconds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "_AFTER_END", 600.0)
    swept, made = Leftovers(folder), _made(folder, "a")
    _ended(swept, "a")
    swept.sweep()
    assert made.is_dir()


def test_a_prediction_that_took_the_name_of_one_that_ended_keeps_its_folder(folder: Path) -> None:
    swept, made = Leftovers(folder), _made(folder, "a")
    _ended(swept, "a")
    with _called(swept, "a"):
        swept.sweep()
        assert made.is_dir()
    swept.sweep()
    assert not made.exists()


@pytest.mark.parametrize("name", ["..", ".", "", "../outside", "/outside", "a/../../outside", "a/b", "a\0b"])
def test_a_name_that_is_no_plain_child_removes_nothing(folder: Path, name: str) -> None:
    swept = Leftovers(folder)
    outside, inside = _made(folder.parent, "outside"), _made(folder, "a/b")
    _ended(swept, name if name != "/outside" else str(outside))
    swept.sweep()
    assert outside.is_dir()
    assert inside.is_dir()


def test_a_link_is_not_followed(folder: Path) -> None:
    swept, outside = Leftovers(folder), _made(folder.parent, "outside")
    (folder / "a").symlink_to(outside)
    _made(folder, "b")
    (folder / "b" / "outputs" / "link").symlink_to(outside)
    for name in ("a", "b"):
        _ended(swept, name)
    swept.sweep()
    assert (outside / "inputs").is_dir()
    assert (outside / "outputs").is_dir()
    assert not (folder / "b").exists()


def test_folders_of_an_earlier_process_go_and_young_ones_stay(folder: Path) -> None:
    swept, old, young = Leftovers(folder), _made(folder, "old"), _made(folder, "young")
    running = _made(folder, "running")
    for path in (old, running):
        os.utime(path, (time.time() - 3600,) * 2)
    with _called(swept, "running"):
        swept.sweep()
    assert not old.exists()
    assert young.is_dir()
    assert running.is_dir()


def test_without_cogs_server_there_is_nothing_to_sweep(tmp_path: Path) -> None:
    swept = Leftovers(tmp_path / "missing")
    with swept.prediction():
        pass
    swept.sweep()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_link_is_left_alone(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    made = _made(elsewhere, "a")
    os.utime(made, (time.time() - 3600,) * 2)
    (tmp_path / "coglet").mkdir()
    (tmp_path / "coglet" / "predictions").symlink_to(elsewhere)
    swept = Leftovers(tmp_path / "coglet" / "predictions")
    _ended(swept, "a")
    swept.sweep()
    assert made.is_dir()


def test_a_name_that_two_predictions_have_is_kept_until_both_have_ended(folder: Path) -> None:
    swept, made = Leftovers(folder), _made(folder, "a")
    with _called(swept, "a"):
        with swept.prediction():
            pass
        swept.sweep()
        assert made.is_dir()
    swept.sweep()
    assert not made.exists()
