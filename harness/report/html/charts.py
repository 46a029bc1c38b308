# SPDX-License-Identifier: GPL-2.0-only
"""Small charts as inline SVG; outcomes differ in height too, for those who do not see colours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from harness.history.trend import Day
from harness.report.outcome import Outcome

_BARS = {
    Outcome.PASS: (4, 8),
    Outcome.FAIL: (0, 12),
    Outcome.CRASH: (0, 12),
    Outcome.ERROR: (0, 12),
    Outcome.XFAIL: (6, 6),
    Outcome.SKIP: (10, 2),
}
"""Top and height of an outcome's bar in a strip of 12."""


def _svg(kind: str, width: int, height: int, label: str, body: str) -> Markup:
    return Markup(  # numbers, and what is escaped below
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img"'
        f' aria-label="{escape(label)}">{body}</svg>'
    )


def said(counts: Mapping[Outcome, int]) -> str:
    """Say counts in words: '3 pass, 1 fail'."""
    return ", ".join(f"{counts[each]} {each}" for each in Outcome if counts.get(each)) or "none"


def strip(outcomes: Sequence[Outcome | None]) -> Markup:
    """Draw a bar for each run, the oldest first; None where a run lacks the test."""
    paths: dict[Outcome, list[str]] = {}
    start = 0
    for end in range(1, len(outcomes) + 1):
        if end < len(outcomes) and outcomes[end] == outcomes[start]:
            continue
        if (outcome := outcomes[start]) is not None:
            top, height = _BARS[outcome]
            paths.setdefault(outcome, []).append(f"M{start} {top}h{end - start}v{height}H{start}z")
        start = end
    body = "".join(f'<path class="{each}" d="{"".join(d)}"/>' for each, d in paths.items())
    counts = Counter(each for each in outcomes if each is not None)
    return _svg("strip", max(1, len(outcomes)), 12, f"oldest to newest: {said(counts)}", body)


def bar(counts: Mapping[Outcome, int]) -> Markup:
    """Draw counts as one bar of as many parts; what is bad has some width however little it is."""
    total = sum(counts.values())
    if not total:
        return _svg("bar", 100, 10, "no results", "")
    widths = {each: counts[each] / total * 100 for each in Outcome if counts.get(each)}
    widths = {each: max(width, 2.0) if each.bad else width for each, width in widths.items()}
    scale = 100 / sum(widths.values())
    body, left = "", 0.0
    for each, width in widths.items():
        width *= scale
        body += f'<rect class="{each}" x="{left:.2f}" width="{width:.2f}" height="10"/>'
        left += width
    return _svg("bar", 100, 10, said(counts), body)


def line(values: Sequence[float | None], label: str) -> Markup:
    """Draw values over time from zero up; None leaves a gap."""
    known = [each for each in values if each is not None]
    top = max(known, default=0.0) or 1.0
    width, height = 300, 60
    step = width / max(1, len(values) - 1)
    points = [
        f"{number * step:.1f},{height - 2 - each / top * (height - 6):.1f}"
        for number, each in enumerate(values)
        if each is not None
    ]
    if len(points) == 1:
        points.append(f"{width},{points[0].partition(',')[2]}")
    area = f'<polygon points="0,{height} {" ".join(points)} {width},{height}"/>' if points else ""
    body = area + f'<polyline points="{" ".join(points)}" vector-effect="non-scaling-stroke"/>'
    return _svg("line", width, height, label, body)


def day_bars(days: Sequence[Day]) -> Markup:
    """Draw a bar for each day: how many results were good, bad, neither."""
    top = max((day.good + day.bad + day.other for day in days), default=0) or 1
    body = ""
    for number, day in enumerate(days):
        base = 60.0
        parts = ((day.good, "pass"), (day.other, "skip"), (day.bad, "fail"))
        for count, kind in parts:
            if count:
                height = max(count / top * 58, 1.5 if kind == "fail" else 0.2)
                base -= height
                place = f'x="{number * 4 + 0.4:.1f}" y="{max(base, 0):.2f}"'
                size = f'width="3.2" height="{height:.2f}"'
                body += f'<rect class="{kind}" {place} {size}/>'
    bad = sum(day.bad for day in days)
    total = sum(day.good + day.bad + day.other for day in days)
    label = f"{len(days)} days: {total} results, {bad} bad"
    return _svg("days", max(1, len(days) * 4), 60, label, body)
