"""Every answer has its own text's vector, even with many other requests at the same time."""

import pytest

from tools.client import wait_until
from tools.evidence import Evidence
from tools.mixed_load import TOLERANCE, MixedLoad, Texts
from tools.observed_server import ObservedServer

CLIENTS = 64


@pytest.mark.slow
@pytest.mark.usefixtures("unharmed")
def test_every_answer_has_its_own_texts_vector(container: ObservedServer, full: bool, evidence: Evidence) -> None:
    texts = Texts.ask(container, 200)
    assert texts.min_distance() > 100 * TOLERANCE, "two texts are so alike that a swap would not be seen"
    wanted = 20_000 if full else 2_000
    tally = MixedLoad(container.port, texts).run(CLIENTS, lambda number: number < wanted)
    assert not tally.faults, tally.faults[:5]
    assert tally.requests == wanted
    wait_until(container.is_idle)
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in tally.kinds.items())
    evidence.record(
        "Every answer has its own text's vector: none lost, none twice, none swapped",
        f"{CLIENTS} clients at once, each answer compared with the vector computed alone",
        f"{wanted:,} requests ({kinds}), 0 faults, values within {tally.largest_error:.1g}",
    )
