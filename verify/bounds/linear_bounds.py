"""Linear bounds by backward substitution (CROWN, arXiv 1811.00866), for the network as its contract lets a runtime
execute it, in float64 rounded outward.

A functional a of a tensor's deployed value y is bounded from below by functionals of the values that y is computed
from (`verify.bounds.relaxations`), down to the input. Arrays of functionals have the shape lanes x functionals x
tensor; those about intervals may have a single lane for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache, partial
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.bounds.functionals import dot, dot_of_magnitudes
from verify.bounds.lines import Intervals
from verify.bounds.quadratics import Axes, Curvatures, curved, least
from verify.bounds.relaxations import (
    BENDING,
    Choices,
    Relaxation,
    Signs,
    constant,
    relaxation,
    some_intervals,
    some_lanes,
)
from verify.core.intervals import Interval
from verify.core.primitives import Input, Tensor, topological
from verify.core.rounding import FLOAT64_UNIT, Array, Contract, kappa

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

_OWN_UNDERFLOW = 2.0**-1030
"""More than a coefficient can lose to underflow in float64, however many products it is a sum of."""


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
    widest = max(math.prod(tensor.shape) for tensor in topological([target]))
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
            found[rows, some] = _substituted(waiting, relaxed, chosen, direction=direction)
    return found


def two_sided_bounds(
    target: Tensor, functionals: Array, relaxed: Relaxed, choices: Choices = MappingProxyType({})
) -> Interval:
    """Lower and upper bounds, as `lower_bounds` gives them, of each functional and its negation.

    relaxed: the relaxation of each tensor that the target depends on. choices: for the lower bounds of all functionals,
    then for the upper ones. The two share what precedes the first operation that bends.
    """
    found = _substituted({target: functionals}, relaxed, choices, mirrored=True)
    lower, negated = np.split(found, 2, axis=1)
    return Interval(lower, -negated)


def _substituted(
    functionals: Mapping[Tensor, Array],
    relaxed: Relaxed,
    choices: Choices,
    *,
    mirrored: bool = False,
    direction: Array | None = None,
) -> Array:
    """functionals: of tensors, whose sums are bounded; the first depends on the others. mirrored: bound the sums, then
    their negations. direction: where to write the input's coefficients."""
    waiting = dict(functionals)
    target = next(iter(waiting))
    constant = np.zeros(waiting[target].shape[:2])
    loss, size = np.zeros_like(constant), np.zeros_like(constant)
    curvature: Array | None = None
    slope: Array | None = None
    summands = longest = 0
    for tensor in reversed(list(topological([target]))):
        if mirrored and isinstance(tensor.primitive, BENDING):
            waiting = {operand: np.concatenate([a, -a], axis=1) for operand, a in waiting.items()}
            constant, loss, size = (np.concatenate(pair, axis=1) for pair in _mirrored(constant, loss, size))
            curvature, slope = (None if x is None else np.concatenate([x, -x], axis=1) for x in (curvature, slope))
            mirrored = False
        a = waiting.pop(tensor, None)
        if a is None:
            continue
        if direction is not None and isinstance(tensor.primitive, Input):
            direction[:] = a.reshape(direction.shape)
        around = relaxed(tensor)
        step = around.through(tensor, a, around, choices.get(tensor))
        summands, longest = summands + 2 + len(step.operands), max(longest, math.prod(tensor.shape))
        constant = constant + step.constant
        size += np.abs(step.constant)
        if step.curvature is not None:
            if curvature is not None:  # the sum rounds once
                loss += 2.0 * FLOAT64_UNIT * (np.abs(curvature) + np.abs(step.curvature)).sum(axis=(2, 3))
            curvature = step.curvature if curvature is None else curvature + step.curvature
        slope = step.slope if slope is None else slope
        loss += dot_of_magnitudes(a, around.charge)
        # Magnitudes of values are below 2^50 times the charge.
        charges = around.charge.reshape(len(around.charge), -1).sum(axis=1, keepdims=True)
        loss += _OWN_UNDERFLOW * (1.0 + 2.0**50 * charges)
        passed = list(zip(tensor.operands, step.operands, strict=False))
        if step.beyond is not None:  # underflow in it is paid for by the charge of what it is passed on to
            (operand,) = tensor.operands
            passed.append((operand.operands[0], step.beyond.reshape(*a.shape[:2], *operand.operands[0].shape)))
        for operand, functional in passed:
            if operand in waiting:  # coefficients of several uses, which may cancel: the sum rounds once each time
                before = waiting[operand]
                loss += dot(np.abs(before) + np.abs(functional), relaxed(operand).own())
                functional = before + functional
            waiting[operand] = functional
    if mirrored:
        constant, loss, size = (np.concatenate(pair, axis=1) for pair in _mirrored(constant, loss, size))
        curvature, slope = (None if x is None else np.concatenate([x, -x], axis=1) for x in (curvature, slope))
    if curvature is not None:
        added, rounding = least(curvature, np.zeros(curvature.shape[:-1]) if slope is None else slope)
        constant, size, loss, summands = constant + added, size + np.abs(added), loss + rounding, summands + 2
    # The loss is a sum of products of non-negative terms, each of which was rounded less than a thousand times; the sum
    # of the constants and the difference below are off by as many roundings of their magnitudes as there are.
    loss *= 1.0 + 2.0 * kappa(longest + summands + 1024, FLOAT64_UNIT)
    return constant - (loss + (size + loss) * 2.0 * kappa(summands + 8, FLOAT64_UNIT))


def _mirrored(constant: Array, loss: Array, size: Array) -> tuple[tuple[Array, Array], ...]:
    """Of functionals, and of their negations."""
    return (constant, -constant), (loss, loss), (size, size)
