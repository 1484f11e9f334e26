"""Is what a property forbids out of the network's reach? Proofs by bounds of functionals of the outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from verify.bounds.linear_bounds import lower_bounds
from verify.bounds.methods import FUNCTIONAL_PROOFS
from verify.bounds.neuron_bounds import crown_intervals
from verify.bounds.quadratics import Axes, Curvature
from verify.core.intervals import Interval
from verify.core.primitives import Tensor
from verify.core.rounding import FLOAT64_UNIT, Array, Contract, down, kappa
from verify.errors import Rejected
from verify.model.network import Network
from verify.proofs.parts import Parts
from verify.proofs.properties import Conjunction, Constraint, Terms, excluded
from verify.proofs.split_trees import SplitProof, split_bounds

_LARGEST_INTEGER, _LARGEST_BOUND = 2**53, 2**1000
"""Integers up to the first are exact in float64; numbers up to the second do not overflow."""


def unreachable(
    network: Network, boxes: Interval, alternatives: Sequence[Sequence[Conjunction]], contract: Contract, way: str
) -> list[bool]:
    """For each box (lanes x inputs, flat) whether this way of bounding proves each of its alternatives impossible: one
    constraint violated by every input and every execution that the contract allows."""
    outputs = int(np.prod(network.output.shape))
    rows = [_rows(each) for each in alternatives]
    functionals = np.zeros((len(rows), max(map(len, rows), default=0), outputs))
    for lane, known in enumerate(rows):
        for terms, row in known.items():
            for index, coefficient in terms:
                functionals[lane, row, index] = int(coefficient)
    lower = np.full(functionals.shape[:2], np.nan)
    if functionals.size:
        box = Interval(*(end.reshape(-1, *network.input.shape) for end in boxes))
        shaped = functionals.reshape(*lower.shape, *network.output.shape)
        lower = FUNCTIONAL_PROOFS[way](network, box, shaped, contract)
    return [
        all(excluded(list(each), Interval(*(end[lane] for end in boxes)), _least(each, rows[lane], lower[lane])))
        for lane, each in enumerate(alternatives)
    ]


def _rows(alternatives: Sequence[Conjunction]) -> dict[Terms, int]:
    """The distinct functionals of the outputs that float64 can hold, numbered."""
    terms = dict.fromkeys(
        constraint.outputs
        for conjunction in alternatives
        for constraint in conjunction
        if constraint.outputs and _is_exact(constraint)
    )
    return {each: row for row, each in enumerate(terms)}


def _is_exact(constraint: Constraint) -> bool:
    """Whether float64 holds the coefficients of the outputs."""
    return all(c.denominator == 1 and abs(c) <= _LARGEST_INTEGER for _, c in constraint.outputs)


def _least(alternatives: Sequence[Conjunction], rows: dict[Terms, int], lower: Array) -> list[list[float]]:
    """The bound of each constraint's functional; nothing is known of those that float64 cannot hold."""

    def of(terms: Terms) -> float:
        return (float(lower[rows[terms]]) if terms in rows else np.nan) if terms else 0.0

    return [[of(constraint.outputs) for constraint in conjunction] for conjunction in alternatives]


class Row(NamedTuple):
    """A constraint of a property whose left side is a functional of the outputs that float64 can hold."""

    alternative: int
    constraint: Constraint


def bounded_constraints(alternatives: Sequence[Conjunction]) -> list[Row]:
    """In order; a tree of a `SplitProof` about a property names its functional by the place in this list."""
    return [
        Row(index, constraint)
        for index, conjunction in enumerate(alternatives)
        for constraint in conjunction
        if constraint.outputs
        and not constraint.inputs
        and _is_exact(constraint)
        and abs(constraint.bound) < _LARGEST_BOUND
    ]


def constraint_functionals(network: Network, rows: Sequence[Row]) -> tuple[Array, Array]:
    """The left sides, rows x the output's shape, and constants: a constraint is violated where the sum is positive."""
    functionals = np.zeros((len(rows), int(np.prod(network.output.shape))))
    for row, (_, constraint) in enumerate(rows):
        for index, coefficient in constraint.outputs:
            functionals[row, index] = int(coefficient)
    constants = down(-np.array([float(constraint.bound) for _, constraint in rows]))
    return functionals.reshape(-1, *network.output.shape), constants


