"""Intervals of all that a network computes, by linear bounds of the neurons: each from the intervals of those before it
(CROWN, arXiv 1811.00866).

Where intervals leave it open which piece of an activation applies, three things tighten them, the cheapest first:
linear functions of the inputs, if few vary (`verify.bounds.affine_forms`); functionals passed back to the input, one
for each end of each neuron that is still open; and the same with slopes that a proof chooses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache, partial
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from verify.bounds.activations import neuron_count
from verify.bounds.affine_forms import Forms, inputs_and_lanes
from verify.bounds.blocks import cheapest_tilings
from verify.bounds.cones import Cone, Part, intervals_of, signs_of
from verify.bounds.linear_bounds import WORKSPACE, Relaxed, TwoSided
from verify.bounds.pruning import pruned
from verify.bounds.quadratics import Axes, Curvature
from verify.bounds.refinements import Choose, Slopes
from verify.bounds.relaxations import moved, relaxation
from verify.bounds.steps import Choices, Relaxation, Signs, some_intervals, some_lanes
from verify.core.functions import Function
from verify.core.interpreter import Rules
from verify.core.intervals import Interval, interval_rules
from verify.core.linear_maps import Diagonal
from verify.core.primitives import (
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
from verify.core.rounding import Array, Contract
from verify.model.network import Network

_CACHED = 2**19
"""Coefficients of functionals that should be held at a time, for the caches (4 MiB), unless that is just a few
functionals."""

_CHEAP = 2**17
"""Coefficients of functionals in all, so few that both ends of elements are bounded at once, rather than the one first
that may settle which piece of an activation applies."""

_FEW_FACTORS = 2**12
"""Elements of what a product or a softmax reads, at most, for linear bounds of it: each of them takes some, whereas
activations need those of open neurons only."""


def crown_intervals(
    network: Network,
    box: Interval,
    contract: Contract,
    *,
    refine: bool = True,
    every_end: bool = True,
    choose: Choose = lambda activation, intervals: None,
    signs: Signs = MappingProxyType({}),
    known: Mapping[Tensor, Interval] = MappingProxyType({}),
    curvatures: dict[Tensor, Axes | Curvature] | None = None,
) -> dict[Tensor, Interval]:
    """Intervals of every tensor that the output depends on, in executions that have the signs; they mean nothing where
    there is none.

    refine: by linear bounds where an activation needs them, with slopes as chosen, if any are, or a product or softmax
    of few values. every_end: also those ends that are needless since the other one tells which piece of an activation
    applies; what lies in narrower intervals rounds less, and planes above neurons are lower. known: intervals of what
    activations read, to be improved on. curvatures: where the quadratic forms of products are written, if there are
    any, of all executions.
    """
    lanes = len(box.lower)
    inputs, step = inputs_and_lanes(network, box) if refine else (0, max(1, lanes))
    found = []
    for rows in (slice(first, first + step) for first in range(0, max(1, lanes), step)):
        some = _Propagation(
            network,
            _some(box, rows),
            contract,
            choose,
            {tensor: some_lanes(sign, rows) for tensor, sign in signs.items()},
            some_intervals(known, rows),
            refine,
            every_end,
            inputs,
        )
        for tensor in topological([network.output]):
            some.follow(tensor)
        found.append(some)
    if curvatures is not None and not signs and not known:  # over the whole box, whose axes they are about
        joined = _joined_curvatures([some.curvatures for some in found])
        curvatures |= {each: known for each, known in joined.items() if isinstance(known, Axes) or known.size.any()}
    return _joined([some.intervals for some in found])


def _some(x: Interval, rows: slice) -> Interval:
    return Interval(*(some_lanes(end, rows) for end in x))


def _joined(parts: list[dict[Tensor, Interval]]) -> dict[Tensor, Interval]:
    """The intervals of all lanes, found for some at a time; those of constants have a single one."""
    if len(parts) == 1:
        return parts[0]
    found = {}
    for tensor, first in parts[0].items():
        if tensor.varies:
            found[tensor] = Interval(
                *(np.concatenate(each) for each in zip(*(part[tensor] for part in parts), strict=True))
            )
        else:
            found[tensor] = Interval(*(end[:1] for end in first))
    return found


def _joined_curvatures(parts: list[dict[Tensor, Axes | Curvature]]) -> dict[Tensor, Axes | Curvature]:
    """Those of all lanes, found for some at a time, which have them of the same tensors."""
    if len(parts) == 1:
        return parts[0]
    return {
        tensor: type(first)(*map(np.concatenate, zip(*(part[tensor] for part in parts), strict=True)))
        for tensor, first in parts[0].items()
    }


class _Propagation:
    """Through a network, tensor by tensor in topological order; arguments as those of `crown_intervals`.

    intervals: of the tensors that were followed, and forms of them, if any lane has some. All of them hold for every
    execution with the signs at any time, and only ever become narrower, so that a relaxation that was found with wider
    ones is valid, too. relaxations: kept until one that they were found with becomes narrower. curvatures: of products,
    and the axes of the input. inputs: as for `Forms`.
    """

    def __init__(
        self,
        network: Network,
        box: Interval,
        contract: Contract,
        choose: Choose,
        signs: Signs,
        known: Mapping[Tensor, Interval],
        refine: bool,
        every_end: bool,
        inputs: int,
    ) -> None:
        self.intervals = {network.input: box}
        self._every_end = every_end
        self._contract, self._choose, self._signs, self._known, self._refines = contract, choose, signs, known, refine
        self._rules: Rules = interval_rules(contract)
        self._forms = Forms(network, box, inputs) if refine else None
        self._readers: dict[Tensor, list[Tensor]] = {}
        self._relaxations: dict[Tensor, Relaxation] = {}
        self._factors: set[Tensor] = set()
        self.curvatures: dict[Tensor, Axes | Curvature] = {}
        if self._forms:
            self.curvatures[network.input] = self._forms.axes(network.input)

    def follow(self, tensor: Tensor) -> None:
        """Bound what an operation computes, after what it reads."""
        if tensor in self.intervals:
            return
        for operand in tensor.operands:
            self._readers.setdefault(operand, []).append(tensor)
        if isinstance(tensor.primitive, LeakyRelu | Clip | Function | Sign):
            self._refine_neurons(tensor)
        elif self._refines and isinstance(tensor.primitive, Product | Quotient | Softmax):
            for operand in tensor.operands:
                self._refine_factor(operand)
        self.intervals[tensor] = self._by_intervals(tensor)
        if self._forms:
            if isinstance(tensor.primitive, Product) and (curvature := self._forms.curvature(tensor, self.intervals)):
                self.curvatures[tensor] = curvature
            self._forms.follow(tensor, self.intervals, self._relaxed(tensor))
            self._update(tensor, _intersected(self.intervals[tensor], self._forms[tensor].interval()))

    def _by_intervals(self, tensor: Tensor) -> Interval:
        found: Interval = self._rules[type(tensor.primitive)](
            tensor.primitive, *(self.intervals[operand] for operand in tensor.operands)
        )
        return found

    def _relaxed(self, tensor: Tensor) -> Relaxation:
        if tensor not in self._relaxations:
            self._relaxations[tensor] = relaxation(tensor, self.intervals, self._contract, self._signs)
        return self._relaxations[tensor]

    def _update(self, tensor: Tensor, interval: Interval) -> None:
        """Use a narrower interval of the tensor."""
        self.intervals[tensor] = interval
        for reader in self._readers.get(tensor, ()):
            self._relaxations.pop(reader, None)
        if not isinstance(tensor.primitive, Linear):  # about which those of what it reads count
            self._relaxations.pop(tensor, None)
        if self._forms:
            self._forms.narrow(tensor, interval)

    def _refine_neurons(self, activation: Tensor) -> None:
        """Narrow what the activation reads, before it is applied."""
        primitive, (operand,) = activation.primitive, activation.operands
        if operand in self._known:
            self.intervals[operand] = _intersected(self.intervals[operand], self._known[operand])
        if self._refines and not exact_by_intervals(operand):
            corners = _corners(primitive)
            self._refine(operand, _open(corners, self.intervals[operand]), corners)
            chooses = isinstance(primitive, LeakyRelu | Function)
            if chooses and (chosen := self._choose(activation, self.intervals)):
                wanted = _open(corners, self.intervals[operand])
                wanted[:, np.setdiff1d(np.arange(wanted.shape[1]), chosen.elements)] = False
                self._refine(operand, wanted, corners, chosen)
        if activation in self._signs:
            self.intervals[operand] = _below_zero(self.intervals[operand], self._signs[activation])

    def _refine_factor(self, factor: Tensor) -> None:
        """Narrow what a product or a softmax reads, and with it all that only picks elements of it on the way there."""
        moves = []
        while isinstance(factor.primitive, Select | Reshape):
            moves.append(factor)
            (factor,) = factor.operands
        size = math.prod(factor.shape)
        plain = isinstance(factor.primitive, Linear | Sum | Concatenate | Product)
        if factor in self._factors or not plain or size > _FEW_FACTORS or exact_by_intervals(factor):
            return
        self._factors.add(factor)
        self._refine(factor, np.ones((len(self.intervals[factor].lower), size), np.bool_))
        for each in reversed(moves):
            self._update(each, self._by_intervals(each))

    def _refine(
        self,
        tensor: Tensor,
        wanted: NDArray[np.bool_],
        corners: tuple[float, ...] = (),
        chosen: Slopes | None = None,
    ) -> None:
        """By linear bounds of the elements that are wanted (lanes x elements), with slopes as chosen. corners: of what
        reads them."""
        ends = _Ends(self.intervals[tensor], wanted, () if self._every_end else corners)
        _refine(tensor, ends, self.intervals, self._contract, self._relaxed, self._signs, chosen)
        self._update(tensor, Interval(*(end.reshape(-1, *tensor.shape) for end in (ends.lower, ends.upper))))


class _Ends:
    """Of the elements of a tensor, lanes x elements, to be narrowed where wanted. corners: between the pieces of what
    reads them, if these are straight, and an end that leaves none inside makes the other one needless."""

    def __init__(self, interval: Interval, wanted: NDArray[np.bool_], corners: tuple[float, ...]) -> None:
        self.lower, self.upper = (end.reshape(len(end), -1).copy() for end in interval)
        self.wanted, self.corners = wanted, corners

    def nearer(self, lane: NDArray[np.intp], elements: NDArray[np.intp]) -> Array:
        """Which end of some elements (lanes x elements) is nearer to a corner: 1 for the lower one, -1 for the
        upper."""
        found = np.ones(elements.shape)
        lower, upper = self.lower[lane, elements], self.upper[lane, elements]
        for corner in self.corners:
            found[(lower < corner) & (upper > corner) & (upper - corner < corner - lower)] = -1.0
        return found

    def open(self, lane: NDArray[np.intp], elements: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Which elements are wanted and have a corner inside still."""
        inside = _open(self.corners, Interval(self.lower[lane, elements], self.upper[lane, elements]))
        return np.asarray(self.wanted[lane, elements] & inside)

    def narrow(self, lane: NDArray[np.intp], elements: NDArray[np.intp], signs: Array, bounds: Array) -> None:
        """By lower bounds of elements times 1 or -1. They hold where they are numbers: fmax and fmin pass over NaN.
        Elements that are not open are left as they are, so that what is found does not depend on what else is bounded
        at the same time."""
        still = self.open(lane, elements)
        for end, narrower, sign in ((self.lower, np.fmax, 1.0), (self.upper, np.fmin, -1.0)):
            these = still & (signs == sign)
            at = np.broadcast_to(lane, elements.shape)[these], elements[these]
            end[at] = narrower(end[at], sign * bounds[these])


