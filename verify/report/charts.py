"""Charts as inline SVG: shapes and patterns besides colour, sizes and colours from the style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from verify.report.markup import Html, join, tag
from verify.report.results import Outcome, Result
from verify.report.wording import MEANINGS, SYMBOLS, count, counted, decimal, percent

_WIDTH, _HEIGHT = 400, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 12, 12, 40
_MARKERS = {  # of radius 4.5 around the origin
    "circle": "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z",
    "square": "M-4 -4h8v8h-8z",
    "triangle": "M0 -5l5 9h-10z",
    "diamond": "M0 -5.5l5.5 5.5l-5.5 5.5l-5.5 -5.5z",
    "cross": "M-4 -4l8 8M4 -4l-8 8",
}


def patterns() -> Html:
    """Once in a page: a pattern for each outcome that is not drawn solid."""
    strokes = {
        Outcome.UNDECIDED: "M-1 1l2 -2M0 6l6 -6M5 7l2 -2",
        Outcome.COUNTEREXAMPLE: "M0 3h6M3 0v6",
        Outcome.MISCLASSIFIED: "M1.5 0v6M4.5 0v6",
    }
    made = [
        tag(
            "pattern",
            tag("rect", width=6, height=6, class_=f"ground {outcome}"),
            tag("path", d=path, class_=f"hatch {outcome}"),
            id=f"pattern-{outcome}",
            width=6,
            height=6,
            patternUnits="userSpaceOnUse",
        )
        for outcome, path in strokes.items()
    ]
    return tag("svg", tag("defs", *made), class_="definitions", width=0, height=0, aria_hidden="true")


def shares(result: Result) -> Html:
    """All samples as one bar, with a legend that says what each part means."""
    total = len(result.samples)
    parts, left, spoken = [], 0.0, []
    for outcome in Outcome:
        if share := result.counts[outcome]:
            width = 400 * share / total
            parts.append(tag("rect", x=f"{left:.2f}", y=0, width=f"{width:.2f}", height=26, class_=f"fill {outcome}"))
            spoken.append(f"{outcome} {percent(share, total)}")
            left += width
    bar = tag(
        "svg",
        *parts,
        viewBox="0 0 400 26",
        preserveAspectRatio="none",
        class_="shares",
        role="img",
        aria_label=", ".join(spoken) or "no sample has a verdict",
    )
    legend = [
        tag(
            "li",
            swatch(outcome),
            tag("span", tag("b", counted(result.counts[outcome], outcome)), f": {MEANINGS[outcome]}"),
        )
        for outcome in Outcome
        if result.counts[outcome]
    ]
    return join(bar, tag("ul", *legend, class_="legend"))


def swatch(outcome: Outcome) -> Html:
    """The sign of an outcome."""
    return tag("span", SYMBOLS[outcome], class_=f"swatch {outcome}", aria_hidden="true")


def margins(result: Result) -> Html | None:
    """How the lower bounds of the margins are distributed, zero at the edge of a bar; None where there are none.

    Bounds that reach beyond the middle 98 % by far are counted in the outermost bars.
    """
    known = [sample for sample in result.samples if sample.margin is not None]
    if not known:
        return None
    values = np.array([sample.margin for sample in known])
    low, high = (float(end) for end in np.percentile(values, [1, 99]))
    if high > 0:
        low = max(low, -2 * high)  # loose bounds of what is not proved must not squeeze the proved ones together
    low, high = min(low, 0.0), max(high, 0.0)
    width = _nice(max(high - low, 1e-12) / 36)
    first = math.floor(low / width)
    last = max(math.ceil(high / width), first + 1)
    bins = np.clip(np.ceil(values / width) - 1, first, last - 1).astype(int) - first  # zero is not proved: left of it
    tallest = int(np.bincount(bins).max())
    across = _Scale(first * width, last * width, _LEFT, _WIDTH - _RIGHT)
    up = _Scale(0, tallest, _HEIGHT - _BOTTOM, _TOP)
    zero = tag("line", x1=f"{across(0):.2f}", x2=f"{across(0):.2f}", y1=_TOP - 6, y2=up(0), class_="zero")
    bars = []
    base = np.zeros(last - first, int)
    for outcome in Outcome:
        heights = np.bincount(bins[[sample.outcome is outcome for sample in known]], minlength=len(base))
        for place in np.flatnonzero(heights):
            bars.append(
                tag(
                    "rect",
                    x=f"{across((first + place) * width) + 0.4:.2f}",
                    y=f"{up(base[place] + heights[place]):.2f}",
                    width=f"{across(width) - across(0) - 0.8:.2f}",
                    height=f"{up(0) - up(heights[place]):.2f}",
                    class_=f"fill {outcome}",
                )
            )
        base += heights
    return _chart(
        f"Histogram of the lower bounds of {count(len(known), 'margin')}",
        across=(across, [*_ticks(first * width, last * width)], "lower bound of the least margin"),
        up=(up, [tick for tick in _ticks(0, tallest) if tick == int(tick)]),
        content=[*bars, zero],
        note="the outermost bars include what lies beyond"
        if values.min() < first * width or values.max() > last * width
        else "",
    )


@dataclass(frozen=True)
class Series:
    """Points (eps, accuracy in percent), by rising eps. kind: its class in the style sheet."""

    name: str
    kind: str
    points: tuple[tuple[float, float], ...]


def accuracy_over_eps(series: Sequence[Series]) -> Html:
    """Accuracies against eps, each with a marker of its own, and a legend."""
    furthest = max([1e-12, *(eps for one in series for eps, _ in one.points)])
    least = min([100.0, *(accuracy for one in series for _, accuracy in one.points)])
    low = 0 if least < 50 else min(90, 10 * math.floor(least / 10))  # so that lines near the top can be told apart
    across, up = _Scale(0, furthest, _LEFT, _WIDTH - _RIGHT - 8), _Scale(low, 100, _HEIGHT - _BOTTOM, _TOP)
    drawn, legend = [], []
    for one, marker in zip(series, [name for _ in series for name in _MARKERS], strict=False):
        places = [(f"{across(eps):.2f}", f"{up(accuracy):.2f}") for eps, accuracy in one.points]
        drawn.append(tag("path", d="M" + "L".join(" ".join(place) for place in places), class_=f"curve {one.kind}"))
        drawn += [
            tag("path", d=_MARKERS[marker], transform=f"translate({x} {y})", class_=f"marker {one.kind}")
            for x, y in places
        ]
        sign = tag(
            "svg", tag("path", d=_MARKERS[marker], class_=f"marker {one.kind}"), viewBox="-7 -7 14 14", class_="sign"
        )
        legend.append(tag("li", sign, tag("span", one.name)))
    chart = _chart(
        "Accuracy against eps: " + ", ".join(one.name for one in series),
        across=(across, [*_ticks(0, furthest)], "ε"),
        up=(up, _ticks(low, 100)),
        content=drawn,
        unit=" %",
        note=f"the axis begins at {low} %" if low else "",
    )
    return join(chart, tag("ul", *legend, class_="legend inline"))


class _Scale:
    """A linear map from [low, high] to [start, stop]."""

    def __init__(self, low: float, high: float, start: float, stop: float) -> None:
        self._low, self._start = low, start
        self._factor = (stop - start) / ((high - low) or 1)

    def __call__(self, value: float) -> float:
        return self._start + (value - self._low) * self._factor


def _chart(
    name: str,
    *,
    across: tuple[_Scale, Sequence[float], str],
    up: tuple[_Scale, Sequence[float]],
    content: Sequence[Html],
    unit: str = "",
    note: str = "",
) -> Html:
    x, x_ticks, x_name = across
    y, y_ticks = up
    grid: list[Html] = []
    for tick in y_ticks:
        at = f"{y(tick):.2f}"
        grid.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=at, y2=at, class_="grid"))
        grid.append(tag("text", f"{tick:g}{unit}", x=_LEFT - 6, y=f"{y(tick) + 4:.2f}", class_="end"))
    for tick in x_ticks:
        grid.append(tag("text", decimal(tick), x=f"{x(tick):.2f}", y=_HEIGHT - _BOTTOM + 15, class_="middle"))
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    grid.append(tag("text", x_name, x=middle, y=_HEIGHT - 6, class_="middle name"))
    spoken = f"{name}; {note}" if note else name
    chart = tag(
        "svg", *grid, *content, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", class_="chart", role="img", aria_label=spoken
    )
    return join(chart, tag("p", note.capitalize() + ".", class_="note") if note else None)


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers from low to high."""
    step = _nice((high - low) / 4)
    return [tick * step for tick in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _nice(step: float) -> float:
    """The least of 1, 2, 2.5 and 5 times a power of ten that is no less."""
    power = 10.0 ** math.floor(math.log10(step)) if step > 0 else 1.0
    return next((factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * (1 - 1e-9)), 10 * power)
