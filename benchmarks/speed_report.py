"""The speeds as ratios, a table and a chart, and the targets that are missed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

TITLES = {
    "a": "latency, 12 tokens",
    "b": "latency, 128 tokens",
    "c": "latency, 2,048 tokens",
    "d": "throughput, mixed texts",
    "e": "cold start: process start to first vector",
    "f": "HTTP requests/s at 64 connections, to one text a pass",
    "g": "peak memory",
    "h": "what HTTP adds to the encoder's call for one short text",
}
BASELINE = "sentence-transformers-32"  # its default batch size
_GFLOP = 0.2029 * 2048  # matrix products of 2,048 tokens, by 101.4 million weights
_TARGETS_MACHINE = "the best products on two threads reach 473 GFLOP/s in float32 and 952 in bfloat16"
_AT_MOST = ("g", "h")  # less is better; all other figures must reach their target

Comparison = Mapping[str, Mapping[str, float]]
"""A figure for each measure and number type."""


def compare(figures: Mapping[str, Any]) -> Comparison:
    """Return, for each measure and dtype, how many times better our engine is.

    Two figures differ: memory is ours divided by the baseline's, and the cost of HTTP is in milliseconds.
    """
    engines, cold, http = figures["engines"], figures["cold_start"], figures["http"]
    compared: dict[str, dict[str, float]] = {}
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


def limits(figures: Mapping[str, Any]) -> Comparison:
    """Return the figures (a) to (d) of an engine that computes only our engine's matrix products."""
    engines = figures["engines"]
    return {
        name: {dtype: engines[BASELINE][name] / engines[f"products-{dtype}"][name] for dtype in figures["dtypes"]}
        for name in "abcd"
    }


def _products(figures: Mapping[str, Any]) -> str:
    rates = {dtype: _GFLOP / figures["engines"][f"products-{dtype}"]["c"] for dtype in figures["dtypes"]}
    return " and ".join(f"{rate:,.0f} GFLOP/s in {dtype}" for dtype, rate in rates.items())


def shortfalls(figures: Mapping[str, Any], targets: Comparison) -> list[str]:
    """Return a line for each figure that misses its target."""
    limit, missed = limits(figures), []
    for name, by_dtype in compare(figures).items():
        for dtype, value in by_dtype.items():
            target = targets[name][dtype]
            if value <= target if name in _AT_MOST else value >= target:
                continue
            line = f"({name}) {TITLES[name]}, {dtype}: {_show(name, value)}, target {_show(name, target)}"
            if name in limit:
                line += f"; this machine's limit {_show(name, limit[name][dtype])}"
            missed.append(line)
    return missed


def _show(name: str, value: float) -> str:
    return f"{value:.2f} ms" if name == "h" else f"{value:.2f}×"


def table(figures: Mapping[str, Any], targets: Comparison) -> str:
    """Return the figures and ratios as Markdown."""
    dtypes, limit = figures["dtypes"], limits(figures)
    lines = [
        f"Machine: {figures['machine']}. Medians of {figures['rounds']} interleaved rounds; × is how many times better "
        "than sentence-transformers' defaults (float32, batch size 32); for memory it is the share of theirs. "
        "*Limit* is what the matrix products alone, without all else that a forward pass does, would reach on this "
        f"machine: those of 2,048 tokens run at {_products(figures)}. The targets were set where {_TARGETS_MACHINE}.",
        "",
        f"| | {' | '.join(f'ours, {dtype} | limit | target' for dtype in dtypes)} |",
        f"| --- |{' --- | --- | --- |' * len(dtypes)}",
    ]
    for name, by_dtype in compare(figures).items():
        cells = [
            _show(name, number) if number else ""
            for dtype, value in by_dtype.items()
            for number in (value, limit.get(name, {}).get(dtype), targets[name][dtype])
        ]
        lines.append(f"| ({name}) {TITLES[name]} | {' | '.join(cells)} |")
    lines += ["", *_engine_lines(figures), "", *_http_lines(figures)]
    return "\n".join(lines) + "\n"


def _engine_lines(figures: Mapping[str, Any]) -> list[str]:
    tokens = figures["mixed_tokens"]
    lines = [
        "| engine | 12 tokens | 128 tokens | 2,048 tokens | mixed | cold start | peak memory | worst cosine |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for engine, row in figures["engines"].items():
        cold, cosine = figures["cold_start"].get(engine), row.get("cosine")
        lines.append(
            f"| {engine} | {row['a'] * 1000:.1f} ms | {row['b'] * 1000:.1f} ms | {row['c'] * 1000:,.0f} ms "
            f"| {tokens / row['d']:,.0f} tokens/s | {f'{cold:.2f} s' if cold else ''} | {row['g']:,.0f} MB "
            f"| {f'{cosine:.5f}' if cosine else ''} |"
        )
    return [
        *lines,
        "",
        "`products` computes the matrix products of our forward pass and nothing else: the limit above. "
        "The cosine is the worst of all texts, to the vectors of sentence-transformers' defaults.",
    ]


def _http_lines(figures: Mapping[str, Any]) -> list[str]:
    lines = [
        "| server, texts of 12 tokens and a prompt | connections | requests/s | p50 | p99 | besides the encoder |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for server, by_count in figures["http"].items():
        for count, load in by_count.items():
            lines.append(
                f"| {server} | {count} | {load['requests_per_second']:.0f} "
                f"| {load['p50_ms']:.1f} ms | {load['p99_ms']:.1f} ms "
                f"| {load['beside_encoder_ms']:.2f} ms, {load['outside_predict_ms']:.2f} of them in Cog's server |"
            )
    return lines


def chart(figures: Mapping[str, Any], targets: Comparison, path: Path) -> None:
    """Draw the ratios of speed as bars, with their targets as marks."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    compared = {name: by_dtype for name, by_dtype in compare(figures).items() if name not in _AT_MOST}
    limit = limits(figures)
    dtypes, height = figures["dtypes"], 0.8 / len(figures["dtypes"])
    figure, axes = pyplot.subplots(figsize=(10, 5), layout="constrained")
    for position, dtype in enumerate(dtypes):
        rows = [row + (position - (len(dtypes) - 1) / 2) * height for row in range(len(compared))]
        colour = {"float32": "#3b76af", "bfloat16": "#ee8636"}[dtype]
        bars = axes.barh(rows, [by_dtype[dtype] for by_dtype in compared.values()], height, color=colour, label=dtype)
        axes.bar_label(bars, fmt="%.1f×", label_type="center", color="white")
        marks = [targets[name][dtype] for name in compared]
        axes.plot(marks, rows, "|", color="black", markersize=16, label=None if position else "target")
        ends = [limit[name][dtype] for name in limit]  # only the first rows have a limit
        label = None if position else "limit of the products"
        axes.plot(ends, rows[: len(ends)], "o", color="grey", fillstyle="none", label=label)
    axes.axvline(1, color="grey", linewidth=1, zorder=0)
    axes.set_yticks(range(len(compared)), [TITLES[name] for name in compared])
    axes.invert_yaxis()
    axes.set_title(figures["machine"], fontsize=10)
    axes.set_xlabel("times better than sentence-transformers' defaults; the last row: than one text a pass")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=110)
