"""Two batches on their way at once. The card is a stand-in that a test holds; the slots' order is what is tested."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from embeddinggemma.engine import pipeline as pipeline_module
from embeddinggemma.engine.checkpoint import Config
from embeddinggemma.engine.operators import Operators
from embeddinggemma.engine.packing import Batch, Layout, Packing
from embeddinggemma.engine.pipeline import DEPTH, Pipeline, RecordedPass, Slot
from tools.client import wait_until

CPU = torch.device("cpu")


class Done:
    """A CUDA event that happens when the test says so."""

    def __init__(self) -> None:
        self.happened = threading.Event()
        self.records = 0

    def record(self) -> None:
        self.happened.clear()
        self.records += 1

    def synchronize(self) -> None:
        assert self.happened.wait(600)


class HeldSlot(Slot):
    """Memory that the card still reads and writes until the test says that it is done."""

    done: Done  # type: ignore[assignment]

    def __init__(self) -> None:
        self.done = Done()
        self._inputs = torch.empty(1000, dtype=torch.int32)
        self._vectors = torch.empty(1000)


class Held:
    """A pipeline whose card returns each text's first token id."""

    def __init__(self, config: Config) -> None:
        self.slots = [HeldSlot() for _ in range(DEPTH)]
        self.launched: list[list[int]] = []
        self.pipeline = Pipeline(self.forward, Operators(config, CPU, torch.float32))
        self.pipeline._slots = pipeline_module._slots(self.slots)
        self.threads = ThreadPoolExecutor(DEPTH + 2)

    def forward(self, ids: torch.Tensor, packing: Packing) -> torch.Tensor:
        self.launched.append(ids.tolist())
        if 666 in self.launched[-1]:
            raise RuntimeError("poisoned")
        return ids[packing.cu_seqlens[:-1].clamp(max=len(ids) - 1)].float()[:, None]

    def submit(self, *texts: Sequence[int]) -> "Future[list[float]]":
        return self.threads.submit(lambda: self.pipeline.encode(Batch.of(texts)).flatten().tolist())

    def wait_for_launches(self, count: int) -> None:
        """Wait until the card has this many batches."""
        wait_until(lambda: sum(slot.done.records for slot in self.slots) == count)

    def launch(self, *texts: Sequence[int]) -> "Future[list[float]]":
        """Submit a batch and wait until the card has it."""
        before = sum(slot.done.records for slot in self.slots)
        vectors = self.submit(*texts)
        self.wait_for_launches(before + 1)
        return vectors

    def finish(self) -> None:
        """Let the card be done with all that it has."""
        for slot in self.slots:
            slot.done.happened.set()

    def finish_at_once(self) -> None:
        """Let the card be done with every batch as soon as it has it."""
        for slot in self.slots:
            slot.done.record = lambda: None  # type: ignore[method-assign]
        self.finish()


@pytest.fixture
def held(small_model: Path) -> Held:
    return Held(Config.load(small_model / "config.json"))


def test_a_second_batch_is_launched_while_the_card_has_the_first(held: Held) -> None:
    first, second = held.launch([5, 1]), held.launch([6, 1])
    assert not first.done()
    assert not second.done()
    held.finish()
    assert (first.result(600), second.result(600)) == ([5], [6])


def test_no_slot_is_written_before_the_card_is_done_with_it(held: Held) -> None:
    first, second = held.launch([5, 1]), held.launch([6, 1], [7, 1])
    third = held.submit([8, 1])
    wait_until(third.running)
    assert held.launched == [[5, 1], [6, 1, 7, 1]]
    held.slots[1].done.happened.set()  # the second ends first: the third gets its slot, and no other
    assert second.result(600) == [6, 7]
    held.wait_for_launches(3)
    assert not first.done()
    held.finish()
    assert (first.result(600), third.result(600)) == ([5], [8])


def test_vectors_are_the_callers_own_before_the_slot_is_used_again(held: Held) -> None:
    held.finish_at_once()
    futures = [held.submit([first, 1]) for first in range(2, 200)]
    assert [future.result(600) for future in futures] == [[first] for first in range(2, 200)]


def test_a_failed_launch_gives_its_slot_back_once_the_card_is_done(held: Held) -> None:
    poisoned = held.launch([666, 1])
    assert not poisoned.done()  # the card may still copy its inputs
    held.finish_at_once()
    with pytest.raises(RuntimeError, match="poisoned"):
        poisoned.result(600)
    assert [held.submit([first, 1]).result(600) for first in range(2, 9)] == [[first] for first in range(2, 9)]


def test_the_smallest_recorded_pass_that_holds_a_batch_is_replayed(held: Held) -> None:
    """Recorded passes are stand-ins: what they hold is decided by the real one's method."""
    held.finish_at_once()
    replayed: list[int] = []

    class Recorded(RecordedPass):
        def __init__(self, tokens: int, texts: int) -> None:
            self.layout = Layout(tokens, texts)

        def replay(self, inputs: torch.Tensor) -> torch.Tensor:
            replayed.append(self.layout.tokens)
            assert len(inputs) == self.layout.size
            return held.forward(*self.layout.views(inputs, ()))

    held.pipeline._passes = [Recorded(16, 4), Recorded(64, 8)]
    texts = ([[5, 1]], [[5] * 16], [[5] * 17], [[5]] * 5, [[5]] * 9, [[5] * 65])
    assert [held.submit(*batch).result(600) for batch in texts] == [[5] * len(batch) for batch in texts]
    assert replayed == [16, 16, 64, 64]  # the last two are too large for every pass
