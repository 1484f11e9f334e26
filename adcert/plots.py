"""The trade-off between standard and certified accuracy as a picture; needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import ColorType

from adcert.anchors import anchors
from adcert.results import Group, Outcome, groups


def trade_off(outcomes: Sequence[Outcome]) -> bytes:
    """An SVG of the students of one recipe: a line per label through the means over seeds.

    Bars show one standard deviation over seeds; what held-out images select is filled; published points are grey.
    """
    first = outcomes[0]
    with matplotlib.rc_context({"svg.hashsalt": "adcert", "svg.fonttype": "none", "font.size": 9}):
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
        axes.set_title(f"{first.recipe}: {first.dataset}, l_inf {first.eps}")
        axes.grid(alpha=0.2)
        if axes.has_data():
            figure.legend(fontsize=7, loc="outside lower center", ncols=2)
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
