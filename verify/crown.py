"""Margins by linear bounds: over interval bounds of the neurons, then over linear bounds of those, too."""

from __future__ import annotations

import math

import numpy as np

from verify.interpreter import Rules
from verify.intervals import Interval, interval_rules
from verify.linear_bounds import lower_bounds
from verify.linear_maps import Diagonal
from verify.margins import Labels, classes
from verify.network import Network
from verify.primitives import Input, LeakyRelu, Linear, Reshape, Select, Tensor, topological
from verify.rounding import Array, Contract

WORKSPACE = 2**23
"""Coefficients of functionals that are held at a time (64 MiB), unless a single functional has more."""


def crown_margins(network: Network, box: Interval, labels: Labels, contract: Contract, *, refine: bool = True) -> Array:
    """For each lane and class j, a lower bound of y[label] - y[j] over the box; infinity for the label itself, NaN
    where nothing can be said.

    refine: bound the neurons before each activation by linear bounds as well, where intervals leave their sign open;
    tighter, and many times the work.
    """
    functionals, _ = margin_functionals(network, labels)
    with np.errstate(all="ignore"):
        intervals = crown_intervals(network, box, contract, refine=refine)
        lower = lower_bounds(network.output, functionals, intervals, contract)
    lower[np.arange(len(lower)), labels] = np.inf
    return lower


def margin_functionals(network: Network, labels: Labels) -> tuple[Array, Array]:
    """The functionals y[label] - y[j] of the output, lanes x classes x the output's shape; and constants to add, lanes
    x classes: 1 for the label itself, else 0, so that the answer is the label if and only if all are positive."""
    count = classes(network)
    own = np.eye(count)[labels]
    rows = own[:, np.newaxis] - np.eye(count)
    return rows.reshape(*rows.shape[:2], *network.output.shape), own


def crown_intervals(
    network: Network, box: Interval, contract: Contract, *, refine: bool = True
) -> dict[Tensor, Interval]:
    """Intervals of every tensor that the output depends on. refine: by linear bounds where an activation needs them."""
    rules: Rules = interval_rules(contract)
    intervals = {network.input: box}
    for tensor in topological([network.output]):
        if tensor is network.input:
            continue
        if refine and isinstance(tensor.primitive, LeakyRelu) and not _exact_by_intervals(tensor.operands[0]):
            (operand,) = tensor.operands
            intervals[operand] = _refined(operand, intervals, contract)
        rule = rules[type(tensor.primitive)]
        intervals[tensor] = rule(tensor.primitive, *(intervals[operand] for operand in tensor.operands))
    return intervals


def _refined(tensor: Tensor, intervals: dict[Tensor, Interval], contract: Contract) -> Interval:
    """The tensor's interval, intersected with linear bounds of every element whose sign is open in some lane."""
    lower, upper = (end.reshape(len(end), -1).copy() for end in intervals[tensor])
    lanes = len(lower)
    unstable = np.flatnonzero(((lower < 0) & (upper > 0)).any(axis=0))
    widest = max(math.prod(each.shape) for each in topological([tensor]))
    step = max(1, WORKSPACE // (2 * lanes * widest))
    for start in range(0, len(unstable), step):
        part = unstable[start : start + step]
        functionals = np.zeros((lanes, 2 * len(part), lower.shape[1]))
        functionals[:, np.arange(len(part)), part] = 1.0
        functionals[:, len(part) + np.arange(len(part)), part] = -1.0
        found = lower_bounds(tensor, functionals.reshape(lanes, -1, *tensor.shape), intervals, contract)
        # Both bounds hold where they are numbers: fmax and fmin pass over NaN.
        lower[:, part] = np.fmax(lower[:, part], found[:, : len(part)])
        upper[:, part] = np.fmin(upper[:, part], -found[:, len(part) :])
    return Interval(lower.reshape(-1, *tensor.shape), upper.reshape(-1, *tensor.shape))


def _exact_by_intervals(tensor: Tensor) -> bool:
    """Whether the tensor is one linear map of the input, up to moves and scales of single elements: then intervals are
    as tight as linear bounds."""
    maps = 0
    while not isinstance(tensor.primitive, Input):
        primitive = tensor.primitive
        if isinstance(primitive, Linear):
            maps += not isinstance(primitive.map, Diagonal)
        elif not isinstance(primitive, Reshape | Select):
            return False
        (tensor,) = tensor.operands
    return maps <= 1
