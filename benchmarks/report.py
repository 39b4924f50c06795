"""From what was measured to a table for people, and to the bars that the pipeline has set itself. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

Line = Mapping[str, Any]

IMAGES_SHARE = 0.90
"""Of 500 images/s at 1 s, shard boundaries included: 30,000 requests a minute is Google's published quota."""
CPU_MS = 0.8
CPU_TIMES_LESS = 5.0
LONG_TAIL_SHARE = 0.85
QUOTA_USED = 0.95
QUOTA_REJECTED = 0.02
BULK_RSS_MB = 500.0
BULK_GROWTH = 0.10

_METHOD = """\
TLS and a token source in every figure. All contenders ask the same question of the same stand-in of Vertex
AI, which runs in a process of its own, as does the BigQuery emulator; both share the cores with the
contender. (d) reads its rows from BigQuery and writes its answers there; the others get theirs from memory
and drop the answers. Steady state: from the moment that 95 % of the window is in flight until the last call
is sent; ramp and drain are cut off. CPU is that of the contender's whole process tree in steady state, its
start not counted; RSS is its peak from start to end."""


@dataclasses.dataclass(frozen=True)
class Bar:
    """One figure that must be reached."""

    what: str
    wanted: str
    measured: str
    met: bool


def bars(found: Mapping[str, Any]) -> list[Bar]:
    """Compares the pipeline's lines of a result with the bars; what was not measured is left out."""
    made: list[Bar] = []
    lines: Sequence[Line] = found.get("one_second", ())
    ours, others = _split(lines)
    if ours:
        share, cpu = ours["share_of_ceiling"], ours["cpu_ms_per_image"]
        made.append(_least("1 s: share of 500 images/s", share, IMAGES_SHARE))
        made.append(Bar("1 s: CPU", f"<= {CPU_MS} ms", f"{cpu:.2f} ms", cpu <= CPU_MS))
        for line in others:
            times = line["cpu_ms_per_image"] / cpu
            made.append(
                Bar(
                    f"CPU against {line['contender'][:3]}",
                    f">= {CPU_TIMES_LESS:g} x",
                    f"{times:.1f} x",
                    times >= CPU_TIMES_LESS,
                )
            )
    ours, _ = _split(found.get("long_tail", ()))
    if ours:
        made.append(_least("long tail: share of the ceiling", ours["share_of_ceiling"], LONG_TAIL_SHARE))
    for line in found.get("quota", ()):
        if line["contender"].startswith("(d)"):
            name = f"quota, {line['processes']} process{'es' if line['processes'] > 1 else ''}"
            made.append(_least(f"{name}: used", line["share_of_quota_used"], QUOTA_USED))
            rejected = line["share_rejected"]
            made.append(
                Bar(f"{name}: rejected", f"< {QUOTA_REJECTED:.0%}", f"{rejected:.1%}", rejected < QUOTA_REJECTED)
            )
    bulk = found.get("bulk")
    if bulk:
        rss, growth = bulk["peak_rss_mb"], bulk["peak_rss_second_half_mb"] / bulk["peak_rss_first_half_mb"] - 1
        rows = f"{bulk['rows']:,} rows"
        made.append(Bar(f"{rows}: peak RSS", f"< {BULK_RSS_MB:.0f} MB", f"{rss:.0f} MB", rss < BULK_RSS_MB))
        made.append(Bar(f"{rows}: second half", f"<= +{BULK_GROWTH:.0%}", f"{growth:+.1%}", growth <= BULK_GROWTH))
    books = [line for key in ("one_second", "long_tail", "quota") for line in found.get(key, ()) if "rows_lost" in line]
    books += [bulk] if bulk else []
    if books:
        lost, doubled = (sum(line[name] for line in books) for name in ("rows_lost", "rows_doubled"))
        made.append(Bar("rows lost or doubled, all runs", "0", f"{lost} lost, {doubled} doubled", not lost + doubled))
    return made


