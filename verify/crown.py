"""Margins and other functionals of the output by linear bounds: over interval bounds of the neurons, then over linear
bounds of those, too."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from verify.activations import neuron_count
from verify.affine_forms import Forms, lanes_with_forms
from verify.bounds import bounds
from verify.cones import Cone, Part, Tiles, count_of_kinds, intervals_of, signs_of, tilings, whole
from verify.functions import Function
from verify.interpreter import Rules
from verify.intervals import Interval, interval_rules
from verify.linear_bounds import Relaxed, lower_bounds, two_sided_bounds
from verify.linear_maps import Diagonal
from verify.margins import Labels, classes, logits_of, of_the_answer
from verify.maxima import with_relus
from verify.network import Network
from verify.primitives import (
    Clip,
    Concatenate,
    Input,
    LeakyRelu,
    Linear,
    Primitive,
    Product,
    Quotient,
    Reshape,
    Select,
    Sign,
    Softmax,
    Sum,
    Tensor,
    topological,
)
from verify.pruning import pruned
from verify.relaxations import Choice, Choices, Relaxation, Signs, relaxation, some_lanes
from verify.rounding import Array, Contract

WORKSPACE = 2**23
"""Coefficients of functionals that are held at a time (64 MiB), unless a single functional has more."""

_CACHED = 2**19
"""As many of them as should be held at a time, for the caches (4 MiB), unless that is just a few functionals."""

_FEW_FACTORS = 2**12
"""Elements of what a product or a softmax reads, at most, for linear bounds of it: each of them takes some, whereas
activations need those of open neurons only."""

_OVERHEAD = 2**16
"""Of the bounds of blocks of a kind, in the time that as many coefficients take."""

_PER_BLOCK = 1
"""Of a block, for what depends on its intervals alone, in the time that so many functionals take."""


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
    """What splits prove: the network as far as its logits, in ReLUs (`verify.maxima`), functionals of these, and
    constants to add: the network answers the label if all are positive. The constants make room for what a softmax
    behind the logits needs."""
    functionals, constants = margin_functionals(network, labels)
    target = logits_of(network)
    if target is network.output:
        return with_relus(network), functionals, constants
    problem = with_relus(replace(network, outputs=(target,)))
    (logits,) = bounds(problem, box, contract)
    return problem, functionals, of_the_answer(np.zeros_like(constants), network, labels, logits, contract)


@dataclass(frozen=True, eq=False)
class Slopes:
    """Chosen slopes for the bounds of single elements of a tensor.

    elements: which. below: for each activation in front of them, the numbers of its neurons that have slopes. slopes:
    in 255ths, 2 x elements x neurons, those of the lower bounds first, the activations one after the other.
    """

    elements: NDArray[np.intp]
    below: Mapping[Tensor, NDArray[np.intp]]
    slopes: NDArray[np.uint8]

    def choices(self, elements: NDArray[np.intp], part: Part) -> Choices:
        """For the functionals of some of the elements, lanes x elements: their lower bounds, then their upper ones."""
        row = np.minimum(np.searchsorted(self.elements, elements), len(self.elements) - 1)[..., np.newaxis]
        chosen, first = {}, 0
        columns = {}
        for tensor, neurons in self.below.items():
            if len(neurons):  # CROWN decides about the others
                columns[tensor] = np.full((1, *tensor.shape), -1)
                columns[tensor].reshape(-1)[neurons] = np.arange(first, first := first + len(neurons))
        for piece, (source, _) in part.parts.items():
            if source in columns and isinstance(piece.primitive, LeakyRelu | Function):
                column = part.cut(piece, columns[source]).reshape(-1, 1, math.prod(piece.shape))
                slope = np.where(column < 0, np.nan, self.slopes[:, row, column] / 255.0)
                chosen[piece] = Choice(np.concatenate(list(slope), axis=1).reshape(len(row), -1, *piece.shape))
        return chosen

    def inside(self, part: Cone, activation: Tensor) -> Slopes:
        """The same about a part of the network, for what an activation of it reads."""
        place = {source: _places(part, piece) for piece, (source, _) in part.parts.items()}
        rows, elements = _kept(self.elements, place[part.parts[activation.operands[0]][0]])
        columns, below = [np.zeros(0, np.bool_)], {}
        piece_of = {source: piece for piece, (source, _) in part.parts.items()}
        for source, neurons in self.below.items():
            column, below[piece_of[source]] = _kept(neurons, place[source])
            columns.append(column)
        return Slopes(elements, below, self.slopes[:, rows][:, :, np.concatenate(columns)])


def _places(part: Cone, piece: Tensor) -> NDArray[np.intp]:
    """The numbers, in order, that the elements of a piece have in its tensor."""
    source, where = part.parts[piece]
    return np.arange(math.prod(source.shape)).reshape(source.shape)[where].reshape(-1)


def _kept(numbers: NDArray[np.intp], places: NDArray[np.intp]) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Which of the numbers are among the places, and at which."""
    kept = np.isin(numbers, places)
    return kept, np.searchsorted(places, numbers[kept])


