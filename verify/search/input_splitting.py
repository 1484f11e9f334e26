"""Branch and bound on the inputs, for networks with few of them.

Parts of the box that are not proved yet wait in a queue, the worst first. A round halves as many as are bounded
together, each along the input that the bound depends on most: by the magnitude of its coefficient times its width.

A part is proved for an alternative, a conjunction of constraints, by one linear combination of these: where none of
them is violated throughout the part, a sum of them often is, since their linear bounds do not fall in the same corner.
Where CROWN does not prove it, slopes are chosen for the bound of that sum (`verify.search.slopes_of_parts`). Bounds are
the rigorous ones of `verify.proofs.exclusion`, which remembers what they prove.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor as Values

from verify.bounds.quadratics import Curvature
from verify.core.intervals import Interval
from verify.core.primitives import topological
from verify.core.rounding import Array
from verify.model.network import Network
from verify.proofs.exclusion import Exclusion, PartBounds
from verify.proofs.input_splits import InputSplits
from verify.proofs.part_slopes import PartSlopes
from verify.proofs.paths import LEAF
from verify.search.backward import Backward
from verify.search.lanes import Lanes, intervals_of_lanes
from verify.search.points import differentiable
from verify.search.slopes_of_parts import Missing, SlopesOfParts

_FLOOR = 0.02
"""How much the width of an input counts apart from what the bound depends on: a bound may have lost a dependence."""

_NEAR = 1e-4
"""How near to a counterexample, as torch computes, a point must be to be shown to the deployed network."""

_SHOWN = 4
"""Points of a round that are shown to it at most."""

_ROOM = 1e-6
"""How much more than zero a bound must be, relative to the largest one of its alternative, so that whoever computes it
anew finds it positive, too: of a part that is bounded alone, less of the network may count as alive."""

_MOST, _ELEMENTS = 1024, 2**16
"""Parts that are bounded together, and elements of a tensor, or constraints, that they have."""

Refute = Callable[[NDArray[np.float32]], bool]
"""Told a flat input: whether it is a counterexample, so that no proof is needed."""


@dataclass(eq=False)
class _Part:
    """A part of the box: a leaf, or split. lower, upper: flat. promising: the input that is split next. weights: of the
    constraints, in what proves a leaf; slopes: for bounds of functionals there."""

    lower: NDArray[np.float32]
    upper: NDArray[np.float32]
    promising: int = LEAF
    cut: float = 0.0
    halves: tuple[_Part, ...] = ()
    weights: NDArray[np.uint8] | None = None
    slopes: dict[int, NDArray[np.uint8]] = field(default_factory=dict)


class InputSplitting:
    """A search for parts of a box in each of which the same is proved, by CROWN or with slopes of its own: of each
    alternative, a combination of constraints violated.

    box: its ends, flat. functionals: the left sides of the constraints, constraints x the output's shape. constants: to
    be added to these, which are positive then where a constraint is violated. exclusion: of these alternatives, each of
    which has such constraints.
    """

    def __init__(
        self,
        network: Network,
        box: tuple[NDArray[np.float32], NDArray[np.float32]],
        functionals: Array,
        constants: Array,
        exclusion: Exclusion,
        refute: Refute,
    ) -> None:
        self._shape, self._exclusion, self._refute = network.input.shape, exclusion, refute
        self._function = differentiable(network)
        self._functionals, self._constants = functionals, constants
        # What bounds each alternative is a sum, or its only constraint.
        self._combines = len(constants) > len(exclusion.constraints)
        self._backward = Backward(network.output, torch.device("cpu"))
        self._slopes = SlopesOfParts(self._backward)
        sizes = [math.prod(tensor.shape) for tensor in topological([network.output])]
        sizes.append(len(constants))
        self._at_a_time = int(np.clip(_ELEMENTS // max(sizes), 1, _MOST))
        self._width = box[1].astype(np.float64) - box[0]
        self._order = count()
        self._waiting: list[tuple[float, int, _Part]] = []
        self._root = _Part(*box)
        self._new = [self._root]
        self._deadline = math.inf
        self.late = False

    def run(self, deadline: float) -> bool:
        """Whether every part seems to be proved. Else a counterexample was found, nothing is left to split, or it is
        `late`: past the deadline, on `time.perf_counter`."""
        self._deadline = deadline
        while self._new or self._waiting:
            self.late = self._is_late()
            if self.late:
                return False
            halves = self._new
            while self._waiting and len(halves) < max(2, self._at_a_time):
                (_, _, part) = heapq.heappop(self._waiting)
                if not self._split(part):
                    return False
                halves += part.halves
            self._new = []
            for start in range(0, len(halves), self._at_a_time):
                if self._examined(halves[start : start + self._at_a_time]):
                    return False
        return True

    def _is_late(self) -> bool:
        return time.perf_counter() > self._deadline

    def proof(self, way: str) -> InputSplits:
        """The parts as they are now."""
        parts = list(self._preorder())
        leaves = [part for part in parts if not part.halves]
        nodes = np.array([part.promising if part.halves else LEAF for part in parts], np.int32)
        cuts = np.array([part.cut for part in parts if part.halves], np.float32)
        weights = np.stack([part.weights for part in leaves if part.weights is not None]) if self._combines else None
        return InputSplits(nodes, cuts, way, weights, _slopes_of(leaves))

    def _preorder(self) -> Iterable[_Part]:
        stack = [self._root]
        while stack:
            part = stack.pop()
            yield part
            stack.extend(reversed(part.halves))

    def _split(self, part: _Part) -> bool:
        """Halve the part, if any float32 number is left to cut it at."""
        axis = part.promising
        if axis == LEAF:
            return False
        below, above = part.upper.copy(), part.lower.copy()
        below[axis] = above[axis] = part.cut
        part.halves = (_Part(part.lower, below), _Part(above, part.upper))
        return True

    @np.errstate(all="ignore")
    def _examined(self, parts: list[_Part]) -> bool:
        """Bound the parts, queue those that are not proved, and look for counterexamples in these."""
        lower, upper = (np.stack([getattr(part, end) for part in parts]) for end in ("lower", "upper"))
        boxes = Interval(lower.astype(np.float64), upper.astype(np.float64))
        bounds = self._exclusion.over(boxes)
        found = bounds(None)
        direction = found.direction
        if self._combines:
            weights = self._weights(_known(found.excess), direction, (boxes.upper - boxes.lower) / 2)
            for part, own in zip(parts, weights, strict=True):
                part.weights = own
            # What the combined functionals depend on, though in combination they may not.
            magnitude = self._exclusion.of_alternatives(np.add, weights[..., np.newaxis] * np.abs(direction))
            found = bounds(weights)
            direction = found.direction
        else:
            magnitude = np.abs(direction)
        value = _known(found.excess)
        needed = _ROOM * np.abs(np.where(np.isfinite(value), value, 0.0)).max(axis=0)
        if self._steepen(parts, found, needed):
            value = _known(found.excess)
        worst, alternative = value.min(axis=1), value.argmin(axis=1)
        proved = (value > needed).all(axis=1)
        proved[proved] = found.settle(proved)
        lanes = np.arange(len(parts))
        along = direction[lanes, alternative]
        dependence = np.nan_to_num(magnitude[lanes, alternative])
        middle = ((lower.astype(np.float64) + upper) / 2).astype(np.float32)
        width = boxes.upper - boxes.lower
        relative = width / np.where(self._width > 0, self._width, 1.0)
        gain = dependence * width + _FLOOR * relative * (dependence * self._width).sum(1, keepdims=True)
        gain = np.where((lower < middle) & (middle < upper), gain, -1.0)
        axis = gain.argmax(1)
        cut = middle[lanes, axis]
        axis = np.where(gain[lanes, axis] >= 0, axis, LEAF)
        for part, *where in zip(parts, axis.tolist(), cut.tolist(), strict=True):
            part.promising, part.cut = where
        waiting = np.flatnonzero(~proved)
        for lane in waiting.tolist():
            parts[lane].slopes.clear()
            heapq.heappush(self._waiting, (float(worst[lane]), next(self._order), parts[lane]))
        lowest = np.where(along > 0, lower, upper)
        return len(waiting) > 0 and self._refuted(np.concatenate([lowest[waiting], middle[waiting]]))

    def _steepen(self, parts: list[_Part], found: PartBounds, needed: Array) -> bool:
        """Choose slopes where they prove what CROWN does not; whether any bound may have changed."""
        if any(isinstance(each, Curvature) for each in found.curvatures.values()):
            return False  # these count for more than slopes, which would have to take them into account

        def lanes(numbers: NDArray[np.intp]) -> Lanes:
            intervals = intervals_of_lanes(found.intervals, len(parts), numbers)
            return self._backward.lanes(intervals, np.zeros((len(numbers), *self._backward.output.shape)))

        constants = np.broadcast_to(found.constants, found.lower.shape)
        missing = Missing(found.excess, needed, found.functionals, constants, lanes)
        pairs = self._slopes.found(missing, self._is_late)
        if pairs is None:
            return False
        likely = pairs.of_proved()
        for part, number, slopes in zip(likely.part.tolist(), likely.functional.tolist(), likely.slopes, strict=True):
            parts[part].slopes[number] = slopes
        chosen = _slopes_of(parts)
        if chosen:
            found.steepen(chosen)
        self._slopes.learn(missing, pairs, found.excess)
        return chosen is not None

    def _weights(self, bounds: Array, direction: Array, radius: Array) -> NDArray[np.uint8]:
        """The combination of each alternative's functionals that promises most, in 255ths: lanes x functionals."""
        lower, along, extent = (torch.tensor(each) for each in (bounds, direction, radius))
        centre = lower + (along.abs() @ extent[..., None])[..., 0]
        weights = np.zeros(bounds.shape, np.uint8)
        for members in self._exclusion.constraints:
            best = combinations(centre[:, members], along[:, members], extent)
            weights[:, members] = (best.nan_to_num() * 255.0).round().numpy()
            lost = ~weights[:, members].any(axis=1)
            weights[lost, members.start + bounds[lost, members].argmax(axis=1)] = 255  # shares too small for any
        return weights

    @torch.no_grad()
    @np.errstate(all="ignore")
    def _refuted(self, points: NDArray[np.float32]) -> bool:
        """Whether one of the most promising points is a counterexample."""
        y = self._function(torch.tensor(points.reshape(-1, *self._shape))).flatten(1).double().numpy()
        value = y @ self._functionals.reshape(len(self._functionals), -1).T + self._constants
        excess = self._exclusion.of_alternatives(np.maximum, value).min(axis=1)
        near = excess.argsort()[:_SHOWN].tolist()
        return any(excess[point] < _NEAR and self._refute(points[point]) for point in near)


