"""Margins by linear bounds: first over interval bounds of the neurons, then over linear bounds of those, too."""

from __future__ import annotations

import math

import numpy as np

from verify.interpreter import Rules
from verify.intervals import Interval, interval_rules
from verify.linear_bounds import lower_bounds
from verify.linear_maps import Diagonal
from verify.margins import Labels, classes
from verify.network import Network
from verify.primitives import Clip, Input, LeakyRelu, Linear, Reshape, Select, Tensor, topological
from verify.rounding import Array, Contract

_WORKSPACE = 2**23
"""Coefficients of functionals that are held at a time (64 MiB), unless a single functional has more."""


def crown_margins(network: Network, box: Interval, labels: Labels, contract: Contract, *, refine: bool = True) -> Array:
    """For each lane and class j, a lower bound of y[label] - y[j] over the box; infinity for the label itself, NaN
    where nothing can be said.

    refine: bound the neurons before each activation by linear bounds as well, where intervals leave their sign open;
    tighter, and many times the work.
    """
    count = classes(network)
    output = network.output
    with np.errstate(all="ignore"):
        intervals = _forward(output, network.input, box, contract, refine=refine)
        rows = np.eye(count)[labels][:, np.newaxis] - np.eye(count)  # lanes x classes x logits
        functionals = rows.reshape(*rows.shape[:2], *output.shape)
        lower = lower_bounds(output, functionals, intervals, contract)
    lower[np.arange(len(lower)), labels] = np.inf
    return lower


def _forward(
    output: Tensor, source: Tensor, box: Interval, contract: Contract, *, refine: bool
) -> dict[Tensor, Interval]:
    """Intervals of every tensor that the output depends on."""
    rules: Rules = interval_rules(contract)
    intervals = {source: box}
    for tensor in topological([output]):
        if tensor is source:
            continue
        if refine and isinstance(tensor.primitive, LeakyRelu | Clip) and not _exact_by_intervals(tensor.operands[0]):
            (operand,) = tensor.operands
            corners = (tensor.primitive.lower, tensor.primitive.upper) if isinstance(tensor.primitive, Clip) else (0.0,)
            intervals[operand] = _refined(operand, corners, intervals, contract)
        rule = rules[type(tensor.primitive)]
        intervals[tensor] = rule(tensor.primitive, *(intervals[operand] for operand in tensor.operands))
    return intervals


def _refined(
    tensor: Tensor, corners: tuple[float, ...], intervals: dict[Tensor, Interval], contract: Contract
) -> Interval:
    """The tensor's interval, intersected with linear bounds of every element that may lie on either side of a corner in
    some lane."""
    lower, upper = (end.reshape(len(end), -1).copy() for end in intervals[tensor])
    lanes = len(lower)
    unstable = np.flatnonzero(np.any([(lower < corner) & (upper > corner) for corner in corners], axis=(0, 1)))
    widest = max(math.prod(each.shape) for each in topological([tensor]))
    step = max(1, _WORKSPACE // (2 * lanes * widest))
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
