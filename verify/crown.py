"""Margins by linear bounds: over interval bounds of the neurons, then over linear bounds of those, too."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verify.interpreter import Rules
from verify.intervals import Interval, interval_rules
from verify.linear_bounds import Choice, Choices, lower_bounds, neuron_count
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


@dataclass(frozen=True, eq=False)
class Slopes:
    """Chosen slopes for the bounds of single elements of a tensor.

    elements: which. below: for each ReLU in front of them, the numbers of its neurons that have slopes. slopes: in
    255ths, 2 x elements x neurons, those of the lower bounds first, the ReLUs one after the other.
    """

    elements: NDArray[np.intp]
    below: Mapping[Tensor, NDArray[np.intp]]
    slopes: NDArray[np.uint8]

    def choices(self, part: slice) -> Choices:
        """For the functionals of some of the elements: their lower bounds, then their upper ones."""
        chosen, first = {}, 0
        for tensor, neurons in self.below.items():
            slopes = self.slopes[:, part, first : (first := first + len(neurons))]
            slope = np.full((2 * slopes.shape[1], math.prod(tensor.shape)), np.nan)
            slope[:, neurons] = slopes.reshape(len(slope), -1) / 255.0
            chosen[tensor] = Choice(slope.reshape(1, -1, *tensor.shape))
        return chosen


Choose = Callable[[Tensor, Mapping[Tensor, Interval]], Slopes | None]
"""Chooses slopes for what a ReLU reads, given the intervals of all that comes before; None leaves them to CROWN."""


def crown_intervals(
    network: Network,
    box: Interval,
    contract: Contract,
    *,
    refine: bool = True,
    choose: Choose = lambda relu, intervals: None,
) -> dict[Tensor, Interval]:
    """Intervals of every tensor that the output depends on. refine: by linear bounds where an activation needs them,
    with slopes as chosen, if any are (for a single lane)."""
    rules: Rules = interval_rules(contract)
    intervals = {network.input: box}
    for tensor in topological([network.output]):
        if tensor is network.input:
            continue
        if refine and isinstance(tensor.primitive, LeakyRelu) and not _exact_by_intervals(tensor.operands[0]):
            (operand,) = tensor.operands
            intervals[operand] = _refined(operand, intervals, contract)
            if chosen := choose(tensor, intervals):
                intervals[operand] = _refined(operand, intervals, contract, chosen)
        rule = rules[type(tensor.primitive)]
        intervals[tensor] = rule(tensor.primitive, *(intervals[operand] for operand in tensor.operands))
    return intervals


def _refined(
    tensor: Tensor, intervals: dict[Tensor, Interval], contract: Contract, chosen: Slopes | None = None
) -> Interval:
    """The tensor's interval, intersected with linear bounds of every element whose sign is open in some lane, or of
    those for which slopes are chosen."""
    lower, upper = (end.reshape(len(end), -1).copy() for end in intervals[tensor])
    lanes = len(lower)
    elements = chosen.elements if chosen else np.flatnonzero(((lower < 0) & (upper > 0)).any(axis=0))
    widest = max(neuron_count(tensor) if chosen else 1, *(math.prod(each.shape) for each in topological([tensor])))
    step = max(1, WORKSPACE // (2 * lanes * widest))
    for start in range(0, len(elements), step):
        part = elements[start : start + step]
        functionals = np.zeros((lanes, 2 * len(part), lower.shape[1]))
        functionals[:, np.arange(len(part)), part] = 1.0
        functionals[:, len(part) + np.arange(len(part)), part] = -1.0
        choices = chosen.choices(slice(start, start + step)) if chosen else {}
        found = lower_bounds(tensor, functionals.reshape(lanes, -1, *tensor.shape), intervals, contract, choices)
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
