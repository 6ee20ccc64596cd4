"""What was measured on a GPU, beside what it has to reach."""

from collections.abc import Mapping
from typing import Any

_BASELINE = "sentence-transformers, from texts, batch "
_ARRIVAL = "bfloat16, 8,192 tokens a batch"
_FLOAT32_BEFORE = 19_000  # tokens/s on an H100, of one masked square for each batch


def table(figures: Mapping[str, Any]) -> str:
    """Return the figures as Markdown; a part that failed has its error in place of its figures."""
    lines = [f"One {figures['card']}, torch {figures['torch']}, the full-size reference model.", ""]
    for part in (_right, _fast, _bulk, _steady, _http, _start):
        try:
            lines += [*part(figures), ""]
        except (AttributeError, KeyError, TypeError) as error:
            lines += [f"not measured: {error!r}", ""]
    return "\n".join(lines)


def _right(figures: Mapping[str, Any]) -> list[str]:
    lines = ["| dtype | worst cosine to float32 on the CPU | largest difference | a text alone or in company |"]
    lines.append("| --- | --- | --- | --- |")
    for dtype, row in figures["right"].items():
        company = f"{row['alone_to_together']:.0e}" if "alone_to_together" in row else ""
        lines.append(f"| {dtype} | {row['worst cosine']:.6f} | {row['difference']:.1e} | {company} |")
    return lines


def _fast(figures: Mapping[str, Any]) -> list[str]:
    latency = figures["latency"]
    short = latency["1 × 12"]
    theirs = latency["sentence-transformers, 1 × 12"]
    return [
        "| on one card, in one run | measured | reach |",
        "| --- | --- | --- |",
        f"| one text of 12 tokens, encoder | {short:.2f} ms, {theirs / short:.0f}× sentence-transformers "
        "| ≤ 1.1 ms, ≥ 25× |",
        f"| eight short texts (256 tokens), encoder | {latency['8 × 32']:.2f} ms | ≤ 1.5 ms |",
        f"| one text of 2,048 tokens | {latency['1 × 2,048']:.2f} ms | ≤ 3.5 ms |",
        f"| eight texts of 2,047 tokens | {latency['8 × 2,047']:.2f} ms | |",
    ]


def _bulk(figures: Mapping[str, Any]) -> list[str]:
    bulk = figures["bulk"]
    best = max(speed for name, speed in bulk.items() if name.startswith(_BASELINE))
    ours = bulk[_ARRIVAL]
    return [
        f"| {bulk['texts']:,} mixed texts, {bulk['tokens']:,} tokens | tokens/s | |",
        "| --- | --- | --- |",
        *(
            f"| {name} | {speed:,.0f} | {speed / bulk['products alone']:.0%} of bfloat16's products alone |"
            for name, speed in bulk.items()
            if name not in ("texts", "tokens")
        ),
        "",
        f"In order of arrival: {ours / bulk['products alone']:.0%} of the products alone (reach: 40 %), "
        f"{ours / best:.0f}× sentence-transformers at its best batch size (reach: 16×); float32 "
        f"{bulk['float32'] / _FLOAT32_BEFORE:.1f}× one masked square (reach: 5×; that was measured on an H100).",
    ]


def _steady(figures: Mapping[str, Any]) -> list[str]:
    rows = {name: _said(found) for name, found in figures["steady"].items()}
    rows["a kernel's illegal access"] = figures["fault"]
    return ["| steady | |", "| --- | --- |", *(f"| {name} | {found} |" for name, found in rows.items())]


def _said(found: Any) -> str:
    if isinstance(found, dict):
        return ", ".join(f"{name} {value:,}" for name, value in found.items())
    return ("yes" if found else "no") if isinstance(found, bool) else str(found)


def _http(figures: Mapping[str, Any]) -> list[str]:
    http = figures["http"]
    ours, trivial = http["ours"], http["trivial"]
    large, encoder = http["ours, 256 texts a request"], http["large texts by the encoder alone"]
    lines = ["| HTTP, one short text a request | ours | trivial predict() | share |", "| --- | --- | --- | --- |"]
    for count in ours:
        speed, ceiling = (row[count]["requests_per_second"] for row in (ours, trivial))
        lines.append(f"| {_connections(count)} | {speed:,.0f} requests/s | {ceiling:,.0f} | {speed / ceiling:.0%} |")
    eight_to_one = ours["8"]["requests_per_second"] / ours["1"]["requests_per_second"]
    lines += [
        "",
        f"8 connections to 1: {eight_to_one:.1f}× (reach: 2×). 64 connections should reach 60 % of the trivial one.",
    ]
    lines += ["", "| HTTP, 256 texts a request | texts/s | share of the encoder alone |", "| --- | --- | --- |"]
    for count, row in large.items():
        speed = 256 * row["requests_per_second"]
        lines.append(f"| {_connections(count)} | {speed:,.0f} | {speed / encoder:.0%} |")
    return [*lines, "", "16 connections should reach 60 %."]


def _connections(count: str) -> str:
    return "1 connection" if count == "1" else f"{count} connections"


def _start(figures: Mapping[str, Any]) -> list[str]:
    start = figures["start"]
    apart = start["torch"] + start["tokenizer"]
    lines = ["| process start to READY | | beyond importing torch and parsing the tokenizer | reach |"]
    lines.append("| --- | --- | --- | --- |")
    for name, row in start.items():
        if isinstance(row, dict):
            reach = "≤ 5 s" if name == "no kernel cache" else "≤ 2.5 s"
            lines.append(f"| {name} | {row['ready']:.1f} s | {row['ready'] - apart:.1f} s | {reach} |")
    return lines
