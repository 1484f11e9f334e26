"""Margins and other functionals of the output by linear bounds: over interval bounds of the neurons, then over linear
bounds of those, too."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from verify.bounds import bounds
from verify.functions import Function
from verify.interpreter import Rules
from verify.intervals import Interval, interval_rules
from verify.linear_bounds import Choice, Choices, lower_bounds, neuron_count
from verify.linear_maps import Diagonal
from verify.margins import Labels, classes, logits_of, of_the_answer
from verify.network import Network
from verify.primitives import Clip, Input, LeakyRelu, Linear, Primitive, Reshape, Select, Tensor, topological
from verify.rounding import Array, Contract

WORKSPACE = 2**23
"""Coefficients of functionals that are held at a time (64 MiB), unless a single functional has more."""


def crown_margins(network: Network, box: Interval, labels: Labels, contract: Contract, *, refine: bool = True) -> Array:
    """Lower bounds of the margins, as `margin_bounds` gives them.

    refine: bound the neurons before each activation by linear bounds as well, where intervals leave it open which
    piece applies; tighter, and many times the work.
    """
    functionals, _ = margin_functionals(network, labels)
    target = logits_of(network)
    with np.errstate(all="ignore"):
        intervals = crown_intervals(replace(network, outputs=(target,)), box, contract, refine=refine)
        lower = lower_bounds(target, functionals, intervals, contract)
    return of_the_answer(lower, network, labels, intervals[target], contract)


def crown_bounds(
    network: Network, box: Interval, functionals: Array, contract: Contract, *, refine: bool = True
) -> Array:
    """For each lane and functional of the output (lanes x functionals x the output's shape), a lower bound over the
    box; NaN where nothing can be said. refine: as in `crown_margins`."""
    with np.errstate(all="ignore"):
        intervals = crown_intervals(network, box, contract, refine=refine)
        return lower_bounds(network.output, functionals, intervals, contract)


def margin_functionals(network: Network, labels: Labels) -> tuple[Array, Array]:
    """The functionals y[label] - y[j] of the logits y (`margins.logits_of`), lanes x classes x their shape; and
    constants to add, lanes x classes: 1 for the label itself, else 0, so that the label wins if all are positive."""
    count = classes(network)
    own = np.eye(count)[labels]
    rows = own[:, np.newaxis] - np.eye(count)
    return rows.reshape(*rows.shape[:2], *logits_of(network).shape), own


def margin_problem(network: Network, box: Interval, labels: Labels, contract: Contract) -> tuple[Network, Array, Array]:
    """The network as far as its logits, functionals of these, and constants to add: the network answers the label if
    all are positive. The constants make room for what a softmax behind the logits needs."""
    functionals, constants = margin_functionals(network, labels)
    target = logits_of(network)
    if target is network.output:
        return network, functionals, constants
    problem = replace(network, outputs=(target,))
    (logits,) = bounds(problem, box, contract)
    return problem, functionals, of_the_answer(np.zeros_like(constants), network, labels, logits, contract)


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
        primitive = tensor.primitive
        bends = isinstance(primitive, LeakyRelu | Clip | Function)
        if refine and bends and not _exact_by_intervals(tensor.operands[0]):
            (operand,) = tensor.operands
            intervals[operand] = _refined(operand, _open(primitive, intervals[operand]), intervals, contract)
            if isinstance(primitive, LeakyRelu) and (chosen := choose(tensor, intervals)):
                intervals[operand] = _refined(operand, chosen.elements, intervals, contract, chosen)
        rule = rules[type(primitive)]
        intervals[tensor] = rule(primitive, *(intervals[operand] for operand in tensor.operands))
    return intervals


def _refined(
    tensor: Tensor,
    elements: NDArray[np.intp],
    intervals: dict[Tensor, Interval],
    contract: Contract,
    chosen: Slopes | None = None,
) -> Interval:
    """The tensor's interval, intersected with linear bounds of the elements, with slopes as chosen."""
    lower, upper = (end.reshape(len(end), -1).copy() for end in intervals[tensor])
    lanes = len(lower)
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


def _open(primitive: Primitive, x: Interval) -> NDArray[np.intp]:
    """The elements for which it is open, in some lane, which piece of the function applies."""
    lower, upper = (end.reshape(len(end), -1) for end in x)
    if isinstance(primitive, Function):  # which bends everywhere
        return np.arange(lower.shape[1])
    corners = (primitive.lower, primitive.upper) if isinstance(primitive, Clip) else (0.0,)
    return np.flatnonzero(np.any([(lower < corner) & (upper > corner) for corner in corners], axis=(0, 1)))


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