def markdown(found: Mapping[str, Any]) -> str:
    """The whole result as Markdown."""
    machine = found["machine"]
    parts = [
        f"Measured on {machine['cores']} cores ({machine['processor']}), Python {machine['python']}, {found['at']}.",
        _METHOD,
    ]
    for key, title in (("one_second", "1 s latency"), ("long_tail", "Log-normal latency, median 1 s, p99 30 s")):
        if found.get(key):
            parts.append(f"**{title}**\n\n{_speed(found[key])}")
    if "long_tail" in found:
        parts.append(
            "With a long tail the share is that of the window that is busy on average: calls that take minutes have "
            "not landed when the time is over, which flatters images/s."
        )
    if found.get("batching"):
        line = found["batching"]
        parts.append(
            f"(b) with its default batching: {line['rows_in']} rows in, {line['rows_out']} out, no error "
            f"({line['calls_paid']} calls paid)."
        )
    if found.get("quota"):
        parts.append(f"**Quota of 50 requests/s, 1 s latency**\n\n{_quota(found['quota'])}")
    if found.get("bulk"):
        parts.append(f"**Memory**\n\n{_bulk(found['bulk'])}")
    if found.get("inline"):
        parts.append(f"**Images that the worker reads and sends, 1 s latency**\n\n{_inline(found['inline'])}")
    judged = bars(found)
    if judged:
        rows = [[bar.what, bar.wanted, bar.measured, "yes" if bar.met else "**no**"] for bar in judged]
        parts.append(f"**Bars**\n\n{_table(['what', 'bar', 'measured', 'met'], rows)}")
    return "\n\n".join(parts) + "\n"


def _speed(lines: Sequence[Line]) -> str:
    rows = [
        [
            line["contender"],
            f"{line['window']:,}",
            f"{line['images_per_sec']:,.1f}",
            f"{line['share_of_ceiling']:.0%}",
            f"{line['cpu_ms_per_image']:.2f}",
            f"{line['peak_rss_mb']:,.0f}",
        ]
        for line in lines
    ]
    heads = ["contender", "in flight", "images/s", "share of ceiling", "CPU ms/image", "peak RSS MB"]
    return _table(heads, rows)


def _quota(lines: Sequence[Line]) -> str:
    rows = [
        [
            line["contender"],
            str(line["processes"]),
            f"{line['share_of_quota_used']:.1%}",
            f"{line['share_rejected']:.1%}",
        ]
        for line in lines
    ]
    return _table(["contender", "processes", "quota used", "calls rejected"], rows)


def _bulk(line: Line) -> str:
    halves = f"first half {line['peak_rss_first_half_mb']:.0f}, second half {line['peak_rss_second_half_mb']:.0f}"
    return (
        f"(d) {line['rows']:,} rows at low latency: {line['images_per_sec']:,.0f} images/s, "
        f"{line['cpu_ms_per_image']:.2f} ms CPU an image, peak RSS {line['peak_rss_mb']:.0f} MB ({halves}); "
        f"{line['rows_lost']} rows lost, {line['rows_doubled']} doubled, by SQL."
    )


def _inline(lines: Sequence[Line]) -> str:
    rows = [
        [
            line["way"],
            f"{line['rows_answered']:,}",
            f"{line['images_per_sec']:,.1f}",
            f"{line['cpu_ms_per_image']:.1f}",
            f"{line['peak_rss_mb']:,.0f}",
        ]
        for line in lines
    ]
    return _table(["images", "answered", "images/s", "CPU ms/image", "peak RSS MB"], rows)


def _split(lines: Sequence[Line]) -> tuple[Line | None, list[Line]]:
    """The pipeline's line, and those of (b) and (c)."""
    ours = next((line for line in lines if line["contender"].startswith("(d)")), None)
    return ours, [line for line in lines if line["contender"].startswith(("(b)", "(c)"))]


def _least(what: str, value: float, least: float) -> Bar:
    return Bar(what, f">= {least:.0%}", f"{value:.1%}", value >= least)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(heads) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows))