def _refine(
    tensor: Tensor,
    ends: _Ends,
    intervals: dict[Tensor, Interval],
    contract: Contract,
    relaxed: Relaxed,
    signs: Signs,
    chosen: Slopes | None,
) -> None:
    """Narrow the tensor's ends by linear bounds, with slopes as chosen. relaxed: the relaxations that follow from these
    intervals, or wider ones, and the signs."""
    for tiles in cheapest_tilings(tensor, ends.wanted):
        asked = ends.wanted[:, tiles.inside]
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
            if len(some) == 1 and seen.tensor is tensor:  # one lane of the whole network, some of which may be dead
                around, sides = intervals_of(seen, intervals), signs_of(seen, signs)
                seen = pruned(tensor, around, place[0])
                if seen.tensor.shape != tensor.shape:  # of which just the wanted elements are left, in order
                    place = np.arange(place.size)[np.newaxis]
                around, sides = intervals_of(seen, around), signs_of(seen, sides)
                find = partial(relaxation, intervals=around, contract=contract, signs=sides)
            found_once = cache(find)
            lane = lanes[some][:, np.newaxis]
            choices = partial(chosen.choices if chosen else _none, seen)
            together = not ends.corners or place.size * tiles.cone.size < _CHEAP
            for start in range(0, place.shape[1], step):
                part = np.s_[:, start : start + step]
                both = TwoSided(seen.tensor, _units(place[part], seen.tensor), found_once)
                _narrow(ends, both, lane, numbers[part], choices, together=together)


