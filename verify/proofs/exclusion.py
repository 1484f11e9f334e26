"""What a property forbids, over many boxes: proofs by sums of constraints, and with slopes that a proof chooses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.bounds.activations import neuron_count
from verify.bounds.evaluation import lanes_at_a_time
from verify.bounds.linear_bounds import lower_bounds
from verify.bounds.methods import FUNCTIONAL_PROOFS
from verify.bounds.neuron_bounds import crown_intervals
from verify.bounds.quadratics import Axes, Curvature
from verify.bounds.steps import some_intervals
from verify.core.intervals import Interval
from verify.core.primitives import Tensor
from verify.core.rounding import FLOAT64_UNIT, Array, Contract, kappa
from verify.errors import Rejected
from verify.model.network import Network
from verify.proofs.choices import slopes_alone
from verify.proofs.part_slopes import PartSlopes
from verify.proofs.properties import Conjunction, excluded
from verify.proofs.reachability import LARGEST_INTEGER, bounded_constraints, constraint_functionals, unreachable

_SLOPES = "crown"
"""The way of bounding that has slopes to choose."""

_TOGETHER = 2**22
"""Coefficients of all functionals over all boxes that are bounded together, at most (32 MiB)."""

Weights = NDArray[np.uint8]
"""Of constraints, lanes x constraints."""


class Exclusion:
    """Tells of boxes whether this way of bounding proves each alternative impossible there: by one constraint of each,
    or by the sum of several with the given weights, of all bounded constraints in order. Remembers what is proved.

    A functional is, without weights, the left side of a bounded constraint; with weights, the sum of those of an
    alternative.
    """

    def __init__(self, network: Network, alternatives: Sequence[Conjunction], contract: Contract, way: str) -> None:
        self._network, self._alternatives, self._contract, self._way = network, alternatives, contract, way
        self._rows = bounded_constraints(alternatives)
        functionals, self._constants = constraint_functionals(network, self._rows)
        self._functionals = functionals.reshape(len(self._rows), math.prod(network.output.shape))
        numbers = np.array([row.alternative for row in self._rows], np.intp)  # in order
        self._bounded_alternatives, self._first_rows = np.unique(numbers, return_index=True)
        ends = [_around(row.constraint.bound) for row in self._rows]
        self._below, self._above = np.array(ends).reshape(-1, 2).T
        self._strict = np.array([row.constraint.strict for row in self._rows], np.bool_)
        self._are_all = len(self._rows) == sum(map(len, alternatives))
        self._proved: set[tuple[bytes, ...]] = set()

    def __call__(self, boxes: Interval, weights: Weights | None, slopes: PartSlopes | None) -> NDArray[np.bool_]:
        """boxes: lanes x inputs. slopes: for some functionals."""
        if weights is not None and weights.shape[1] != len(self._rows):
            raise Rejected("it does not have one weight for each constraint")
        if slopes is not None:
            self._require_fit(slopes, len(self._rows) if weights is None else len(self._alternatives))
        keys = _keys(boxes, weights, slopes)
        new = np.array([lane for lane, key in enumerate(keys) if key not in self._proved], np.intp)
        step = max(1, _TOGETHER // max(1, self._functionals.size))
        for some in (new[first : first + step] for first in range(0, len(new), step)):
            parts = Interval(*(end[some] for end in boxes))
            done = self._bounded(parts, None if weights is None else weights[some], slopes and slopes.of(some))
            self._proved.update(keys[lane] for lane, proved in zip(some.tolist(), done, strict=True) if proved)
        return np.array([key in self._proved for key in keys])

    def _require_fit(self, slopes: PartSlopes, functionals: int) -> None:
        if self._way != _SLOPES:
            raise Rejected("its slopes are for other bounds than those it names")
        if slopes.slopes.shape[1] != neuron_count(self._network.output) or slopes.multipliers.shape[1]:
            raise Rejected("its slopes are not one for each neuron")
        if not slopes.fit(len(slopes.part) and int(slopes.part[-1]) + 1, functionals):
            raise Rejected("its slopes are for a functional that does not exist")

    @property
    def constraints(self) -> list[slice]:
        """Of each alternative that has bounded constraints, their numbers."""
        ends = [*self._first_rows[1:].tolist(), len(self._rows)]
        return [slice(first, end) for first, end in zip(self._first_rows.tolist(), ends, strict=True)]

    def over(self, boxes: Interval, *, directions: bool = True) -> Callable[[Weights | None], PartBounds]:
        """Bounds (CROWN) over the boxes. directions: whether to keep those."""
        curvatures: dict[Tensor, Axes | Curvature] = {}
        intervals = crown_intervals(self._network, self._shaped(boxes), self._contract, curvatures=curvatures)
        return lambda weights: PartBounds(self, boxes, weights, intervals, curvatures, directions=directions)

    def settle(
        self, boxes: Interval, weights: Weights | None, slopes: PartSlopes | None, lower: Array
    ) -> NDArray[np.bool_]:
        """The same, given rigorous lower bounds of the functionals, lanes x functionals, which have these slopes."""
        if weights is None and not self._are_all:
            settled = np.array([self._excluded(boxes, lane, least) for lane, least in enumerate(lower.tolist())])
        elif weights is None:
            # The least numbers that exclude the constraints, exactly; NaN is not among them.
            violated = lower >= np.where(self._strict, self._above, np.nextafter(self._below, np.inf))
            settled = np.all(self.of_alternatives(np.logical_or, violated), axis=1)
        else:
            bound, strict = self._right_sides(weights)
            settled = np.all(np.where(strict, lower >= bound, lower > bound), axis=1)
        keys = _keys(boxes, weights, slopes)
        self._proved.update(key for key, proved in zip(keys, settled, strict=True) if proved)
        return settled

    def _bounded(
        self, boxes: Interval, weights: Weights | None, slopes: PartSlopes | None
    ) -> Sequence[bool] | NDArray[np.bool_]:
        if slopes is not None:
            with np.errstate(all="ignore"):
                found = self.over(boxes, directions=False)(weights)
                found.steepen(slopes)
                return found.settle(np.ones(len(boxes.lower), np.bool_))
        if weights is None and not self._are_all:
            alternatives = [self._alternatives] * len(boxes.lower)
            return unreachable(self._network, boxes, alternatives, self._contract, self._way)
        functionals, _ = self.left_sides(len(boxes.lower), weights)
        lower = FUNCTIONAL_PROOFS[self._way](self._network, self._shaped(boxes), functionals, self._contract)
        return self.settle(boxes, weights, None, lower)

    def _shaped(self, boxes: Interval) -> Interval:
        return Interval(*(end.reshape(-1, *self._network.input.shape) for end in boxes))

    @property
    def at_a_time(self) -> int:
        """Boxes, few enough for memory."""
        return lanes_at_a_time(self._network)

    def lower(
        self,
        functionals: Array,
        intervals: Mapping[Tensor, Interval],
        curvatures: Mapping[Tensor, Axes | Curvature],
        *,
        slopes: NDArray[np.uint8] | None = None,
        directions: Array | None = None,
    ) -> Array:
        """Lower bounds of functionals, lanes x functionals x the output's shape, as `lower_bounds` gives them."""
        output = self._network.output
        choices = {} if slopes is None else slopes_alone(output, slopes)
        return lower_bounds(
            output, functionals, intervals, self._contract, choices, directions=directions, curvatures=curvatures
        )

    def left_sides(self, lanes: int, weights: Weights | None) -> tuple[Array, Array]:
        """The functionals, lanes x functionals x the output's shape, NaN for sums that float64 cannot hold; and
        constants, as `constraint_functionals` has them."""
        shape = self._network.output.shape
        if weights is None:
            every = np.broadcast_to(self._functionals, (lanes, *self._functionals.shape))
            return every.reshape(*every.shape[:2], *shape), self._constants[np.newaxis]
        terms = weights[..., np.newaxis] * self._functionals
        # Magnitudes are not negative: below that limit every sum of some of them was exact, in whatever order.
        exact = self.of_alternatives(np.add, np.abs(terms)) < LARGEST_INTEGER
        found = np.where(exact, self.of_alternatives(np.add, terms), np.nan)
        return found.reshape(*found.shape[:2], *shape), -self._right_sides(weights)[0]

    def _right_sides(self, weights: Weights) -> tuple[Array, NDArray[np.bool_]]:
        """Of the sums, lanes x alternatives, or a little more, infinity where none takes part; and whether they are
        strict."""
        part, terms = weights > 0, weights * self._above
        rounding = 2.0 * kappa(len(self._rows) + 4, FLOAT64_UNIT) * self.of_alternatives(np.add, np.abs(terms))
        bound = self.of_alternatives(np.add, terms) + rounding
        bound = np.where(self.of_alternatives(np.logical_or, part), bound, np.inf)
        return bound, self.of_alternatives(np.logical_or, part & self._strict)

    def of_alternatives(self, ufunc: np.ufunc, values: NDArray[Any]) -> NDArray[Any]:
        """Of values of the bounded constraints, lanes x constraints x any, those of each alternative in one; zero, or
        false, where it has none."""
        found = np.zeros((len(values), len(self._alternatives), *values.shape[2:]), values.dtype)
        if len(self._rows):
            found[:, self._bounded_alternatives] = ufunc.reduceat(values, self._first_rows, axis=1)
        return found

    def _excluded(self, boxes: Interval, lane: int, bounds: list[float]) -> bool:
        """Whether a constraint of each alternative is violated in the box. bounds: of the left sides of the bounded
        ones; nothing is known of the outputs of others."""
        known, bounded = iter(bounds), {id(row.constraint) for row in self._rows}
        least = [
            [next(known) if id(each) in bounded else np.nan if each.outputs else 0.0 for each in conjunction]
            for conjunction in self._alternatives
        ]
        return all(excluded(list(self._alternatives), Interval(*(end[lane] for end in boxes)), least))