Choose = Callable[[Tensor, Mapping[Tensor, Interval]], Slopes | None]
"""Chooses slopes for what an activation reads, given the intervals of all that comes before; None leaves them to
CROWN."""


def crown_intervals(
    network: Network,
    box: Interval,
    contract: Contract,
    *,
    refine: bool = True,
    choose: Choose = lambda activation, intervals: None,
    signs: Signs = MappingProxyType({}),
    known: Mapping[Tensor, Interval] = MappingProxyType({}),
) -> dict[Tensor, Interval]:
    """Intervals of every tensor that the output depends on, in executions that have the signs; they mean nothing where
    there is none. refine: by linear bounds where an activation needs them, with slopes as chosen, if any are, or a
    product or softmax of few values. known: intervals of what activations read, to be improved on."""
    lanes = len(box.lower)
    if refine and (step := lanes_with_forms(network, box)) < lanes:
        return _joined(
            [
                crown_intervals(
                    network,
                    Interval(*(end[rows] for end in box)),
                    contract,
                    choose=choose,
                    signs={tensor: some_lanes(sign, rows) for tensor, sign in signs.items()},
                    known={
                        tensor: Interval(*(some_lanes(end, rows) for end in ends)) for tensor, ends in known.items()
                    },
                )
                for rows in (slice(start, start + step) for start in range(0, lanes, step))
            ],
            lanes,
        )
    rules: Rules = interval_rules(contract)
    intervals = {network.input: box}
    forms = Forms(network, box) if refine else None
    readers: dict[Tensor, list[Tensor]] = {}
    relaxations: dict[Tensor, Relaxation] = {}
    factors: set[Tensor] = set()

    def relaxed(tensor: Tensor) -> Relaxation:
        if tensor not in relaxations:
            relaxations[tensor] = relaxation(tensor, intervals, contract, signs)
        return relaxations[tensor]

    def update(tensor: Tensor, interval: Interval) -> None:
        intervals[tensor] = interval
        for reader in readers.get(tensor, ()):
            relaxations.pop(reader, None)  # which was found with wider intervals
        if not isinstance(tensor.primitive, Linear):  # about which those of what it reads count
            relaxations.pop(tensor, None)
        if forms:
            forms.narrow(tensor, interval)

    def refine_factor(factor: Tensor) -> None:
        """What a product or a softmax reads, and with it all that only picks elements of it on the way there."""
        moves = []
        while isinstance(factor.primitive, Select | Reshape):
            moves.append(factor)
            (factor,) = factor.operands
        size = math.prod(factor.shape)
        plain = isinstance(factor.primitive, Linear | Sum | Concatenate | Product)
        if factor in factors or not plain or size > _FEW_FACTORS or exact_by_intervals(factor):
            return
        factors.add(factor)
        every = np.ones((len(intervals[factor].lower), size), np.bool_)
        update(factor, _refined(factor, every, intervals, contract, relaxed, signs))
        for each in reversed(moves):
            update(each, rules[type(each.primitive)](each.primitive, intervals[each.operands[0]]))

    for tensor in topological([network.output]):
        if tensor is network.input:
            continue
        for operand in tensor.operands:
            readers.setdefault(operand, []).append(tensor)
        primitive = tensor.primitive
        if isinstance(primitive, LeakyRelu | Clip | Function | Sign):
            (operand,) = tensor.operands
            if operand in known:
                intervals[operand] = _intersected(intervals[operand], known[operand])
            if refine and not exact_by_intervals(operand):
                wanted = _open(primitive, intervals[operand])
                update(operand, _refined(operand, wanted, intervals, contract, relaxed, signs))
                if isinstance(primitive, LeakyRelu | Function) and (chosen := choose(tensor, intervals)):
                    wanted = _open(primitive, intervals[operand])
                    wanted[:, np.setdiff1d(np.arange(wanted.shape[1]), chosen.elements)] = False
                    update(operand, _refined(operand, wanted, intervals, contract, relaxed, signs, chosen))
            if tensor in signs:
                intervals[operand] = _below_zero(intervals[operand], signs[tensor])
        if refine and isinstance(primitive, Product | Quotient | Softmax):
            for operand in tensor.operands:
                refine_factor(operand)
        rule = rules[type(primitive)]
        intervals[tensor] = rule(primitive, *(intervals[operand] for operand in tensor.operands))
        if forms:
            forms.follow(tensor, intervals, relaxed(tensor))
            update(tensor, _intersected(intervals[tensor], forms[tensor].interval()))
    return intervals


def _joined(parts: list[dict[Tensor, Interval]], lanes: int) -> dict[Tensor, Interval]:
    """The intervals of so many lanes, some at a time; those of constants have a single one."""
    found = {}
    for tensor, first in parts[0].items():
        ends = first
        if sum(len(part[tensor].lower) for part in parts) == lanes:
            ends = Interval(*(np.concatenate(each) for each in zip(*(part[tensor] for part in parts), strict=True)))
        found[tensor] = ends
    return found


