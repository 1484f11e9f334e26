"""What linear bounds in torch are computed over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor as Values

from verify.core.intervals import Interval
from verify.core.primitives import Tensor


@dataclass(frozen=True)
class Lanes:
    """For each lane a functional, a box, and what holds within it.

    functional: of the output. centre, radius: of the box. lower, upper: of what neurons read. open: neurons for which
    the slope of a line is a choice; fixed: the share of slopes (as `Backward.bounds` takes it) for the others. above,
    offset: the line above a ReLU. side: 1 or -1 for ReLUs that are split, 1 for smooth functions, else 0. around: what
    else is known of operations, by their results: of a smooth function what `Cells` holds, of a ReLU behind a dense
    layer centre and radius of what that reads, flat, and of others what their rules say (`verify.search.relaxations`).
    """

    functional: Values
    centre: Values
    radius: Values
    lower: Values
    upper: Values
    open: Values
    fixed: Values
    above: Values
    offset: Values
    side: Values
    around: Mapping[Tensor, tuple[Values, ...]]

    def __len__(self) -> int:
        return len(self.functional)

    def take(self, index: Values) -> Lanes:
        """The lanes of that index, or where it is true."""
        return self._mapped(lambda values: values[0][index], [self])

    def repeated(self, count: int) -> Lanes:
        """The only lane, that many times."""
        return self._mapped(lambda values: values[0].expand(count, *values[0].shape[1:]), [self])

    @staticmethod
    def joined(parts: Sequence[Lanes]) -> Lanes:
        """The lanes of all parts, one after the other."""
        return Lanes._mapped(torch.cat, parts)

    @property
    def chosen(self) -> Values:
        """The numbers of those neurons that are open or split in some lane."""
        return (self.open | (self.side != 0)).any(0).nonzero()[:, 0]

    @staticmethod
    def _mapped(function: Callable[[list[Values]], Values], parts: Sequence[Lanes]) -> Lanes:
        """Each array made of the corresponding ones of the parts."""
        around = {
            tensor: tuple(function(list(each)) for each in zip(*(part.around[tensor] for part in parts), strict=True))
            for tensor in parts[0].around
        }
        names = (field.name for field in fields(Lanes) if field.name != "around")
        side_by_side: Any = {name: function([getattr(part, name) for part in parts]) for name in names}
        return Lanes(**side_by_side, around=around)


def intervals_of_lanes(
    intervals: Mapping[Tensor, Interval], count: int, chosen: Sequence[int] | NDArray[np.intp]
) -> dict[Tensor, Interval]:
    """Those of some of so many lanes; constants have a single one for all."""
    return {
        tensor: Interval(*(np.broadcast_to(end, (count, *end.shape[1:]))[chosen] for end in ends))
        for tensor, ends in intervals.items()
    }
