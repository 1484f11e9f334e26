"""Margins and other functionals of the output by linear bounds: over interval bounds of the neurons, then over linear
bounds of those, too."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from verify.bounds import bounds
from verify.cones import Cone, cone, spatial_blocks, whole
from verify.functions import Function
from verify.interpreter import Rules
from verify.intervals import Interval, interval_rules
from verify.linear_bounds import Choice, Choices, lower_bounds, neuron_count, some_lanes, two_sided_bounds
from verify.linear_maps import Diagonal
from verify.margins import Labels, classes, logits_of, of_the_answer
from verify.network import Network
from verify.primitives import Clip, Input, LeakyRelu, Linear, Primitive, Reshape, Select, Sign, Tensor, topological
from verify.pruning import pruned
from verify.rounding import Array, Contract

WORKSPACE = 2**23
"""Coefficients of functionals that are held at a time (64 MiB), unless a single functional has more."""

_CACHED = 2**19
"""As many of them as should be held at a time, for the caches (4 MiB), unless that is just a few functionals."""

_OVERHEAD = 2**17
"""Of the bounds of a block, in the time that as many coefficients take."""


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

    def choices(self, part: NDArray[np.intp]) -> Choices:
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
        bends = isinstance(primitive, LeakyRelu | Clip | Function | Sign)
        if refine and bends and not exact_by_intervals(tensor.operands[0]):
            (operand,) = tensor.operands
            intervals[operand] = _refined(operand, _open(primitive, intervals[operand]), intervals, contract)
            if isinstance(primitive, LeakyRelu) and (chosen := choose(tensor, intervals)):
                wanted = np.zeros((1, math.prod(operand.shape)), np.bool_)
                wanted[:, chosen.elements] = True
                intervals[operand] = _refined(operand, wanted, intervals, contract, chosen)
        rule = rules[type(primitive)]
        intervals[tensor] = rule(primitive, *(intervals[operand] for operand in tensor.operands))
    return intervals


def _refined(
    tensor: Tensor,
    wanted: NDArray[np.bool_],
    intervals: dict[Tensor, Interval],
    contract: Contract,
    chosen: Slopes | None = None,
) -> Interval:
    """The tensor's interval, intersected with linear bounds of the elements that are wanted (lanes x elements), with
    slopes as chosen."""
    lower, upper = (end.reshape(len(end), -1).copy() for end in intervals[tensor])
    for part, inside in _blocks(tensor, wanted):
        lanes, step = _at_a_time(part, int(wanted[:, inside].sum(axis=1).max()))
        for lane in range(0, len(lower), lanes):
            rows = np.s_[lane : lane + lanes]
            seen, elements = part, _listed(wanted[rows, inside])
            own = {each: Interval(*(some_lanes(end, rows) for end in ends)) for each, ends in intervals.items()}
            place = elements
            if lanes == 1 and part.tensor is tensor:
                seen = pruned(tensor, own, elements[0])
                if seen.tensor.shape != tensor.shape:
                    place = np.arange(elements.size)[np.newaxis]
            known = seen.intervals(own)
            for start in range(0, elements.shape[1], step):
                some = np.s_[start : start + step]
                functionals = _units(place[:, some], seen.tensor)
                numbers = inside[elements[:, some]]
                choices = _choices(chosen, np.searchsorted(chosen.elements, numbers[0]), seen) if chosen else {}
                found = two_sided_bounds(seen.tensor, functionals, known, contract, choices)
                # Both bounds hold where they are numbers: fmax and fmin pass over NaN. Elements that only fill the rows
                # are left as they are, so that what is found of a lane does not depend on the lanes beside it.
                at = lane + np.arange(len(numbers))[:, np.newaxis], numbers
                lower[at] = np.where(wanted[at], np.fmax(lower[at], found.lower), lower[at])
                upper[at] = np.where(wanted[at], np.fmin(upper[at], found.upper), upper[at])
    return Interval(lower.reshape(-1, *tensor.shape), upper.reshape(-1, *tensor.shape))


def _units(numbers: NDArray[np.intp], tensor: Tensor) -> Array:
    """For each lane, the functionals that are single elements of the tensor."""
    functionals = np.zeros((*numbers.shape, math.prod(tensor.shape)))
    np.put_along_axis(functionals, numbers[..., np.newaxis], 1.0, axis=2)
    return functionals.reshape(*numbers.shape, *tensor.shape)


def _choices(chosen: Slopes, elements: NDArray[np.intp], part: Cone) -> Choices:
    """The slopes that are chosen for some of the elements, in a part of the network."""
    whole = chosen.choices(elements)
    return {
        piece: Choice(whole[source].slope[:, :, *where])
        for piece, (source, where) in part.parts.items()
        if source in whole and type(piece.primitive) is LeakyRelu
    }


def _blocks(tensor: Tensor, wanted: NDArray[np.bool_]) -> list[tuple[Cone, NDArray[np.intp]]]:
    """The tensor in blocks, so that bounds of its wanted elements take little work; with the numbers of the elements of
    each. Leaves out blocks of which none is wanted."""
    numbers = np.arange(math.prod(tensor.shape)).reshape(tensor.shape)
    best = [(whole(tensor), numbers.reshape(-1))]
    least = _work(best, wanted)
    for edge in (16, 8, 4):
        if edge < max(tensor.shape[2:], default=0):
            blocks = [
                (cone(tensor, box), inside)
                for box in spatial_blocks(tensor, edge)
                if wanted[:, inside := numbers[box].reshape(-1)].any()
            ]
            if (work := _work(blocks, wanted)) < least:
                best, least = blocks, work
    return best


def _work(blocks: list[tuple[Cone, NDArray[np.intp]]], wanted: NDArray[np.bool_]) -> int:
    return sum(part.size * int(wanted[:, inside].sum()) + _OVERHEAD for part, inside in blocks)


def _listed(wanted: NDArray[np.bool_]) -> NDArray[np.intp]:
    """For each lane, the elements that are wanted; some that are not fill the rows of lanes that have fewer."""
    return np.argsort(~wanted, axis=1, kind="stable")[:, : wanted.sum(axis=1).max(initial=0)]


def _at_a_time(part: Cone, count: int) -> tuple[int, int]:
    """How many lanes, and elements of each, to bound at a time, if there are so many elements."""
    widest = max(neuron_count(part.tensor), *(math.prod(tensor.shape) for tensor in part.parts))
    most = max(1, WORKSPACE // (2 * widest))
    return max(1, _CACHED // (2 * max(1, count) * widest)), int(np.clip(32, min(_CACHED // (2 * widest), most), most))


def _open(primitive: Primitive, x: Interval) -> NDArray[np.bool_]:
    """For which elements it is open which piece of the function applies (lanes x elements)."""
    lower, upper = (end.reshape(len(end), -1) for end in x)
    if isinstance(primitive, Function):  # which bends everywhere
        return np.ones(lower.shape, np.bool_)
    corners = (primitive.lower, primitive.upper) if isinstance(primitive, Clip) else (0.0,)
    return np.asarray(np.any([(lower < corner) & (upper > corner) for corner in corners], axis=0))


def exact_by_intervals(tensor: Tensor) -> bool:
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
