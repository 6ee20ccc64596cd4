"""docs/performance.md: its figures are the measured figures."""

import json
import statistics

from benchmarks import corpus_cost, corpus_stages, gateway, serving, texts_file
from tests.support.documents import PAGES
from tools import PROJECT

RESULTS = PROJECT / "benchmarks" / "results"
PAGE = PAGES["docs/performance.md"]
CORPUS_PAGE = PAGES["docs/corpus.md"]


def test_the_table_of_speeds_has_the_measured_figures() -> None:
    machine, table, *_ = (RESULTS / "speed.md").read_text().split("\n\n")
    assert table in PAGE
    assert machine.removeprefix("Machine: ").split(". ")[0] in PAGE


def test_what_is_said_beside_the_model_was_measured() -> None:
    figures = json.loads((RESULTS / "serving.json").read_text())
    assert serving.table(figures) == (RESULTS / "serving.md").read_text()
    ours, trivial = (figures["short"][name]["64"]["requests_per_second"] for name in ("ours", "trivial"))
    texts = max(row["requests_per_second"] for row in figures["large"]["ours"].values()) * serving.LARGE_REQUEST
    said = " ".join(PAGE.split())
    assert f"on {figures['cores']} cores that client and server share: {ours:,.0f} short requests" in said
    assert f"{ours / trivial:.0%}".replace("%", " %") + " of a `predict()`" in said
    assert f"and {texts:,.0f} texts a second" in said


def test_a_file_of_a_million_texts_took_as_much_memory_as_is_said() -> None:
    figures = json.loads((RESULTS / "texts_file.json").read_text())
    assert texts_file.table(figures) == (RESULTS / "texts_file.md").read_text()
    assert figures["rows"] == 1_000_000
    assert figures["peak_mb"] < texts_file.MAX_MEMORY
    said = " ".join(PAGES["docs/api.md"].split())
    assert f"A million short texts take {(figures['peak_mb'] - figures['before_mb']) / 1000:.1f} GB of memory" in said


def test_what_is_said_of_the_stages_of_a_corpus_was_measured_and_reaches_its_aim() -> None:
    figures = json.loads((RESULTS / "corpus_stages.json").read_text())
    assert corpus_stages.table(figures) == (RESULTS / "corpus_stages.md").read_text()
    assert corpus_stages.rows(figures) in CORPUS_PAGE
    said = " ".join(CORPUS_PAGE.split())
    assert f"{figures['scale']} times slowed down so that {figures['cores']} cores can feed them" in said
    for run in figures["runs"]:
        if not run["instant"]:
            slowest = min(run["gpus"] * figures["gpu"], figures["tokenizing"], figures["writing"])
            assert run["tokens_per_second"] > corpus_stages.REACH / 100 * slowest


def test_what_a_billion_texts_cost_follows_from_the_measured_rates() -> None:
    assert corpus_cost.costs() in CORPUS_PAGE
    assert corpus_cost.sizes() in CORPUS_PAGE
    said = " ".join(CORPUS_PAGE.split())
    assert f"Of {corpus_cost.TOKENS} tokens each" in said
    assert f"cards busy for {corpus_stages.REACH} % of the time" in said
    assert (
        f"${corpus_cost.CARD_DOLLARS:g} an hour for a card and ${corpus_cost.CORES_DOLLARS:.2f} for two cores" in said
    )


def test_what_is_said_of_the_gateway_was_measured() -> None:
    figures = json.loads((RESULTS / "gateway.json").read_text())
    assert gateway.table(figures) == (RESULTS / "gateway.md").read_text()
    lone, taken, two = figures["lone"], figures["processor_ms"], figures["containers"]
    clients, servers = figures["clients_ms"], figures["servers_ms"]
    said = " ".join(PAGE.split())
    assert f"on {figures['cores']} cores: {lone['gateway'] - lone['container']:.1f} ms to a lone short text" in said
    short, many = taken["OpenAI, one short text"], taken["OpenAI, 1,024 texts in base64"]
    assert f"It takes {short:.2f} ms of processor time for that, and {many:.1f} ms for 1,024 texts in base64" in said
    assert f"answer {statistics.median(two['2']) / statistics.median(two['1']):.2f} times" in said
    assert f"aiohttp takes {clients['aiohttp']:.2f} ms a request and httpx {clients['httpx']:.2f}" in said
    fast, plain = servers["uvloop and httptools"], servers["asyncio and h11"]
    assert f"with uvloop and httptools {fast:.2f} ms, with asyncio and h11 {plain:.2f}" in said
