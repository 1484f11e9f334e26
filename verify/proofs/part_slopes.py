"""Slopes and multipliers for bounds of single functionals over single parts of a box, the choice of whoever wrote the
proof (alpha- and beta-CROWN for these)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from verify.core.rounding import Array


class PartSlopes(NamedTuple):
    """For some functionals over some of several parts; CROWN decides about the others.

    part, functional: int32, of each pair, in order. slopes: pairs x neurons that have some, uint8, in 255ths.
    multipliers: pairs x splits of neurons, float32, as many as the deepest part has: those on the way to the part come
    first.
    """

    part: NDArray[np.int32]
    functional: NDArray[np.int32]
    slopes: NDArray[np.uint8]
    multipliers: NDArray[np.float32]

    def fit(self, parts: int, functionals: float = math.inf) -> bool:
        """Whether they are for some of so many parts and functionals, in order, each pair at most once."""
        part, functional = self.part, self.functional
        later = (part[1:] > part[:-1]) | ((part[1:] == part[:-1]) & (functional[1:] > functional[:-1]))
        inside = (part >= 0) & (part < parts) & (functional >= 0) & (functional < functionals)
        return bool(later.all() and inside.all())

    def of(self, parts: NDArray[np.intp]) -> PartSlopes:
        """Those of some parts, whose numbers are in order, under new numbers."""
        place = np.searchsorted(parts, self.part)
        some = place < len(parts)
        some[some] = parts[place[some]] == self.part[some]
        return self.rows(some)._replace(part=place[some].astype(np.int32))

    def rows(self, some: slice | NDArray[np.bool_] | NDArray[np.intp]) -> PartSlopes:
        """Some of the pairs."""
        return PartSlopes(self.part[some], self.functional[some], self.slopes[some], self.multipliers[some])

    def at(self, part: int) -> PartSlopes:
        """The pairs of one of the parts."""
        return self.rows(slice(*np.searchsorted(self.part, (part, part + 1))))

    def for_splits(self, count: int) -> PartSlopes:
        """The same without multipliers of more splits than so many."""
        return self._replace(multipliers=self.multipliers[:, :count])

    @property
    def key(self) -> bytes:
        """What tells such of one part apart."""
        content = self.functional, self.slopes, self.multipliers
        return b"".join(str(each.shape).encode() + each.tobytes() for each in content)

    def improve(self, lower: Array, bounds: Callable[[PartSlopes], Array], at_a_time: int) -> None:
        """Write bounds with these into lower ones, parts x functionals, where they are better. bounds: of some pairs,
        with what is chosen for these; of so many at most."""
        for start in range(0, len(self.part), at_a_time):
            some = self.rows(slice(start, start + at_a_time))
            lower[some.part, some.functional] = np.fmax(lower[some.part, some.functional], bounds(some))
