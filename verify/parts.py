"""Bounds by CROWN over those executions in a box in which some ReLUs read numbers of known signs.

Signs tighten bounds of all neurons behind those ReLUs, and so on: in deep networks a few of them decide what hundreds
of splits behind intervals of the whole box do not. Each part takes all the work of CROWN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from verify.bounds import lanes_at_a_time
from verify.cones import intervals_of
from verify.crown import Slopes, crown_intervals
from verify.intervals import Interval
from verify.linear_bounds import Signs, lower_bounds, neuron_count, relus
from verify.lines import Intervals
from verify.network import Network
from verify.paths import Path, leaf_paths, splits_of
from verify.primitives import Tensor
from verify.pruning import neurons_of, pruned
from verify.refinements import Refinement, refining
from verify.rounding import Array, Contract, down

_MOST = 32
"""Parts that are bounded together."""


class Parts:
    """Lower bounds of functionals, with their constants, over parts of the executions in a box; remembers them.

    Each part is bounded with the slopes that are chosen for the box. The network is that which matters within the box
    (`verify.pruning`): `inside` is its output. numbers: those that its neurons have in the whole.
    """

    def __init__(
        self, network: Network, box: Interval, functionals: Array, constants: Array, contract: Contract
    ) -> None:
        """box: in one lane. functionals: functionals x the output's shape."""
        self.network, self.box, self.functionals, self.constants = network, box, functionals, constants
        self.contract = contract
        self._chosen: bytes | None = None

    def refine(self, neurons: NDArray[np.bool_], refinements: Sequence[Refinement]) -> None:
        """Choose slopes, as in a `SplitProof`; what was found with others is forgotten. Raises Rejected where they do
        not fit the network."""
        content = (neurons, *(each for refinement in refinements for each in (refinement.neurons, refinement.slopes)))
        chosen = b"".join(str(each.shape).encode() + each.tobytes() for each in content)
        if chosen == self._chosen:
            return
        choose = refining(self.network.output, neurons, refinements)
        self._found: dict[bytes, Array] = {}
        with np.errstate(all="ignore"):
            self.whole = crown_intervals(self.network, self.box, self.contract, choose=choose)
        self._cone = pruned(self.network.output, self.whole)
        self.inside = self._cone.tensor
        numbers = neurons_of(self._cone, self.network.output)
        self.numbers = np.concatenate([np.zeros(0, np.intp), *(numbers[relu] for relu in relus(self.inside))])
        self._slopes = {
            piece: slopes.inside(self._cone, piece) for piece in numbers if (slopes := choose(self._source(piece), {}))
        }
        self._chosen = chosen

    def _source(self, piece: Tensor) -> Tensor:
        return self._cone.parts[piece][0]

    @property
    def at_a_time(self) -> int:
        """How many parts to bound together."""
        return min(_MOST, lanes_at_a_time(self.network))

    def over(self, paths: Sequence[Path]) -> tuple[Array, dict[Tensor, Interval]]:
        """Bounds over the executions with the signs on each path, paths x functionals: infinity where there is none,
        NaN where nothing is known. And intervals, one lane per path, which mean nothing where there is none."""
        sides = np.zeros((len(paths), neuron_count(self.network.output)), np.int8)
        path, neuron, side = splits_of(paths)
        sides[path, neuron] = side
        sides = sides[:, self.numbers]
        signs = {relu: sides[:, numbers].reshape(-1, *relu.shape) for relu, numbers in relus(self.inside).items()}
        network, known = replace(self.network, outputs=(self.inside,)), intervals_of(self._cone, self.whole)
        box = Interval(*(np.broadcast_to(end, (len(paths), *end.shape[1:])) for end in self.box))
        functionals = np.broadcast_to(self.functionals, (len(paths), *self.functionals.shape))
        with np.errstate(all="ignore"):
            intervals = crown_intervals(network, box, self.contract, choose=self._choose, signs=signs, known=known)
            lower = lower_bounds(self.inside, functionals, intervals, self.contract, signs=signs)
            lower = down(lower + self.constants)
        lower[_empty(signs, intervals)] = np.inf
        self._found.update(zip(map(_key, paths), lower, strict=True))
        return lower, intervals

    def _choose(self, relu: Tensor, intervals: Intervals) -> Slopes | None:
        return self._slopes.get(relu)

    def least(self, nodes: NDArray[np.int32], needed: NDArray[np.bool_]) -> Array:
        """Over all leaves of a tree; or of as many as it takes to find that none of the functionals that are needed is
        proved positive. Raises Rejected unless it is a tree."""
        least = np.full(len(self.functionals), math.inf)
        paths = leaf_paths(nodes, neuron_count(self.network.output))
        while some := list(islice(paths, self.at_a_time)):
            new = [path for path in some if _key(path) not in self._found]
            if new:
                self.over(new)
            least = np.minimum(least, np.min([self._found[_key(path)] for path in some], axis=0))  # NaN if one is
            if not (least[needed] > 0).any():
                break
        return least


def _empty(signs: Signs, intervals: Mapping[Tensor, Interval]) -> NDArray[np.bool_]:
    """Of which lanes the bounds say that no execution has the signs. Each bound holds for all executions that do, up to
    the first of these contradictions."""
    each = [(lower > upper).reshape(len(lower), -1).any(axis=1) for lower, upper in intervals.values()]
    found: NDArray[np.bool_] = np.any(each, axis=0)
    for relu, sign in signs.items():
        upper = intervals[relu.operands[0]].upper
        found |= ((sign > 0) & (upper < 0)).reshape(len(sign), -1).any(axis=1)
    return found


def _key(path: Path) -> bytes:
    return np.array(sorted(path), np.int64).tobytes()