def _narrow(
    ends: _Ends,
    both: TwoSided,
    lane: NDArray[np.intp],
    elements: NDArray[np.intp],
    choices: Callable[[NDArray[np.intp], Array], Choices],
    *,
    together: bool,
) -> None:
    """By bounds of functionals that are elements (lanes x elements). choices: given elements and signs. together: bound
    both ends at once, even if one makes the other needless."""

    def bounds(rows: NDArray[np.intp], signs: Array) -> Array:
        return both.lower(signs, rows, choices(np.take_along_axis(elements, rows, axis=1), signs))

    every, nearer = np.broadcast_to(np.arange(elements.shape[1]), elements.shape), ends.nearer(lane, elements)
    if together:
        found = bounds(np.concatenate([every, every], axis=1), np.concatenate([nearer, -nearer], axis=1))
        first, second = np.split(found, 2, axis=1)
    else:
        first = bounds(every, nearer)
    ends.narrow(lane, elements, nearer, first)
    rows = _listed(ends.open(lane, elements))
    if rows.size:
        signs = -np.take_along_axis(nearer, rows, axis=1)
        left = np.take_along_axis(second, rows, axis=1) if together else bounds(rows, signs)
        ends.narrow(lane, np.take_along_axis(elements, rows, axis=1), signs, left)


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
    return (around if same else moved(around)).mapped(partial(part.cut, piece))


