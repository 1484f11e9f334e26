"""Boxes of inputs: every float32 point within eps of an image, in each coordinate."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.core.intervals import Interval
from verify.core.rounding import Array, down
from verify.errors import Problem

InputRange = tuple[float, float]
_SHORT_NUMBER = re.compile(r"[^eE]{1,100}([eE][+-]?\d{1,2})?")


def parse_eps(text: str) -> Fraction:
    """A radius given as a decimal or a fraction, such as 0.1 or 2/255, exactly; raises Problem for anything else."""
    try:
        if not _SHORT_NUMBER.fullmatch(text.strip()):  # 1e999999999 takes a gigabyte
            raise ValueError
        eps = Fraction(text.strip())
    except (ValueError, ZeroDivisionError) as error:
        raise Problem(f"eps must be a decimal or a fraction such as 2/255, not {text!r}") from error
    if eps < 0:
        raise Problem(f"eps must not be negative, but is {text}")
    return eps


def parse_range(text: str) -> InputRange:
    """The least and the largest valid input, such as 0,255; raises Problem for anything else."""
    try:
        low, high = (float(end) for end in text.split(","))
        if not -math.inf < low < high < math.inf:
            raise ValueError
    except ValueError as error:
        raise Problem(f"an input range is two rising numbers such as 0,255, not {text!r}") from error
    return low, high


def eps_text(eps: Fraction) -> str:
    """A radius as a decimal, unless it is none: 0.1, but 2/255."""
    text = f"{float(eps):.9g}"
    return text if Fraction(text) == eps else str(eps)


@np.errstate(over="ignore")
def box_around(x: NDArray[np.float32], eps: Fraction, input_range: InputRange | None) -> Interval:
    """The box of radius eps around each point of x (lanes x shape), rounded outward to float32, within the input range.

    Every real point of the exact box, and so every float32 one, is inside. Raises Problem when x holds a number that is
    not finite or lies outside the input range.
    """
    require_inside(x, input_range)
    radius = float(eps)
    if Fraction(radius) < eps:
        radius = float(np.nextafter(radius, np.inf))
    lower = _float32_below(_exact_sum_below(x.astype(np.float64), -radius))
    upper = -_float32_below(_exact_sum_below(-x.astype(np.float64), -radius))
    if input_range is not None:
        low, high = input_range
        floor, ceiling = _float32_below(np.float64(low)), -_float32_below(np.float64(-high))
        lower, upper = np.maximum(lower, floor), np.minimum(upper, ceiling)
    return Interval(lower, upper)


def require_inside(x: NDArray[np.float32], input_range: InputRange | None) -> None:
    """Raise Problem when x holds a number that is not finite or lies outside the input range."""
    if not np.isfinite(x).all():
        raise Problem("the inputs hold numbers that are not finite")
    if input_range is not None:
        low, high = input_range
        if not ((x >= np.float32(low)) & (x <= np.float32(high))).all():
            raise Problem(f"the inputs leave the range [{low}, {high}] that the model is meant for: say another one")


def _exact_sum_below(x: Array, y: float) -> Array:
    """The largest float64 not above x + y: the rounded sum, or its neighbour below where it was rounded up."""
    total = x + y
    rest = total - x
    error = (x - (total - rest)) + (y - rest)  # exact (Knuth's two-sum)
    return np.where(error < 0, down(total), total)


def _float32_below(x: Any) -> Any:
    """The largest float32 not above x, as float64."""
    nearest = np.asarray(x).astype(np.float32)
    below = np.where(nearest > x, np.nextafter(nearest, np.float32(-np.inf)), nearest)
    return below.astype(np.float64)
