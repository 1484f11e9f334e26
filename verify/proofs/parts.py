"""Bounds by CROWN over those executions in a box in which some ReLUs read numbers of known signs.

Signs tighten bounds of all neurons behind those ReLUs, and so on: in deep networks a few of them decide what hundreds
of splits behind intervals of the whole box do not. Each part takes all the work of CROWN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from verify.bounds.activations import activations, neuron_count, relus, smooth
from verify.bounds.cones import Cone, intervals_of
from verify.bounds.evaluation import lanes_at_a_time
from verify.bounds.linear_bounds import lower_bounds
from verify.bounds.lines import Intervals
from verify.bounds.neuron_bounds import crown_intervals
from verify.bounds.pruning import neurons_of, pruned
from verify.bounds.refinements import Refinement, Slopes, refining
from verify.bounds.steps import Signs, some_intervals, some_lanes
from verify.core.intervals import Interval
from verify.core.primitives import Tensor
from verify.core.rounding import Array, Contract, down
from verify.errors import Rejected
from verify.model.network import Network
from verify.proofs.choices import choices_of
from verify.proofs.part_slopes import PartSlopes
from verify.proofs.paths import Path, leaf_paths, splits_of

_MOST = 32
"""Parts that are bounded together."""


class _Refined(NamedTuple):
    """A box under some choice of slopes. neurons: which may have some in bounds of functionals. whole: the intervals.
    cone: of the network, what matters within the box. numbers: those that its neurons have in the whole. slopes: for
    what its ReLUs read. found: bounds of parts."""

    chosen: bytes
    neurons: NDArray[np.bool_]
    whole: dict[Tensor, Interval]
    cone: Cone
    numbers: NDArray[np.intp]
    slopes: dict[Tensor, Slopes]
    found: dict[tuple[bytes, ...], Array]


class Parts:
    """Lower bounds of functionals, with their constants, over parts of the executions in a box.

    Each part is bounded with the slopes that are chosen for the box, once `refine` was told which, by the part of the
    network that matters within it (`verify.bounds.pruning`).
    """

    def __init__(
        self,
        network: Network,
        box: Interval,
        functionals: Array,
        constants: Array,
        contract: Contract,
        intervals: dict[Tensor, Interval] | None = None,
    ) -> None:
        """box: in one lane. functionals: functionals x the output's shape. intervals: if they are known already."""
        self.network, self.box, self.functionals, self.constants = network, box, functionals, constants
        self.contract = contract
        self._intervals = intervals
        self._state: _Refined | None = None

    def is_about(
        self, network: Network, box: Interval, functionals: Array, constants: Array, contract: Contract
    ) -> bool:
        """Whether it is the same problem."""
        same = zip((*self.box, self.functionals, self.constants), (*box, functionals, constants), strict=True)
        return self.network is network and self.contract == contract and all(np.array_equal(*each) for each in same)

    @property
    def intervals(self) -> dict[Tensor, Interval]:
        """Of the whole network over the box, without chosen slopes."""
        if self._intervals is None:
            with np.errstate(all="ignore"):
                self._intervals = crown_intervals(self.network, self.box, self.contract)
        return self._intervals

    def refine(self, neurons: NDArray[np.bool_], refinements: Sequence[Refinement]) -> None:
        """Choose slopes, as in a `SplitProof`; what was found with others is forgotten. Raises Rejected where they do
        not fit the network."""
        content = (neurons, *(each for refinement in refinements for each in (refinement.neurons, refinement.slopes)))
        chosen = b"".join(str(each.shape).encode() + each.tobytes() for each in content)
        if self._state and chosen == self._state.chosen:
            return
        self._state, output = None, self.network.output
        choose = refining(output, neurons, refinements)
        whole = self.intervals
        if refinements:
            with np.errstate(all="ignore"):
                whole = crown_intervals(self.network, self.box, self.contract, choose=choose)
        for end in (end for ends in whole.values() for end in ends):
            end.flags.writeable = False
        cone = pruned(output, whole)
        pieces = neurons_of(cone, output)
        numbers = np.concatenate([np.zeros(0, np.intp), *(pieces[each] for each in activations(cone.tensor))])
        slopes = {piece: found.inside(cone, piece) for piece in pieces if (found := choose(cone.parts[piece][0], {}))}
        self._state = _Refined(chosen, neurons, whole, cone, numbers, slopes, {})

    def forget(self) -> None:
        """Keep nothing but the problem."""
        self._intervals = self._state = None

    @property
    def _refined(self) -> _Refined:
        assert self._state, "to be refined first"
        return self._state

    @property
    def whole(self) -> Mapping[Tensor, Interval]:
        """Intervals over the box, of the whole network."""
        return self._refined.whole

    @property
    def inside(self) -> Tensor:
        """The output of the part of the network that matters."""
        return self._refined.cone.tensor

    @property
    def numbers(self) -> NDArray[np.intp]:
        """Those that the neurons of that part have in the whole network."""
        return self._refined.numbers

    @property
    def neurons(self) -> NDArray[np.bool_]:
        """Of all neurons of the network, those that have a slope."""
        return self._refined.neurons

    @property
    def at_a_time(self) -> int:
        """How many parts to bound together."""
        return min(_MOST, lanes_at_a_time(self.network))

    def over(self, paths: Sequence[Path]) -> tuple[Array, dict[Tensor, Interval]]:
        """Bounds over the executions with the signs on each path, paths x functionals: infinity where there is none,
        NaN where nothing is known; to be remembered. And intervals, one lane per path or one for all, which mean
        nothing where there is no execution."""
        lower, intervals = self._bounded(paths)
        lower.flags.writeable = False  # what is remembered is nobody else's
        self._refined.found.update(zip(_keys(paths, None), lower, strict=True))
        return lower, intervals

    def steepened(
        self, paths: Sequence[Path], found: tuple[Array, dict[Tensor, Interval]], slopes: PartSlopes
    ) -> Array:
        """Better bounds than `over` found, with slopes and multipliers for some functionals; to be remembered."""
        lower = found[0].copy()
        self._steepen(paths, lower, found[1], slopes)
        lower.flags.writeable = False
        self._refined.found.update(zip(_keys(paths, slopes), lower, strict=True))
        return lower

    def least(self, nodes: NDArray[np.int32], needed: NDArray[np.bool_], slopes: PartSlopes | None = None) -> Array:
        """Over all leaves of a tree, with slopes in some of these; or of as many as it takes to find that none of the
        functionals that are needed is proved positive. Raises Rejected unless it is a tree that these fit."""
        least = np.full(len(self.functionals), math.inf)
        if slopes is not None and not slopes.fit(len(nodes) // 2 + 1, len(least)):
            raise Rejected("the slopes of its parts are for such that do not exist, or not in order")
        first = 0
        # Where smooth functions are split is not said, which is refused.
        paths = leaf_paths(nodes, smooth(self.network.output))
        while some := list(islice(paths, self.at_a_time)):
            own = slopes and slopes.of(np.arange(first, first + len(some)))
            remembered = [self._refined.found.get(key) for key in _keys(some, own)]
            new = np.array([row for row, bounds in enumerate(remembered) if bounds is None], np.intp)
            found = [bounds for bounds in remembered if bounds is not None]
            if len(new):
                paths_of_new = [some[row] for row in new.tolist()]
                lower, intervals = self._bounded(paths_of_new)
                if own is not None:
                    self._steepen(paths_of_new, lower, intervals, own.of(new))
                found += list(lower)
            least = np.minimum(least, np.min(found, axis=0))  # NaN if one is
            first += len(some)
            if not (least[needed] > 0).any():
                break
        return least

    def _bounded(self, paths: Sequence[Path]) -> tuple[Array, dict[Tensor, Interval]]:
        _, _, whole, cone, _, slopes, _ = self._refined
        signs = self._signs(paths)
        network, known = replace(self.network, outputs=(cone.tensor,)), intervals_of(cone, whole)
        box = Interval(*(np.broadcast_to(end, (len(paths), *end.shape[1:])) for end in self.box))
        functionals = np.broadcast_to(self.functionals, (len(paths), *self.functionals.shape))

        def choose(relu: Tensor, intervals: Intervals) -> Slopes | None:
            return slopes.get(relu)

        with np.errstate(all="ignore"):
            intervals = crown_intervals(network, box, self.contract, choose=choose, signs=signs, known=known)
            lower = lower_bounds(cone.tensor, functionals, intervals, self.contract, signs=signs)
            lower = down(lower + self.constants)
        lower[_empty(len(paths), signs, intervals)] = np.inf
        return lower, intervals

    def _signs(self, paths: Sequence[Path]) -> dict[Tensor, NDArray[np.int8]]:
        cone, numbers = self._refined.cone, self._refined.numbers
        sides = np.zeros((len(paths), neuron_count(self.network.output)), np.int8)
        path, neuron, side, _ = splits_of(paths)
        sides[path, neuron] = side
        sides = sides[:, numbers]
        return {relu: sides[:, part].reshape(-1, *relu.shape) for relu, part in relus(cone.tensor).items()}

    def _steepen(
        self, paths: Sequence[Path], lower: Array, intervals: Mapping[Tensor, Interval], slopes: PartSlopes
    ) -> None:
        """Improve lower bounds with slopes and multipliers for some functionals."""
        cone, neurons = self._refined.cone, self._refined.neurons
        deepest = max((len(paths[part]) for part in slopes.part.tolist()), default=0)
        if slopes.slopes.shape[1] != neurons.sum() or slopes.multipliers.shape[1] < deepest:
            raise Rejected("the slopes of its parts do not fit the neurons that have some, or splits lack multipliers")
        signs = self._signs(paths)

        def bounds(some: PartSlopes) -> Array:
            part = some.part.astype(np.intp)
            own = [paths[number] for number in part.tolist()]
            used = [row[: len(path)] for row, path in zip(some.multipliers, own, strict=True)]
            multipliers = np.concatenate([np.zeros(0, np.float32), *used])
            choices = choices_of(cone, self.network.output, neurons, own, some.slopes, multipliers)
            inside = some_intervals(intervals, part)
            sides = {relu: some_lanes(sign, part) for relu, sign in signs.items()}
            functionals = self.functionals[some.functional][:, np.newaxis]
            with np.errstate(all="ignore"):
                found = lower_bounds(cone.tensor, functionals, inside, self.contract, choices, signs=sides)[:, 0]
                return down(found + self.constants[some.functional])

        slopes.improve(lower, bounds, lanes_at_a_time(self.network))


def of_each(network: Network, box: Interval, functionals: Array, constants: Array, contract: Contract) -> list[Parts]:
    """One for each lane of the box, the functionals and the constants."""
    boxes = [Interval(*(end[lane : lane + 1] for end in box)) for lane in range(len(box.lower))]
    return [Parts(network, *each, contract) for each in zip(boxes, functionals, constants, strict=True)]


def _empty(lanes: int, signs: Signs, intervals: Mapping[Tensor, Interval]) -> NDArray[np.bool_]:
    """Of which lanes the bounds say that no execution has the signs. Each bound holds for all executions that do, up to
    the first of these contradictions."""
    found = np.zeros(lanes, np.bool_)
    for lower, upper in intervals.values():
        found |= (lower > upper).reshape(len(lower), -1).any(axis=1)
    for relu, sign in signs.items():
        upper = intervals[relu.operands[0]].upper
        found |= ((sign > 0) & (upper < 0)).reshape(lanes, -1).any(axis=1)
    return found


def _keys(paths: Sequence[Path], slopes: PartSlopes | None) -> list[tuple[bytes, ...]]:
    """What tells parts with their slopes apart."""
    keys: list[tuple[bytes, ...]] = []
    for number, path in enumerate(paths):
        signs = np.array([(split.neuron, split.side) for split in path], np.int64).tobytes()
        own = None if slopes is None else slopes.at(number).for_splits(len(path))
        keys.append((signs,) if own is None or not len(own.part) else (signs, own.key))
    return keys