def _none(part: Part, elements: NDArray[np.intp], signs: Array) -> Choices:
    """All is left to CROWN."""
    return {}


def _units(numbers: NDArray[np.intp], tensor: Tensor) -> Array:
    """For each lane, the functionals that are single elements of the tensor."""
    functionals = np.zeros((*numbers.shape, math.prod(tensor.shape)))
    np.put_along_axis(functionals, numbers[..., np.newaxis], 1.0, axis=2)
    return functionals.reshape(*numbers.shape, *tensor.shape)


def _listed(wanted: NDArray[np.bool_]) -> NDArray[np.intp]:
    """For each lane, the elements that are wanted; some that are not fill the rows of lanes that have fewer."""
    return np.argsort(~wanted, axis=1, kind="stable")[:, : wanted.sum(axis=1).max(initial=0)]


def _at_a_time(part: Cone, count: int) -> tuple[int, int]:
    """How many lanes, and elements of each, to bound at a time, if there are so many elements."""
    widest = max(neuron_count(part.tensor), *(math.prod(tensor.shape) for tensor in part.parts))
    most = max(1, WORKSPACE // (2 * widest))
    return max(1, _CACHED // (2 * max(1, count) * widest)), int(np.clip(32, min(_CACHED // (2 * widest), most), most))


def _corners(primitive: Primitive) -> tuple[float, ...]:
    """Where an activation bends; none if it does everywhere."""
    if isinstance(primitive, Clip):
        return primitive.lower, primitive.upper
    return () if isinstance(primitive, Function) else (0.0,)


def _open(corners: tuple[float, ...], x: Interval) -> NDArray[np.bool_]:
    """Which elements have a corner inside, if there are any at all (lanes x elements)."""
    lower, upper = (end.reshape(len(end), -1) for end in x)
    if not corners:
        return np.ones(lower.shape, np.bool_)
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
