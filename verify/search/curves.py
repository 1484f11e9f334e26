"""Lines around smooth functions in torch, whose slopes are chosen: as in `verify.bounds.curves`, but differentiable."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor as Values

from verify.bounds.curves import NEAR_CROWN, Curve
from verify.core.intervals import Interval
from verify.core.primitives import Tensor
from verify.core.rounding import REAL, Array


class Cells(NamedTuple):
    """Of a smooth function, as `Curve` has it, lanes x points x neurons or lanes x neurons; and where these may choose
    slopes."""

    points: Array
    values: Array
    slack: Array
    below: Array
    low: Array
    above: Array
    high: Array
    least: Array
    steepest: Array
    usable: Array

    @staticmethod
    def of(tensor: Tensor, lower: Array, upper: Array) -> Cells:
        """For what its neurons read, lanes x neurons. Near enough for the search, whatever the contract."""
        primitive: Any = tensor.primitive
        x = Interval(lower, upper)
        with np.errstate(all="ignore"):
            curve = Curve.of(primitive, x, Interval(*primitive.enclosure(*x, REAL)), REAL)
        points, values, bow = curve.cells
        slack, (least, steepest) = bow + curve.slack, curve.cells.steepness()
        found = [values.swapaxes(0, 1) for values in (points, values)]
        found += [slack, curve.below.slope, curve.below.offset, curve.above.slope, curve.above.offset, least, steepest]
        usable = lower < upper
        for each in found:
            usable = usable & np.isfinite(each if each.ndim == 2 else each.sum(axis=1))
        # An infinite number would make any other one NaN.
        for each in (*found[:3], *found[-2:]):
            each[~np.broadcast_to(usable[:, np.newaxis] if each.ndim == 3 else usable, each.shape)] = 0.0
        return Cells._make([*found, usable])


def line(a: Values, share: Values, cells: tuple[Values, ...]) -> tuple[Values, Values]:
    """Slopes and offsets of the lines that functionals (lanes x neurons) of a smooth function take: as `Curve.chosen`
    has them."""
    points, values, slack, below, low, above, high, least, steepest = cells
    positive = a > 0
    base, end = torch.where(positive, below, above), torch.where(positive, low, high)
    turn = (255.0 * share - 128.0) / 127.0
    slope = base + turn * torch.where(turn > 0, steepest - base, base - least).clamp(min=0.0)
    gap = torch.addcmul(values, slope[:, None], points, value=-1)
    offset = torch.where(positive, gap.amin(1) - slack, gap.amax(1) + slack)
    return slope, torch.where(turn.abs() > NEAR_CROWN, offset, offset + (end - offset).detach())
