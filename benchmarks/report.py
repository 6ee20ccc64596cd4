"""Figures to ratios, a table, a chart, and what falls short of the targets."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TITLES = {
    "a": "latency, 12 tokens",
    "b": "latency, 128 tokens",
    "c": "latency, 2,048 tokens",
    "d": "throughput, mixed texts",
    "e": "cold start: process start to first vector",
    "f": "HTTP requests/s at 64 connections, to one text a forward pass",
    "g": "peak memory",
    "h": "what HTTP adds to the encoder's call for one short text",
}
BASELINE = "sentence-transformers-32"  # its default batch size
_AT_MOST = ("g", "h")  # less is better; all else has to reach its target

Comparison = dict[str, dict[str, float]]


def compare(figures: Mapping[str, Any]) -> Comparison:
    """Return, for each measure and dtype, how many times ours is better.

    Except for memory, which is ours over the baseline's, and what HTTP adds, which is in milliseconds.
    """
    engines, cold, http = figures["engines"], figures["cold_start"], figures["http"]
    compared: Comparison = {}
    for dtype in figures["dtypes"]:
        ours = f"native-{dtype}"
        batched, alone = http[ours], http[f"{ours}, one text a pass"]
        measures = {name: engines[BASELINE][name] / engines[ours][name] for name in "abcd"} | {
            "e": cold[BASELINE] / cold[ours],
            "f": batched["64"]["requests_per_second"] / alone["64"]["requests_per_second"],
            "g": engines[ours]["g"] / engines[BASELINE]["g"],
            "h": batched["1"]["beside_encoder_ms"],
        }
        for name, value in measures.items():
            compared.setdefault(name, {})[dtype] = value
    return compared


def shortfalls(compared: Comparison, targets: Comparison) -> list[str]:
    """Return a line for each figure that misses its target."""
    missed = []
    for name, by_dtype in compared.items():
        for dtype, value in by_dtype.items():
            target = targets[name][dtype]
            if value > target if name in _AT_MOST else value < target:
                missed.append(f"({name}) {TITLES[name]}, {dtype}: {_show(name, value)}, target {_show(name, target)}")
    return missed


def _show(name: str, value: float) -> str:
    return f"{value:.2f} ms" if name == "h" else f"{value:.2f}×"


def table(figures: Mapping[str, Any], targets: Comparison) -> str:
    """Return the figures and ratios as Markdown."""
    compared, dtypes = compare(figures), figures["dtypes"]
    lines = [
        f"Machine: {figures['machine']}. Medians of {figures['rounds']} interleaved rounds; × is how many times better "
        "than sentence-transformers' defaults (float32, batch size 32); for memory it is the share of theirs.",
        "",
        f"| | {' | '.join(f'ours, {dtype} | target' for dtype in dtypes)} |",
        f"| --- |{' --- | --- |' * len(dtypes)}",
    ]
    for name, by_dtype in compared.items():
        cells = [f"{_show(name, value)} | {_show(name, targets[name][dtype])}" for dtype, value in by_dtype.items()]
        lines.append(f"| ({name}) {TITLES[name]} | {' | '.join(cells)} |")
    lines += ["", *_engine_lines(figures), "", *_http_lines(figures)]
    return "\n".join(lines) + "\n"


def _engine_lines(figures: Mapping[str, Any]) -> list[str]:
    tokens = figures["mixed_tokens"]
    lines = [
        "| engine | 12 tokens | 128 tokens | 2,048 tokens | mixed | cold start | peak memory |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for engine, row in figures["engines"].items():
        cold = figures["cold_start"].get(engine)
        lines.append(
            f"| {engine} | {row['a'] * 1000:.1f} ms | {row['b'] * 1000:.1f} ms | {row['c'] * 1000:,.0f} ms "
            f"| {tokens / row['d']:,.0f} tokens/s | {f'{cold:.2f} s' if cold else ''} | {row['g']:,.0f} MB |"
        )
    return [*lines, "", "`products` computes the matrix products of our forward pass and nothing else: our limit here."]


def _http_lines(figures: Mapping[str, Any]) -> list[str]:
    lines = [
        "| server, texts of 12 tokens | connections | requests/s | p50 | p99 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for server, by_count in figures["http"].items():
        for count, load in by_count.items():
            lines.append(
                f"| {server} | {count} | {load['requests_per_second']:.0f} "
                f"| {load['p50_ms']:.1f} ms | {load['p99_ms']:.1f} ms |"
            )
    return lines


def chart(figures: Mapping[str, Any], targets: Comparison, path: Path) -> None:
    """Draw the ratios of speed as bars, with their targets as marks."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    compared = {name: by_dtype for name, by_dtype in compare(figures).items() if name not in _AT_MOST}
    dtypes, height = figures["dtypes"], 0.8 / len(figures["dtypes"])
    figure, axes = pyplot.subplots(figsize=(10, 5), layout="constrained")
    for position, dtype in enumerate(dtypes):
        rows = [row + (position - (len(dtypes) - 1) / 2) * height for row in range(len(compared))]
        colour = {"float32": "#3b76af", "bfloat16": "#ee8636"}[dtype]
        bars = axes.barh(rows, [by_dtype[dtype] for by_dtype in compared.values()], height, color=colour, label=dtype)
        axes.bar_label(bars, fmt="%.1f×", padding=4)
        marks = [targets[name][dtype] for name in compared]
        axes.plot(marks, rows, "|", color="black", markersize=16, label=None if position else "target")
    axes.axvline(1, color="grey", linewidth=1)
    axes.set_yticks(range(len(compared)), [TITLES[name] for name in compared])
    axes.invert_yaxis()
    axes.set_title(figures["machine"], fontsize=10)
    axes.set_xlabel("times better than sentence-transformers' defaults (the HTTP row: than one text a forward pass)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=110)


def read_targets() -> Comparison:
    """Return what has to be reached on two cores with AVX-512 and bfloat16, for which the targets were set."""
    targets: Comparison = json.loads(Path(__file__).with_name("targets.json").read_text())
    return targets