def _known(excess: Array) -> Array:
    """Minus infinity where nothing is known."""
    return np.nan_to_num(excess, nan=-np.inf, neginf=-np.inf)


def _slopes_of(leaves: list[_Part]) -> PartSlopes | None:
    """Of all leaves, if any of these have some."""
    pairs = [
        (number, functional, leaf.slopes[functional])
        for number, leaf in enumerate(leaves)
        for functional in sorted(leaf.slopes)
    ]
    if not pairs:
        return None
    part, functional, slopes = zip(*pairs, strict=True)
    none = np.zeros((len(pairs), 0), np.float32)
    return PartSlopes(np.array(part, np.int32), np.array(functional, np.int32), np.stack(slopes), none)


def combinations(centre: Values, direction: Values, radius: Values) -> Values:
    """Of several linear functions over each of several boxes, the combination with non-negative weights that sum to one
    whose least value is largest, nearly: lanes x functions.

    centre: the functions' values there, lanes x functions. direction: lanes x functions x inputs. radius: lanes x
    inputs. Begins with the best function and moves towards others, each time as far as the least value rises, which is
    concave and piecewise linear along the way.
    """
    functions = centre.shape[1]
    least = centre - (direction.abs() @ radius[..., None])[..., 0]
    weights = torch.nn.functional.one_hot(least.argmax(1), functions).to(centre.dtype)
    lanes = torch.arange(len(centre))
    for _ in range(2 * (functions - 1)):
        here = (weights * centre).sum(1)
        slope = (weights[:, None] @ direction)[:, 0]
        rise, turn = centre - here[:, None], direction - slope[:, None]
        steps = torch.nan_to_num(-slope[:, None] / turn, nan=0.0).clamp(0.0, 1.0)  # lanes x functions x inputs
        moved = slope[:, None, None] + steps[..., None] * turn[:, :, None]
        value = here[:, None, None] + steps * rise[..., None] - (moved.abs() @ radius[:, None, :, None])[..., 0]
        risen, best = value.flatten(1).max(1)
        towards = torch.nn.functional.one_hot(best // steps.shape[2], functions)
        step = torch.where(risen > here - (slope.abs() * radius).sum(1), steps.flatten(1)[lanes, best], 0.0)[:, None]
        weights = (1.0 - step) * weights + step * towards
    return weights
