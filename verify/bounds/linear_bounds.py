"""Linear bounds by backward substitution (CROWN, arXiv 1811.00866), for the network as its contract lets a runtime
execute it, in float64 rounded outward.

A functional a of a tensor's deployed value y is bounded from below by functionals of the values that y is computed
from (`verify.bounds.relaxations`), down to the input. Arrays of functionals have the shape lanes x functionals x
tensor; those about intervals may have a single lane for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.bounds.functionals import dot, dot_of_magnitudes
from verify.bounds.lines import Intervals
from verify.bounds.quadratics import Axes, Curvatures, curved, least
from verify.bounds.relaxations import BENDING, relaxation
from verify.bounds.steps import Choice, Choices, Relaxation, Signs, constant, some_intervals, some_lanes
from verify.core.primitives import Input, Tensor, topological
from verify.core.rounding import FLOAT64_UNIT, OWN_UNDERFLOW, Array, Contract, kappa

Relaxed = Callable[[Tensor], Relaxation]

WORKSPACE = 2**23
"""Coefficients of functionals that are held at a time (64 MiB), unless a single functional has more."""

_CACHED = 2**17
"""Coefficients of functionals that are held at a time, few enough for the caches and for memory, unless so many
functionals have more."""

_CHEAP = 8
"""Numbers of a quadratic form for each of these coefficients: few operations are done to them."""

_AT_LEAST = 32
"""Functionals, so that products of matrices are worth while."""


def lower_bounds(
    target: Tensor,
    functionals: Array,
    intervals: Intervals,
    contract: Contract,
    choices: Choices = MappingProxyType({}),
    *,
    signs: Signs = MappingProxyType({}),
    stop: Tensor | None = None,
    directions: Array | None = None,
    beside: tuple[Tensor, Array] | None = None,
    curvatures: Curvatures = MappingProxyType({}),
) -> Array:
    """For each lane and functional of the target's deployed value, a lower bound over the box; NaN where none is known.

    functionals: lanes x functionals x target's shape. intervals: of every tensor that the target depends on, the input
    included, under the same contract; if substitution ends at the tensor `stop` already, of those from there on; in one
    lane, or as many as the functionals have. choices: a bound holds for the executions that have their signs.
    directions: where the coefficients of the input are written that the bounds come from, lanes x functionals x inputs.
    beside: a tensor that the target depends on, and functionals of it to add to those of the target.
    curvatures: quadratic forms of products over the same boxes, in as many lanes as the functionals have.
    """

    def relaxed_in(rows: slice) -> Relaxed:
        known = some_intervals(intervals, rows)
        sides = {tensor: some_lanes(sign, rows) for tensor, sign in signs.items()}

        @cache
        def relaxed(tensor: Tensor) -> Relaxation:
            if tensor is stop:
                return constant(tensor, known)
            found = relaxation(tensor, known, contract, sides)
            if tensor in curvatures:
                around = curvatures[tensor]
                found = curved(tensor, found, known, contract, around.mapped(partial(some_lanes, rows=rows)))
            return found

        return relaxed

    lanes, count = functionals.shape[:2]
    order = list(topological([target]))
    widest = max(math.prod(tensor.shape) for tensor in order)
    pairs = max((known.generators.shape[1] ** 2 for known in curvatures.values() if isinstance(known, Axes)), default=0)
    most = max(_AT_LEAST, _CACHED // max(widest, pairs // _CHEAP))
    step = max(1, min(most, count))
    found = np.empty((lanes, count))
    known: list[NDArray[Any]] = [*signs.values()]
    known += [each for around in (*intervals.values(), *curvatures.values()) for each in around]
    shared = None if any(len(each) > 1 for each in known) else relaxed_in(slice(None))
    for lane in range(0, lanes, max(1, most // step)):
        rows = slice(lane, lane + max(1, most // step))
        relaxed = shared or relaxed_in(rows)
        for first in range(0, count, step):
            some = slice(first, first + step)
            chosen = {tensor: choice.part(rows, some) for tensor, choice in choices.items()}
            direction = None if directions is None else directions[rows, some]
            waiting = {target: functionals[rows, some]}
            if beside:
                waiting[beside[0]] = beside[1][rows, some]
            substitution = Substitution.of(waiting)
            for tensor in reversed(order):
                substitution.follow(tensor, relaxed, chosen.get(tensor), direction)
            found[rows, some] = substitution.bounds()
    return found


@dataclass(eq=False)
class Substitution:
    """Functionals that are passed backwards, and what they leave over.

    waiting: functionals of tensors, whose sums are bounded. constant, loss, size: of what is left over so far, the sum,
    what it may be too high by, and the sum of the magnitudes; lanes x functionals. curvature, slope: of what is left
    over as a quadratic form of the input (`verify.bounds.quadratics`). summands, longest: how many terms these sums
    have, and what is passed on at most.
    """

    waiting: dict[Tensor, Array]
    constant: Array
    loss: Array
    size: Array
    curvature: Array | None = None
    slope: Array | None = None
    summands: int = 0
    longest: int = 0

    @staticmethod
    def of(functionals: Mapping[Tensor, Array]) -> Substitution:
        """Before any is passed on."""
        (shape, *_) = {a.shape[:2] for a in functionals.values()}
        return Substitution(dict(functionals), *np.zeros((3, *shape)))

    def times(self, signs: Array, rows: NDArray[np.integer]) -> Substitution:
        """The same for 1 or -1 times functionals: which, lanes x rows."""
        lane = np.arange(len(rows))[:, np.newaxis]

        def signed(values: Array) -> Array:
            return np.asarray(values[lane, rows] * signs.reshape(*signs.shape, *[1] * (values.ndim - 2)))

        return replace(
            self,
            waiting={tensor: signed(a) for tensor, a in self.waiting.items()},
            constant=signed(self.constant),
            loss=self.loss[lane, rows],
            size=self.size[lane, rows],
            curvature=None if self.curvature is None else signed(self.curvature),
            slope=None if self.slope is None else signed(self.slope),
        )

    def follow(self, tensor: Tensor, relaxed: Relaxed, choice: Choice | None, direction: Array | None = None) -> None:
        """Pass a tensor's functionals on to what it is computed from, after those of all that is computed from it.
        direction: where to write the coefficients of the input."""
        a = self.waiting.pop(tensor, None)
        if a is None:
            return
        if direction is not None and isinstance(tensor.primitive, Input):
            direction[:] = a.reshape(direction.shape)
        around = relaxed(tensor)
        step = around.through(tensor, a, around, choice)
        self.summands += 2 + len(step.operands)
        self.longest = max(self.longest, math.prod(tensor.shape))
        self.constant = self.constant + step.constant
        self.size += np.abs(step.constant)
        if step.curvature is not None:
            if self.curvature is not None:  # the sum rounds once
                sizes: Array = np.abs(self.curvature) + np.abs(step.curvature)
                self.loss += 2.0 * FLOAT64_UNIT * sizes.sum(axis=(2, 3))
            self.curvature = step.curvature if self.curvature is None else self.curvature + step.curvature
        self.slope = step.slope if self.slope is None else self.slope
        self.loss += dot_of_magnitudes(a, around.charge)
        # Magnitudes of values are below 2^50 times the charge.
        charges = around.charge.reshape(len(around.charge), -1).sum(axis=1, keepdims=True)
        self.loss += OWN_UNDERFLOW * (1.0 + 2.0**50 * charges)
        passed = list(zip(tensor.operands, step.operands, strict=False))
        if step.beyond is not None:  # underflow in it is paid for by the charge of what it is passed on to
            (operand,) = tensor.operands
            passed.append((operand.operands[0], step.beyond.reshape(*a.shape[:2], *operand.operands[0].shape)))
        for operand, functional in passed:
            if operand in self.waiting:  # coefficients of several uses, which may cancel: the sum rounds once each time
                before = self.waiting[operand]
                self.loss += dot(np.abs(before) + np.abs(functional), relaxed(operand).own())
                functional = before + functional
            self.waiting[operand] = functional

    def bounds(self) -> Array:
        """Lower bounds, once nothing waits."""
        constant, loss, size, summands = self.constant, self.loss, self.size, self.summands
        if self.curvature is not None:
            slope = np.zeros(self.curvature.shape[:-1]) if self.slope is None else self.slope
            added, rounding = least(self.curvature, slope)
            constant, size, loss, summands = constant + added, size + np.abs(added), loss + rounding, summands + 2
        # The loss is a sum of products of non-negative terms, each of which was rounded less than a thousand times; the
        # sum of the constants and the difference below are off by as many roundings of their magnitudes as there are.
        loss = loss * (1.0 + 2.0 * kappa(self.longest + summands + 1024, FLOAT64_UNIT))
        return np.asarray(constant - (loss + (size + loss) * 2.0 * kappa(summands + 8, FLOAT64_UNIT)))


class TwoSided:
    """Lower bounds, as `lower_bounds` gives them, of functionals and of their negations, which share what precedes the
    first operation that bends.

    relaxed: the relaxation of each tensor that the target depends on.
    """

    def __init__(self, target: Tensor, functionals: Array, relaxed: Relaxed) -> None:
        self._relaxed, self._shared = relaxed, Substitution.of({target: functionals})
        self._left = list(topological([target]))
        while self._left and not isinstance(self._left[-1].primitive, BENDING):
            self._shared.follow(self._left.pop(), relaxed, None)

    def lower(self, signs: Array, rows: NDArray[np.integer], choices: Choices = MappingProxyType({})) -> Array:
        """Of 1 or -1 times functionals, as the choices have them: which, lanes x rows."""
        substitution = self._shared.times(signs, rows)
        for tensor in reversed(self._left):
            substitution.follow(tensor, self._relaxed, choices.get(tensor))
        return substitution.bounds()