def _refined(
    tensor: Tensor,
    wanted: NDArray[np.bool_],
    intervals: dict[Tensor, Interval],
    contract: Contract,
    relaxed: Relaxed,
    signs: Signs,
    chosen: Slopes | None = None,
) -> Interval:
    """The tensor's interval, intersected with linear bounds of the elements that are wanted (lanes x elements), with
    slopes as chosen. relaxed: the relaxations that follow from these intervals, or wider ones, and the signs."""
    lower, upper = (end.reshape(len(end), -1).copy() for end in intervals[tensor])
    for tiles in cheapest_tilings(tensor, wanted):
        asked = wanted[:, tiles.inside]
        lanes, blocks = np.nonzero(asked.any(axis=2))
        asked = asked[lanes, blocks]
        waiting = np.argsort(-asked.sum(axis=1), kind="stable")  # blocks side by side have nearly as many elements
        count, step = _at_a_time(tiles.cone, int(asked.sum(axis=1).max(initial=0)))
        while len(waiting):
            some, waiting = waiting[:count], waiting[count:]
            place = _listed(asked[some])
            numbers = np.take_along_axis(tiles.inside[blocks[some]], place, axis=1)
            seen: Part = tiles.at(lanes[some], blocks[some])
            find = partial(_relaxed_part, seen, relaxed)
            if len(some) == 1 and seen.tensor is tensor:
                around, sides = intervals_of(seen, intervals), signs_of(seen, signs)
                seen = pruned(tensor, around, place[0])
                if seen.tensor.shape != tensor.shape:
                    place = np.arange(place.size)[np.newaxis]
                around, sides = intervals_of(seen, around), signs_of(seen, sides)
                find = partial(relaxation, intervals=around, contract=contract, signs=sides)
            found_once = cache(find)
            for start in range(0, place.shape[1], step):
                part = np.s_[:, start : start + step]
                functionals = _units(place[part], seen.tensor)
                choices = chosen.choices(numbers[part], seen) if chosen else {}
                found = two_sided_bounds(seen.tensor, functionals, found_once, choices)
                # Both bounds hold where they are numbers: fmax and fmin pass over NaN. Elements that only fill the rows
                # are left as they are, so that what is found of a block does not depend on those beside it.
                at = lanes[some][:, np.newaxis], numbers[part]
                lower[at] = np.where(wanted[at], np.fmax(lower[at], found.lower), lower[at])
                upper[at] = np.where(wanted[at], np.fmin(upper[at], found.upper), upper[at])
    return Interval(lower.reshape(-1, *tensor.shape), upper.reshape(-1, *tensor.shape))


def _intersected(x: Interval, y: Interval) -> Interval:
    """Of two intervals, NaN where nothing is known, that hold both."""
    return Interval(np.fmax(x.lower, y.lower), np.fmin(x.upper, y.upper))


def _below_zero(x: Interval, sign: NDArray[np.int8]) -> Interval:
    """What is left of an interval where the sign is -1. Where it is 1 the lower end stays below zero, from which CROWN
    tells how steep the line below the function should be."""
    lower, upper = np.broadcast_arrays(x.lower, np.where(sign < 0, np.minimum(x.upper, 0.0), x.upper))
    return Interval(lower, upper)


def _relaxed_part(part: Part, relaxed: Relaxed, piece: Tensor) -> Relaxation:
    """The relaxation of a piece of the network, given those of the network."""
    source, _ = part.parts[piece]
    around = relaxed(source)
    same = type(piece.primitive) is type(source.primitive)
    return (around if same else around.moved).mapped(partial(part.cut, piece))


def _units(numbers: NDArray[np.intp], tensor: Tensor) -> Array:
    """For each lane, the functionals that are single elements of the tensor."""
    functionals = np.zeros((*numbers.shape, math.prod(tensor.shape)))
    np.put_along_axis(functionals, numbers[..., np.newaxis], 1.0, axis=2)
    return functionals.reshape(*numbers.shape, *tensor.shape)


def cheapest_tilings(tensor: Tensor, wanted: NDArray[np.bool_]) -> tuple[Tiles, ...]:
    """The tensor in blocks, so that bounds of its wanted elements take little work."""
    best: tuple[Tiles, ...] = (whole(tensor),)
    if not wanted.any():
        return best
    least = _work(wanted, best)
    for edge in (16, 8, 4, 2, 1):
        if edge < max(tensor.shape[2:], default=0) and _OVERHEAD * count_of_kinds(tensor, edge) < least:
            each = tilings(tensor, edge)
            if (work := _work(wanted, each)) < least:
                best, least = each, work
    return best


def _work(wanted: NDArray[np.bool_], each: tuple[Tiles, ...]) -> int:
    work = 0
    for tiles in each:
        counts = wanted[:, tiles.inside].sum(axis=2)
        work += _OVERHEAD * bool(counts.any()) + tiles.cone.size * int((counts + _PER_BLOCK * (counts > 0)).sum())
    return work


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
