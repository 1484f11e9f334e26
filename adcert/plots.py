"""Pictures, by matplotlib: the course of a training run, and the trade-off between standard and certified accuracy."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import ColorType

from adcert.anchors import anchors
from adcert.results import Group, Outcome, groups, to_come


def trade_off(outcomes: Sequence[Outcome]) -> bytes:
    """An SVG of the students of one recipe: a line per label through the means over seeds.

    Bars show one standard deviation over seeds; what held-out images select is filled; published points are grey. The
    title of an unfinished study says how much is missing.
    """
    first = outcomes[0]
    with _style():
        figure = Figure(figsize=(7, 5), layout="constrained")
        axes = figure.add_subplot()
        _published(axes, first.dataset, first.eps)
        by_label: dict[str, list[Group]] = {}
        for group in groups(outcomes):
            by_label.setdefault(group.label, []).append(group)
        for label, members in by_label.items():
            _line(axes, label, members)
        axes.set_xlabel("standard accuracy, %")
        axes.set_ylabel("certified accuracy, %")
        missing = to_come(outcomes)
        unfinished = f" (unfinished: {missing} of {len(outcomes)} students to come)" if missing else ""
        axes.set_title(f"{first.recipe}: {first.dataset}, l_inf {first.eps}{unfinished}")
        axes.grid(alpha=0.2)
        if axes.has_data():
            figure.legend(fontsize=7, loc="outside lower center", ncols=2)
        return _svg(figure)


def training_curves(title: str, epochs: Sequence[Mapping[str, Any]]) -> bytes:
    """An SVG of what metrics.jsonl holds: terms of the loss above, accuracies on held-out images below, by epoch."""
    numbers = [each["epoch"] for each in epochs]
    with _style():
        figure = Figure(figsize=(7, 6), layout="constrained")
        above, below = figure.subplots(2, sharex=True)
        for term in dict.fromkeys(name for each in epochs for name in each["losses"]):
            above.plot(numbers, [each["losses"].get(term, 0.0) for each in epochs], label=term)
        above.set_yscale("asinh", linear_width=0.1)
        above.set_ylabel("terms of the loss")
        names = {"clean_accuracy": "clean", "pgd_accuracy": "PGD", "ibp_accuracy": "certified by IBP"}
        for (key, name), line in zip(names.items(), ("--", ":", "-"), strict=True):
            below.plot(numbers, [each[key] for each in epochs], line, label=name)
        below.set_ylabel("held-out accuracy, %")
        below.set_xlabel("epoch")
        radius = below.twinx()
        radius.plot(numbers, [each["eps"] for each in epochs], color="0.6", linewidth=1)
        radius.set_ylabel("eps trained at", color="0.4")
        radius.set_ylim(bottom=0)
        for axes in (above, below):
            axes.grid(alpha=0.2)
            axes.legend(fontsize=7)
        above.set_title(title)
        return _svg(figure)


@contextmanager
def _style() -> Iterator[None]:
    """The same picture gives the same bytes."""
    with matplotlib.rc_context({"svg.hashsalt": "adcert", "svg.fonttype": "none", "font.size": 9}):
        yield


def _svg(figure: Figure) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="svg", metadata={"Date": None})
    return picture.getvalue()


def _published(axes: Axes, dataset: str, eps: str) -> None:
    known = anchors(dataset, eps)
    for number, source in enumerate(dict.fromkeys(anchor.source for anchor in known)):
        points = [anchor for anchor in known if anchor.source == source]
        clean, certified = [point.clean for point in points], [point.certified for point in points]
        axes.scatter(clean, certified, s=18, color="0.6", marker="x+1"[number % 3], label=source)
        for point in points:
            _note(axes, point.method, (point.clean, point.certified), "0.5")


def _line(axes: Axes, label: str, members: Sequence[Group]) -> None:
    ordered = sorted(members, key=lambda group: group.clean)
    clean, certified = [group.clean for group in ordered], [group.certified for group in ordered]
    bars = axes.errorbar(
        clean,
        certified,
        xerr=[group.clean_deviation for group in ordered],
        yerr=[group.certified_deviation for group in ordered],
        marker="o",
        markerfacecolor="white",
        linewidth=1,
        capsize=2,
        label=label,
    )
    selected = [group for group in ordered if group.selected]
    colour = bars.lines[0].get_color()
    axes.scatter([group.clean for group in selected], [group.certified for group in selected], color=colour, zorder=3)
    for group in ordered:
        if group.settings:
            _note(axes, group.settings, (group.clean, group.certified), colour)


def _note(axes: Axes, text: str, place: tuple[float, float], colour: ColorType) -> None:
    axes.annotate(text, place, xytext=(4, 4), textcoords="offset points", fontsize=6, color=colour)
