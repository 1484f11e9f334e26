"""Margins by linear bounds: first over interval bounds of the neurons, then over linear bounds of those, too."""

from __future__ import annotations

import math

import numpy as np

from verify.functions import Function
from verify.interpreter import Rules
from verify.intervals import Interval, interval_rules
from verify.linear_bounds import lower_bounds
from verify.linear_maps import Diagonal
from verify.margins import Labels, classes, logits_of, of_the_answer
from verify.network import Network
from verify.primitives import Input, LeakyRelu, Linear, Reshape, Select, Tensor, topological
from verify.rounding import Array, Contract

_WORKSPACE = 2**23
"""Coefficients of functionals that are held at a time (64 MiB), unless a single functional has more."""


def crown_margins(network: Network, box: Interval, labels: Labels, contract: Contract, *, refine: bool = True) -> Array:
    """Lower bounds of the margins, as `margin_bounds` gives them.

    refine: bound the neurons before each activation by linear bounds as well, where intervals leave it open which
    piece applies; tighter, and many times the work.
    """
    count = classes(network)
    output = logits_of(network)
    with np.errstate(all="ignore"):
        intervals = _forward(output, network.input, box, contract, refine=refine)
        rows = np.eye(count)[labels][:, np.newaxis] - np.eye(count)  # lanes x classes x logits
        functionals = rows.reshape(*rows.shape[:2], *output.shape)
        lower = lower_bounds(output, functionals, intervals, contract)
    return of_the_answer(lower, network, labels, intervals[output], contract)


def _forward(
    output: Tensor, source: Tensor, box: Interval, contract: Contract, *, refine: bool
) -> dict[Tensor, Interval]:
    """Intervals of every tensor that the output depends on."""
    rules: Rules = interval_rules(contract)
    intervals = {source: box}
    for tensor in topological([output]):
        if tensor is source:
            continue
        primitive = tensor.primitive
        if refine and isinstance(primitive, LeakyRelu | Function) and not _exact_by_intervals(tensor.operands[0]):
            (operand,) = tensor.operands
            everywhere = isinstance(primitive, Function)
            intervals[operand] = _refined(operand, intervals, contract, everywhere=everywhere)
        rule = rules[type(primitive)]
        intervals[tensor] = rule(primitive, *(intervals[operand] for operand in tensor.operands))
    return intervals


def _refined(tensor: Tensor, intervals: dict[Tensor, Interval], contract: Contract, *, everywhere: bool) -> Interval:
    """The tensor's interval, intersected with linear bounds of every element whose sign is open in some lane, or (for
    functions that bend everywhere) of every element."""
    lower, upper = (end.reshape(len(end), -1).copy() for end in intervals[tensor])
    lanes = len(lower)
    unstable = np.flatnonzero((everywhere | ((lower < 0) & (upper > 0))).any(axis=0))
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