def unreachable_over_trees(
    network: Network,
    box: Interval,
    alternatives: Sequence[Conjunction],
    contract: Contract,
    proof: SplitProof,
    parts: Parts | None = None,
) -> bool:
    """Whether the proof shows that each alternative has a constraint that every input in the box (in one lane) and
    every execution violates; raises Rejected for a proof that does not fit. parts: of all bounded constraints in order,
    which may remember some that the proof needs."""
    rows = bounded_constraints(alternatives)
    if not rows:
        raise Rejected("no constraint of its property says anything about bounded outputs")
    functionals, constants = constraint_functionals(network, rows)
    lower = split_bounds(network, box, functionals, constants, contract, proof, parts)
    return {row.alternative for row, least in zip(rows, lower, strict=True) if least > 0} == set(
        range(len(alternatives))
    )


class PartBounds(NamedTuple):
    """Of functionals over several boxes. excess: lower bounds of how far constraints are violated, lanes x functionals.
    direction: the coefficients of the input that they come from, lanes x functionals x inputs. settle: tells of some
    of the boxes, and remembers, whether these bounds prove each alternative impossible there, exactly."""

    excess: Array
    direction: Array
    settle: Callable[[NDArray[np.bool_]], NDArray[np.bool_]]


class Exclusion:
    """Tells of boxes whether this way of bounding proves each alternative impossible there: by one constraint of each,
    or by the sum of several with the given weights, of all bounded constraints in order. Remembers what is proved."""

    def __init__(self, network: Network, alternatives: Sequence[Conjunction], contract: Contract, way: str) -> None:
        self._network, self._alternatives, self._contract, self._way = network, alternatives, contract, way
        self._rows = bounded_constraints(alternatives)
        functionals, self._constants = constraint_functionals(network, self._rows)
        self._functionals = functionals.reshape(len(self._rows), -1)
        numbers = np.array([row.alternative for row in self._rows], np.intp)
        self._members = numbers == np.arange(len(alternatives))[:, np.newaxis]
        ends = [_around(row.constraint.bound) for row in self._rows]
        self._below, self._above = np.array(ends).reshape(-1, 2).T
        self._strict = np.array([row.constraint.strict for row in self._rows], np.bool_)
        self._are_all = len(self._rows) == sum(map(len, alternatives))
        self._proved: set[bytes] = set()

    def __call__(self, boxes: Interval, weights: NDArray[np.uint8] | None) -> NDArray[np.bool_]:
        """boxes: lanes x inputs. weights: lanes x constraints."""
        if weights is not None and weights.shape[1] != len(self._rows):
            raise Rejected("it does not have one weight for each constraint")
        keys = _keys(boxes, weights)
        new = [lane for lane, key in enumerate(keys) if key not in self._proved]
        if new:
            parts = Interval(*(end[new] for end in boxes))
            done = self._bounded(parts, None if weights is None else weights[new])
            self._proved.update(keys[lane] for lane, proved in zip(new, done, strict=True) if proved)
        return np.array([key in self._proved for key in keys])

    def over(self, boxes: Interval) -> Callable[[NDArray[np.uint8] | None], PartBounds]:
        """Computes, for a search, bounds (CROWN) of what may exclude each alternative over the boxes: of all bounded
        constraints in order or, with weights, of the alternatives' sums."""
        around = self._shaped(boxes)
        curvatures: dict[Tensor, Axes | Curvature] = {}
        intervals = crown_intervals(self._network, around, self._contract, curvatures=curvatures)
        _, distinct, copies = np.unique(self._functionals, axis=0, return_index=True, return_inverse=True)
        copies = copies.reshape(-1)  # numpy 2.0.0 shapes them otherwise

        def bounds(weights: NDArray[np.uint8] | None) -> PartBounds:
            shaped, constants = self._left_sides(len(boxes.lower), weights)
            shaped = shaped[:, distinct] if weights is None else shaped
            direction = np.zeros((*shaped.shape[:2], boxes.lower.shape[1]))
            lower = lower_bounds(
                self._network.output, shaped, intervals, self._contract, directions=direction, curvatures=curvatures
            )
            if weights is None:
                lower, direction = lower[:, copies], direction[:, copies]

            def settle(lanes: NDArray[np.bool_]) -> NDArray[np.bool_]:
                parts = Interval(*(end[lanes] for end in boxes))
                return self.settle(parts, None if weights is None else weights[lanes], lower[lanes])

            return PartBounds(lower + constants, direction, settle)

        return bounds

    def settle(self, boxes: Interval, weights: NDArray[np.uint8] | None, lower: Array) -> NDArray[np.bool_]:
        """The same, given rigorous lower bounds: of the left sides of all bounded constraints in order, lanes x
        constraints; or with weights, of the sums, lanes x alternatives."""
        if weights is None and not self._are_all:
            settled = np.array([self._excluded(boxes, lane, least) for lane, least in enumerate(lower.tolist())])
        elif weights is None:
            # The least numbers that exclude the constraints, exactly; NaN is not among them.
            violated = lower >= np.where(self._strict, self._above, np.nextafter(self._below, np.inf))
            settled = (violated[:, np.newaxis] & self._members).any(axis=2).all(axis=1)
        else:
            bound, strict = self._right_sides(weights)
            settled = np.all(np.where(strict, lower >= bound, lower > bound), axis=1)
        keys = _keys(boxes, weights)
        self._proved.update(key for key, proved in zip(keys, settled, strict=True) if proved)
        return settled

    def _bounded(self, boxes: Interval, weights: NDArray[np.uint8] | None) -> list[bool]:
        if weights is None and not self._are_all:
            alternatives = [self._alternatives] * len(boxes.lower)
            return unreachable(self._network, boxes, alternatives, self._contract, self._way)
        shaped, _ = self._left_sides(len(boxes.lower), weights)
        lower = FUNCTIONAL_PROOFS[self._way](self._network, self._shaped(boxes), shaped, self._contract)
        return list(self.settle(boxes, weights, lower))

    def _shaped(self, boxes: Interval) -> Interval:
        return Interval(*(end.reshape(-1, *self._network.input.shape) for end in boxes))

    def _left_sides(self, lanes: int, weights: NDArray[np.uint8] | None) -> tuple[Array, Array]:
        """Functionals, lanes x functionals x the output's shape, NaN for sums that float64 cannot hold; and constants,
        as `constraint_functionals` has them."""
        shape = self._network.output.shape
        if weights is None:
            every = np.broadcast_to(self._functionals, (lanes, *self._functionals.shape))
            return every.reshape(*every.shape[:2], *shape), self._constants[np.newaxis]
        share = weights[:, np.newaxis] * self._members.astype(np.float64)
        exact = share @ np.abs(self._functionals) <= _LARGEST_INTEGER
        found = np.where(exact, share @ self._functionals, np.nan)
        return found.reshape(*found.shape[:2], *shape), -self._right_sides(weights)[0]

    def _right_sides(self, weights: NDArray[np.uint8]) -> tuple[Array, NDArray[np.bool_]]:
        """Of the sums, lanes x alternatives, or a little more, infinity where none takes part; and whether they are
        strict."""
        share = weights[:, np.newaxis] * self._members.astype(np.float64)
        rounding = 2.0 * kappa(len(self._rows) + 4, FLOAT64_UNIT) * (share @ np.abs(self._above))
        bound = np.where(share.any(axis=2), share @ self._above + rounding, np.inf)
        return bound, np.asarray((share > 0) @ self._strict)

    def _excluded(self, boxes: Interval, lane: int, bounds: list[float]) -> bool:
        """Whether a constraint of each alternative is violated in the box. bounds: of the left sides of the bounded
        ones; nothing is known of the outputs of others."""
        known, bounded = iter(bounds), {id(row.constraint) for row in self._rows}
        least = [
            [next(known) if id(each) in bounded else np.nan if each.outputs else 0.0 for each in conjunction]
            for conjunction in self._alternatives
        ]
        return all(excluded(list(self._alternatives), Interval(*(end[lane] for end in boxes)), least))


def _around(number: Fraction) -> tuple[float, float]:
    """The largest float64 number that is not above, and the smallest that is not below."""
    nearest = float(number)
    below = nearest if Fraction(nearest) <= number else math.nextafter(nearest, -math.inf)
    return below, below if Fraction(below) == number else math.nextafter(below, math.inf)


def _keys(boxes: Interval, weights: NDArray[np.uint8] | None) -> list[bytes]:
    """What tells boxes with their weights apart."""
    content = *boxes, *(() if weights is None else (weights,))
    return [b"".join(each.tobytes() for each in lane) for lane in zip(*content, strict=True)]