class PartBounds:
    """Bounds (CROWN) of an exclusion's functionals over several boxes.

    lower: lanes x functionals. direction: the coefficients of the input that they come from, lanes x functionals x
    inputs, if they are kept. functionals: lanes x functionals x the output's shape; constants: what to add to their
    values, lanes (or one) x functionals. intervals, curvatures: what bounds are computed from.
    """

    def __init__(
        self,
        exclusion: Exclusion,
        boxes: Interval,
        weights: Weights | None,
        intervals: Mapping[Tensor, Interval],
        curvatures: Mapping[Tensor, Axes | Curvature],
        *,
        directions: bool,
    ) -> None:
        self._exclusion, self._boxes, self._weights = exclusion, boxes, weights
        self.intervals, self.curvatures = intervals, curvatures
        self.functionals, self.constants = exclusion.left_sides(len(boxes.lower), weights)
        self._slopes: PartSlopes | None = None
        distinct, copies = self.functionals, np.arange(self.functionals.shape[1])
        if weights is None:  # the same ones over all boxes, and maybe several times
            flat = distinct[:1].reshape(distinct.shape[1], math.prod(distinct.shape[2:]))
            _, first, copies = np.unique(flat, axis=0, return_index=True, return_inverse=True)
            distinct, copies = distinct[:, first], copies.reshape(-1)  # numpy 2.0.0 shapes them otherwise
        direction = np.zeros((*distinct.shape[:2], boxes.lower.shape[1])) if directions else None
        self.lower = exclusion.lower(distinct, intervals, curvatures, directions=direction)[:, copies]
        self.direction = np.zeros(0) if direction is None else direction[:, copies]

    @property
    def excess(self) -> Array:
        """How far constraints, or sums of them, are violated, at least about: lanes x functionals."""
        return self.lower + self.constants

    def steepen(self, slopes: PartSlopes) -> None:
        """Bound some functionals with these slopes, too: the better bounds count. To be done once."""
        self._slopes = slopes

        def bounds(some: PartSlopes) -> Array:
            part = some.part.astype(np.intp)
            functionals = self.functionals[part, some.functional][:, np.newaxis]
            intervals = some_intervals(self.intervals, part)
            taken = partial(np.take, indices=part, axis=0)
            curvatures = {tensor: known.mapped(taken) for tensor, known in self.curvatures.items()}
            return self._exclusion.lower(functionals, intervals, curvatures, slopes=some.slopes)[:, 0]

        slopes.improve(self.lower, bounds, self._exclusion.at_a_time)

    def settle(self, lanes: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Of some of the boxes, whether the bounds prove each alternative impossible there, exactly; to be
        remembered."""
        boxes = Interval(*(end[lanes] for end in self._boxes))
        weights = None if self._weights is None else self._weights[lanes]
        slopes = self._slopes and self._slopes.of(np.flatnonzero(lanes))
        return self._exclusion.settle(boxes, weights, slopes, self.lower[lanes])


def _around(number: Fraction) -> tuple[float, float]:
    """The largest float64 number that is not above, and the smallest that is not below."""
    nearest = float(number)
    below = nearest if Fraction(nearest) <= number else math.nextafter(nearest, -math.inf)
    return below, below if Fraction(below) == number else math.nextafter(below, math.inf)


def _keys(boxes: Interval, weights: Weights | None, slopes: PartSlopes | None) -> list[tuple[bytes, ...]]:
    """What tells boxes with their weights and slopes apart."""
    chosen = [] if weights is None else [weights]
    keys = [tuple(each.tobytes() for each in lane) for lane in zip(*boxes, *chosen, strict=True)]
    if slopes is None:
        return keys
    chosen_in = set(slopes.part.tolist())
    return [(*key, slopes.at(lane).key) if lane in chosen_in else key for lane, key in enumerate(keys)]
