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
from verify.bounds.relaxations import Signs
from verify.core.intervals import Interval
from verify.core.primitives import Tensor
from verify.core.rounding import Array, Contract, down
from verify.model.network import Network
from verify.proofs.paths import Path, leaf_paths, splits_of

_MOST = 32
"""Parts that are bounded together."""


class _Refined(NamedTuple):
    """A box under some choice of slopes. whole: the intervals. cone: of the network, what matters within the box.
    numbers: those that its neurons have in the whole. slopes: for what its ReLUs read. found: bounds of parts."""

    chosen: bytes
    whole: dict[Tensor, Interval]
    cone: Cone
    numbers: NDArray[np.intp]
    slopes: dict[Tensor, Slopes]
    found: dict[bytes, Array]


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
        self._state = _Refined(chosen, whole, cone, numbers, slopes, {})

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
    def at_a_time(self) -> int:
        """How many parts to bound together."""
        return min(_MOST, lanes_at_a_time(self.network))

    def over(self, paths: Sequence[Path]) -> tuple[Array, dict[Tensor, Interval]]:
        """Bounds over the executions with the signs on each path, paths x functionals: infinity where there is none,
        NaN where nothing is known; to be remembered. And intervals, one lane per path or one for all, which mean
        nothing where there is no execution."""
        lower, intervals = self._bounded(paths)
        lower.flags.writeable = False  # what is remembered is nobody else's
        self._refined.found.update(zip(map(_key, paths), lower, strict=True))
        return lower, intervals

    def least(self, nodes: NDArray[np.int32], needed: NDArray[np.bool_]) -> Array:
        """Over all leaves of a tree; or of as many as it takes to find that none of the functionals that are needed is
        proved positive. Raises Rejected unless it is a tree."""
        least = np.full(len(self.functionals), math.inf)
        # Where smooth functions are split is not said, which is refused.
        paths = leaf_paths(nodes, smooth(self.network.output))
        while some := list(islice(paths, self.at_a_time)):
            remembered = [self._refined.found.get(_key(path)) for path in some]
            new = [path for path, bounds in zip(some, remembered, strict=True) if bounds is None]
            found = [bounds for bounds in remembered if bounds is not None] + list(self._bounded(new)[0] if new else ())
            least = np.minimum(least, np.min(found, axis=0))  # NaN if one is
            if not (least[needed] > 0).any():
                break
        return least

    def _bounded(self, paths: Sequence[Path]) -> tuple[Array, dict[Tensor, Interval]]:
        _, whole, cone, numbers, slopes, _ = self._refined
        sides = np.zeros((len(paths), neuron_count(self.network.output)), np.int8)
        path, neuron, side, _ = splits_of(paths)
        sides[path, neuron] = side
        sides = sides[:, numbers]
        signs = {relu: sides[:, part].reshape(-1, *relu.shape) for relu, part in relus(cone.tensor).items()}
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


def _key(path: Path) -> bytes:
    return np.array(sorted((split.neuron, split.side) for split in path), np.int64).tobytes()
