"""Lines around elementwise functions: around any function over cells, and around those that float32 cannot compute
exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

from verify.core.functions import OWN_ERROR, Function, normal_arguments
from verify.core.intervals import Interval, magnitude_of, midpoint
from verify.core.rounding import Array, Contract

_CELLS = 16
"""Into which an interval is divided to find lines around a function."""

CROWN_SLOPE = 128.0 / 255.0
"""The share of the slopes that a line may have, that stands for CROWN's."""

NEAR_CROWN = 0.5 / 127.0
"""What turns a slope by less than one 255th does not turn it."""


class Line(NamedTuple):
    """y = slope x + offset, elementwise."""

    slope: Array
    offset: Array


class Cells(NamedTuple):
    """A function over intervals that are divided into cells: points, the ends of these and kinks, and values there
    (points x lanes x shape); and by how much the function may pass the chord of a cell."""

    points: Array
    values: Array
    bow: Array

    @staticmethod
    def of(function: Callable[[Array], Array], kinks: tuple[float, ...], curvature: Array, x: Interval) -> Cells:
        """Whatever the slope k is, on cells of width h the function less k x stays within |f''| h^2 / 8 of its chords,
        so that its values at the ends of cells, and at kinks, bound it everywhere."""
        step = (x.upper - x.lower) / _CELLS
        ends = [x.lower + cell * step for cell in range(_CELLS)] + [x.upper]
        points = np.stack([*ends, *(np.clip(kink, x.lower, x.upper) for kink in kinks)])
        width = step * (1.0 + 2.0**-20) + 2.0**-50 * magnitude_of(x)  # of a cell, between rounded ends
        return Cells(points, function(points), 0.125 * (1.0 + 2.0**-40) * curvature * width * width)

    def line(self, sign: int, slope: Array) -> Line:
        """Of that slope (whose shape ends as that of the points does), above the function for sign 1, below it for
        -1."""
        offset = np.full_like(slope, -np.inf)
        for point, value in zip(self.points, self.values, strict=True):
            ramp = slope * point
            offset = np.maximum(offset, sign * (value - ramp) + OWN_ERROR * (np.abs(value) + np.abs(ramp)))
        return Line(slope, sign * (offset + self.bow))

    def least_area(self, sign: int) -> Array:
        """The slope of the line that leaves least area, about.

        Of all lines above a function that is as high as the concave envelope over the midpoint of the interval: as the
        highest chord. The slope is taken from chords between the ends of cells.
        """
        slope, best = np.zeros_like(self.bow), np.full_like(self.bow, -np.inf)
        width = (self.points[_CELLS] - self.points[0]) / _CELLS
        for left, right in product((1, 2, 4, _CELLS // 2), repeat=2):
            first, last = self.values[_CELLS // 2 - left], self.values[_CELLS // 2 + right]
            height = sign * (right * first + left * last) / (left + right)
            slope = np.where(height > best, (last - first) / ((left + right) * width), slope)
            best = np.fmax(best, height)
        return np.where(np.isfinite(slope), slope, 0.0)

    def steepness(self) -> tuple[Array, Array]:
        """The least slope of a chord, and the largest one."""
        with np.errstate(all="ignore"):
            chords = np.diff(self.values[: _CELLS + 1], axis=0) / np.diff(self.points[: _CELLS + 1], axis=0)
        return np.fmin.reduce(chords), np.fmax.reduce(chords)


@dataclass(frozen=True)
class Curve:
    """A function over intervals, and lines below and above its deployed values, or an end of the interval of these
    where that is nearer on average: those of CROWN, and of chosen slopes."""

    cells: Cells
    slack: Array
    moved: float
    below: Line
    above: Line

    @staticmethod
    def of(function: Function, x: Interval, y: Interval, contract: Contract) -> Curve:
        """y: an interval of the values."""
        lower, upper = normal_arguments(x.lower, x.upper, contract)
        cells = Cells.of(function.apply, function.kinks, function.curvature(lower, upper), Interval(lower, upper))
        slack = function.error(magnitude_of(y), magnitude_of(x), contract)
        moved = contract.underflow * 2.0**24
        below, above = (_moved(cells, sign, cells.least_area(sign), slack, moved) for sign in (-1, 1))
        return Curve(cells, slack, moved, *or_ends(below, above, x, y))

    def chosen(self, sign: int, share: Array) -> Line:
        """A line above for sign 1, or below for -1, with a chosen slope: that of CROWN for a share of 128 / 255, less
        steep towards 0, down to the least slope of a chord, and steeper towards 1. CROWN's line where the share is NaN,
        or no line of that slope is known.

        share: lanes x functionals x shape.
        """
        base = self.above if sign > 0 else self.below
        least, steepest = self.cells.steepness()
        turn = (255.0 * share - 128.0) / 127.0
        reach = np.where(turn > 0, (steepest - base.slope)[:, np.newaxis], (base.slope - least)[:, np.newaxis])
        slope = base.slope[:, np.newaxis] + turn * np.maximum(reach, 0.0)
        points, values, bow = self.cells
        cells = Cells(points[:, :, np.newaxis], values[:, :, np.newaxis], bow[:, np.newaxis])
        found = _moved(cells, sign, slope, self.slack[:, np.newaxis], self.moved)
        usable = (np.abs(turn) > NEAR_CROWN) & np.isfinite(found.slope) & np.isfinite(found.offset)
        return Line(
            np.where(usable, found.slope, base.slope[:, np.newaxis]),
            np.where(usable, found.offset, base.offset[:, np.newaxis]),
        )


def _moved(cells: Cells, sign: int, slope: Array, slack: Array, moved: float) -> Line:
    """A line around the deployed values of a function: off by `slack`, at arguments that may be off by `moved`."""
    line = cells.line(sign, slope)
    return Line(line.slope, line.offset + sign * (slack + moved * np.abs(line.slope)))


def or_ends(below: Line, above: Line, x: Interval, y: Interval) -> tuple[Line, Line]:
    """The lines around y for x, or the ends of y's interval where these are nearer on average."""
    centre, _, _ = midpoint(x)
    low, high = below.slope * centre + below.offset > y.lower, above.slope * centre + above.offset < y.upper
    return (
        Line(np.where(low, below.slope, 0.0), np.where(low, below.offset, y.lower)),
        Line(np.where(high, above.slope, 0.0), np.where(high, above.offset, y.upper)),
    )
