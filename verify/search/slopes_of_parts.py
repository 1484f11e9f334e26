"""Slopes of activations that make bounds of functionals over parts of a box tight, many parts at once: they prove what
it takes CROWN hundreds of smaller parts to prove, in deep networks above all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from verify.bounds.curves import CROWN_SLOPE
from verify.bounds.quadratics import Curvature
from verify.bounds.relaxations import some_lanes
from verify.core.intervals import Interval
from verify.core.rounding import Array
from verify.model.network import Network
from verify.proofs.exclusion import PartBounds
from verify.proofs.input_splits import PartSlopes
from verify.search.backward import Backward
from verify.search.optimise import Settings, optimised

AT_PARTS = Settings(iterations=10, slope_step=0.25, multiplier_step=0.0, decay=0.97)

_OFTEN, _SELDOM, _LONGEST_PAUSE = 0.25, 0.125, 16
"""Where slopes prove at least such a share of the parts for which they are looked for, the next ones are tried, too;
where they prove less than the second, up to so many times as many parts are left out before, more each time."""

_MOST_SLOPES = 2**27
"""Of a proof, for somebody has to keep them."""

_ROOM = 1.05
"""What approximate bounds must exceed is so many times what rigorous ones lost that missed last."""


class _Pairs(NamedTuple):
    """Of a part and an alternative each. bounds: approximate ones of excesses. reached: whether these seem to be
    enough. slopes: pairs x neurons, in 255ths."""

    part: NDArray[np.intp]
    alternative: NDArray[np.intp]
    bounds: Array
    reached: NDArray[np.bool_]
    slopes: NDArray[np.uint8]

    def taken(self, index: NDArray[np.intp]) -> _Pairs:
        return _pairs([each[index] for each in self])


def _pairs(arrays: Iterable[NDArray[Any]]) -> _Pairs:
    return _Pairs(*arrays)


class SlopesOfParts:
    """For the functionals of a network, those in the columns, that exclude an alternative each."""

    def __init__(self, network: Network, columns: NDArray[np.intp]) -> None:
        self._backward = Backward(network.output, torch.device("cpu"))
        self._columns = columns
        self._slack, self._kept = 0.0, 0
        self._pause, self._left_out = 0, 0  # how many parts per part tried, and how many more

    def improve(self, found: PartBounds, needed: Array, stop: Callable[[], bool]) -> PartSlopes | None:
        """Use slopes for parts of which not everything is proved, where some are found with which it seems to be.

        needed: what excesses must exceed, for each alternative.
        """
        # Quadratic forms count for more than slopes, which would have to take them into account.
        bends = any(isinstance(each, Curvature) for each in found.curvatures.values())
        if bends or not self._backward.neurons or self._kept * self._backward.neurons > _MOST_SLOPES:
            return None
        excess = found.excess[:, self._columns]
        open_ = ~(excess > needed)
        missing = np.where(open_, needed - excess, -np.inf)
        tried = np.flatnonzero(np.isfinite(missing.max(axis=1)))  # neither NaN nor proved
        if self._left_out > 0 or not len(tried):
            self._left_out -= len(tried)
            return None
        hardest = np.zeros_like(open_)
        hardest[tried, missing[tried].argmax(axis=1)] = True
        first = self._optimised(found, hardest, needed, stop)
        others = open_ & ~hardest & np.isin(np.arange(len(open_)), first.part[first.reached])[:, np.newaxis]
        second = self._optimised(found, others, needed, stop)
        pairs = _pairs(map(np.concatenate, zip(first, second, strict=True)))
        pairs = pairs.taken(np.flatnonzero(~np.isin(pairs.part, pairs.part[~pairs.reached])))
        pairs = pairs.taken(np.lexsort((self._columns[pairs.alternative], pairs.part)))
        functional = self._columns[pairs.alternative]
        slopes = PartSlopes(pairs.part.astype(np.int32), functional.astype(np.int32), pairs.slopes)
        if len(pairs.part):
            found.steepen(slopes)
        self._learn(len(tried), pairs, found, needed)
        return slopes

    def _learn(self, tried: int, pairs: _Pairs, found: PartBounds, needed: Array) -> None:
        """From how many parts are proved, and from what approximate bounds hid."""
        part, functional = pairs.part, self._columns[pairs.alternative]
        excess = found.excess[part, functional]
        missed = ~(excess > needed[pairs.alternative])
        proved = len(np.setdiff1d(part, part[missed]))
        self._kept += len(part)
        if proved > _OFTEN * tried:
            self._pause = 0
        elif proved < _SELDOM * tried:
            self._pause = min(_LONGEST_PAUSE, max(1, 2 * self._pause))
        self._left_out = self._pause * tried
        losses = (pairs.bounds - excess)[missed] / _size(found.functionals[part, functional])[missed]
        if (usual := losses[np.isfinite(losses)]).size:
            self._slack = _ROOM * float(usual.max())

    def _optimised(
        self, found: PartBounds, wanted: NDArray[np.bool_], needed: Array, stop: Callable[[], bool]
    ) -> _Pairs:
        """Of the pairs that are wanted, parts x alternatives."""
        backward = self._backward
        part, alternative = np.nonzero(wanted)
        functionals = found.functionals[part, self._columns[alternative]]
        constants = np.broadcast_to(found.constants, wanted.shape[:1] + found.constants.shape[1:])
        constant = constants[part, self._columns[alternative]]
        target = needed[alternative] + self._slack * _size(functionals)
        bounds, slopes = np.empty(len(part)), np.zeros((len(part), backward.neurons), np.uint8)
        unsplit = np.where(backward.smooth.numpy(), round(255 * CROWN_SLOPE), 0)
        for start in range(0, len(part), backward.width):
            some = slice(start, start + backward.width)
            used, place = np.unique(part[some], return_inverse=True)
            intervals = {
                tensor: Interval(*(some_lanes(end, used) for end in ends)) for tensor, ends in found.intervals.items()
            }
            lanes = backward.lanes(intervals, np.zeros((len(used), *backward.output.shape)))
            lanes = replace(lanes.take(torch.tensor(place)), functional=backward.values(functionals[some]))
            chosen = lanes.chosen
            begin = lanes.fixed[:, chosen]
            aim = backward.values(target[some] - constant[some])
            best = optimised(backward, lanes, chosen, begin, torch.zeros_like(begin), AT_PARTS, target=aim, stop=stop)
            bounds[some] = best.bounds.double().numpy() + constant[some]
            slopes[some] = unsplit
            slopes[some, chosen.numpy()] = best.slopes.numpy()
        return _Pairs(part, alternative, bounds, bounds > target, slopes)


def _size(functionals: Array) -> Array:
    """What rounding is in proportion to."""
    return np.asarray(np.abs(functionals).sum(axis=tuple(range(1, functionals.ndim))))
