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
}
DTYPES = ("float32", "bfloat16")
BASELINE = "sentence-transformers-32"  # its default batch size


def ratios(figures: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return, for each measure and dtype, how many times ours is better; for memory, ours over the baseline's."""
    engines, cold, http = figures["engines"], figures["cold_start"], figures["http"]
    compared: dict[str, dict[str, float]] = {}
    for dtype in DTYPES:
        ours = f"native-{dtype}"
        for name in "abcd":
            compared.setdefault(name, {})[dtype] = engines[BASELINE][name] / engines[ours][name]
        compared.setdefault("e", {})[dtype] = cold[BASELINE] / cold[ours]
        batched, alone = http[ours]["64"], http[f"{ours}, one text a pass"]["64"]
        compared.setdefault("f", {})[dtype] = batched["requests_per_second"] / alone["requests_per_second"]
        compared.setdefault("g", {})[dtype] = engines[ours]["g"] / engines[BASELINE]["g"]
    return compared


def shortfalls(compared: Mapping[str, Mapping[str, float]], targets: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return a line for each ratio that misses its target; memory must not exceed it, all else must reach it."""
    missed = []
    for name, by_dtype in targets.items():
        for dtype, target in by_dtype.items():
            ratio = compared[name][dtype]
            if ratio > target if name == "g" else ratio < target:
                missed.append(f"({name}) {TITLES[name]}, {dtype}: {ratio:.2f}x, target {target}x")
    return missed


def table(figures: Mapping[str, Any], targets: Mapping[str, Mapping[str, float]]) -> str:
    """Return the figures and ratios as Markdown."""
    compared = ratios(figures)
    lines = [
        f"Machine: {figures['machine']}. Medians of {figures['rounds']} interleaved rounds; × is better than "
        "sentence-transformers' defaults (float32, batch size 32) by so many times, for memory the share of its.",
        "",
        "| | ours, float32 | target | ours, bfloat16 | target |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, title in TITLES.items():
        cells = [f"{compared[name][dtype]:.2f}× | {targets[name][dtype]}×" for dtype in DTYPES]
        lines.append(f"| ({name}) {title} | {' | '.join(cells)} |")
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
    return lines


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


def chart(figures: Mapping[str, Any], targets: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Draw the ratios of speed as bars, with their targets as marks."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    compared = {name: by_dtype for name, by_dtype in ratios(figures).items() if name != "g"}
    figure, axes = pyplot.subplots(figsize=(10, 5), layout="constrained")
    for offset, dtype, colour in ((-0.2, "float32", "#3b76af"), (0.2, "bfloat16", "#ee8636")):
        rows = [row + offset for row in range(len(compared))]
        bars = axes.barh(rows, [by_dtype[dtype] for by_dtype in compared.values()], 0.38, color=colour, label=dtype)
        axes.bar_label(bars, fmt="%.1f×", padding=4)
        marks = [targets[name][dtype] for name in compared]
        axes.plot(marks, rows, "|", color="black", markersize=16, label="target" if dtype == "bfloat16" else None)
    axes.axvline(1, color="grey", linewidth=1)
    axes.set_yticks(range(len(compared)), [TITLES[name] for name in compared])
    axes.invert_yaxis()
    axes.set_xlabel("times better than sentence-transformers' defaults (the HTTP row: than one text a forward pass)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=110)


def read_targets() -> dict[str, dict[str, float]]:
    """Return what the ratios have to reach on the machine for which the targets were set."""
    targets: dict[str, dict[str, float]] = json.loads(Path(__file__).with_name("targets.json").read_text())
    return targets
