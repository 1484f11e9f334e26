"""Slopes of activations, and multipliers of splits, that make bounds of functionals over parts of a box tight, many
parts at once: they prove what it takes CROWN hundreds of smaller parts to prove, in deep networks above all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from verify.bounds.curves import CROWN_SLOPE
from verify.core.rounding import Array
from verify.search.backward import Backward
from verify.search.lanes import Lanes
from verify.search.optimise import Settings, optimised

AT_PARTS = Settings(iterations=10, slope_step=0.25, multiplier_step=0.5, decay=0.95)

_OFTEN, _SELDOM, _LONGEST_PAUSE = 0.25, 0.125, 16
"""Where slopes prove at least such a share of the parts for which they are looked for, the next ones are tried, too;
where they prove less than the second, up to so many times as many parts are left out before, more each time."""

_MOST_SLOPES = 2**27
"""Of a proof, for somebody has to keep them."""

_ROOM = 1.05
"""What approximate bounds must exceed is so many times what rigorous ones lost that missed last."""


@dataclass(frozen=True)
class Missing:
    """What is not proved about some parts.

    excess: lower bounds, parts x functionals; needed: what they must exceed. functionals: parts x functionals x the
    shape of what they are of; constants: what to add, parts x functionals. lanes: of some of the parts, by number, for
    functionals to be put in.
    """

    excess: Array
    needed: Array
    functionals: Array
    constants: Array
    lanes: Callable[[NDArray[np.intp]], Lanes]

    @property
    def open(self) -> NDArray[np.bool_]:
        """Which functionals are not proved, but bounded."""
        return ~(self.excess > self.needed) & np.isfinite(self.excess).all(axis=1, keepdims=True)


@dataclass(frozen=True)
class Pairs:
    """Of a part and a functional each. bounds: approximate ones, with the slopes and multipliers; reached: whether
    these seem to be enough. slopes: pairs x neurons, in 255ths; multipliers: pairs x neurons."""

    part: NDArray[np.intp]
    functional: NDArray[np.intp]
    bounds: Array
    reached: NDArray[np.bool_]
    slopes: NDArray[np.uint8]
    multipliers: NDArray[np.float32]

    def of_proved(self) -> Pairs:
        """Those of parts of which everything seems to be proved."""
        some = ~np.isin(self.part, self.part[~self.reached])
        return Pairs(*(each[some] for each in vars(self).values()))


class SlopesOfParts:
    """For functionals of what `backward` bounds. patient: whether to look for slopes even where they seldom help."""

    def __init__(self, backward: Backward, *, patient: bool = False) -> None:
        self._backward, self._patient = backward, patient
        self._slack, self._kept = 0.0, 0
        self._pause, self._left_out = 0, 0  # how many parts per part tried, and how many more

    def found(self, missing: Missing, stop: Callable[[], bool]) -> Pairs | None:
        """Slopes for all that is not proved; None if it is not worth while to look for them."""
        backward, open_ = self._backward, missing.open
        parts = int(open_.any(axis=1).sum())
        if not parts or not backward.neurons or self._kept * backward.neurons > _MOST_SLOPES:
            return None
        if self._left_out > 0 and not self._patient:
            self._left_out -= parts
            return None
        part, functional = np.nonzero(open_)
        functionals, constant = missing.functionals[part, functional], missing.constants[part, functional]
        target = np.broadcast_to(missing.needed, open_.shape)[part, functional] + self._slack * _size(functionals)
        bounds = np.empty(len(part))
        slopes = np.empty((len(part), backward.neurons), np.uint8)
        slopes[:] = np.where(backward.smooth.cpu().numpy(), round(255 * CROWN_SLOPE), 0)
        multipliers = np.zeros(slopes.shape, np.float32)
        for start in range(0, len(part), backward.width):
            some = slice(start, start + backward.width)
            used, place = np.unique(part[some], return_inverse=True)
            lanes = missing.lanes(used).take(torch.tensor(place, device=backward.device))
            lanes = replace(lanes, functional=backward.values(functionals[some]))
            chosen = lanes.chosen
            begin = lanes.fixed[:, chosen]
            aim = backward.values(target[some] - constant[some])
            none = torch.zeros_like(begin)
            best = optimised(backward, lanes, chosen, begin, none, AT_PARTS, target=aim, stop=stop)
            bounds[some] = best.bounds.double().cpu().numpy() + constant[some]
            numbers = chosen.cpu().numpy()
            slopes[some, numbers] = best.slopes.cpu().numpy()
            multipliers[some, numbers] = best.multipliers.cpu().numpy()
        return Pairs(part, functional, bounds, bounds > target, slopes, multipliers)

    def learn(self, missing: Missing, found: Pairs, excess: Array) -> None:
        """From rigorous bounds, parts x functionals, of parts of which everything seemed to be proved."""
        tried, likely = len(np.unique(found.part)), found.of_proved()
        reached = excess[likely.part, likely.functional]
        missed = ~(reached > np.broadcast_to(missing.needed, excess.shape)[likely.part, likely.functional])
        proved = len(np.setdiff1d(likely.part, likely.part[missed]))
        self._kept += len(likely.part)
        if proved > _OFTEN * tried:
            self._pause = 0
        elif proved < _SELDOM * tried:
            self._pause = min(_LONGEST_PAUSE, max(1, 2 * self._pause))
        self._left_out = self._pause * tried
        losses = ((likely.bounds - reached) / _size(missing.functionals[likely.part, likely.functional]))[missed]
        if (usual := losses[np.isfinite(losses)]).size:
            self._slack = _ROOM * float(usual.max())


def _size(functionals: Array) -> Array:
    """What rounding is in proportion to."""
    return np.asarray(np.abs(functionals).sum(axis=tuple(range(1, functionals.ndim))))
