"""Branch and bound on the inputs, for networks with few of them.

Parts of the box that are not proved yet wait in a queue, the worst first. A round halves as many as are bounded
together, each along the input that the bound depends on most: by the magnitude of its coefficient times its width.

A part is proved for an alternative, a conjunction of constraints, by one linear combination of these: where none of
them is violated throughout the part, a sum of them often is, since their linear bounds do not fall in the same corner.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray

from verify.input_splits import InputSplits
from verify.network import Network
from verify.rounding import Array
from verify.search.backward import Values
from verify.search.box_bounds import BoxBounds
from verify.search.points import differentiable
from verify.split_trees import LEAF

_FLOOR = 0.02
"""How much the width of an input counts apart from what the bound depends on: a bound may have lost a dependence."""

_NEAR = 1e-4
"""How near to a counterexample, as torch computes, a point must be to be shown to the deployed network."""

_SHOWN = 4
"""Points of a round that are shown to it at most."""

_SLACK = 1e-5
"""How much more than zero an approximate bound must be, relative to the largest one, for the rigorous one to follow;
four times as much whenever that turns out to be too little."""

Refute = Callable[[NDArray[np.float32]], bool]
"""Told a flat input: whether it is a counterexample, so that no proof is needed."""


@dataclass(eq=False)
class _Part:
    """A part of the box: a leaf, or split. lower, upper: flat. promising: the input that is split next. weights: of the
    constraints, in what proves a leaf."""

    lower: NDArray[np.float32]
    upper: NDArray[np.float32]
    promising: int = LEAF
    cut: float = 0.0
    halves: tuple[_Part, ...] = ()
    weights: NDArray[np.uint8] | None = None


class InputSplitting:
    """A search for parts of a box in each of which CROWN proves the same: of each alternative, a combination of
    functionals of the output plus their constants positive.

    box: its ends, flat. functionals: functionals x the output's shape. constants, alternatives: of each functional.
    """

    def __init__(
        self,
        network: Network,
        box: tuple[NDArray[np.float32], NDArray[np.float32]],
        functionals: Array,
        constants: Array,
        alternatives: NDArray[np.intp],
        refute: Refute,
    ) -> None:
        self._shape = network.input.shape
        self._bounds = BoxBounds(network.output)
        self._function = differentiable(network)
        self._functionals, self._constants = (torch.tensor(x, dtype=torch.float32) for x in (functionals, constants))
        self._outputs = network.output.shape
        self._members = torch.tensor(alternatives == np.unique(alternatives)[:, np.newaxis])
        self._combines = bool((self._members.sum(1) > 1).any())
        self._refute = refute
        self._width = box[1] - box[0]
        self._order = count()
        self._waiting: list[tuple[float, int, _Part]] = []
        self._root = _Part(*box)
        self._new = [self._root]
        self._slack = _SLACK
        self.late = False

    def run(self, deadline: float) -> bool:
        """Whether every part seems to be proved. Else a counterexample was found, nothing is left to split, or it is
        `late`: past the deadline, on `time.perf_counter`."""
        while self._new or self._waiting:
            self.late = time.perf_counter() > deadline
            if self.late:
                return False
            halves = self._new
            while self._waiting and len(halves) < max(2, self._bounds.width):
                (_, _, part) = heapq.heappop(self._waiting)
                if not self._split(part):
                    return False
                halves += part.halves
            self._new = []
            for start in range(0, len(halves), self._bounds.width):
                if self._examined(halves[start : start + self._bounds.width]):
                    return False
        return True

    def proof(self, way: str) -> InputSplits:
        """The parts as they are now."""
        nodes, cuts, weights = [], [], []
        for part in self._preorder():
            nodes.append(part.promising if part.halves else LEAF)
            if part.halves:
                cuts.append(part.cut)
            elif part.weights is not None:
                weights.append(part.weights)
        combined = np.stack(weights) if weights else None
        return InputSplits(np.array(nodes, np.int32), np.array(cuts, np.float32), way, combined)

    def reopen(self, leaves: Iterable[int]) -> None:
        """Split leaves of the last proof further, given by their numbers."""
        self._slack *= 4
        every = [part for part in self._preorder() if not part.halves]
        for leaf in leaves:
            heapq.heappush(self._waiting, (0.0, next(self._order), every[leaf]))

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

    @torch.no_grad()
    def _examined(self, parts: list[_Part]) -> bool:
        """Bound the parts, queue those that are not proved, and look for counterexamples in these."""
        lower, upper = (np.stack([getattr(part, end) for part in parts]) for end in ("lower", "upper"))
        radius = torch.tensor(upper - lower) / 2
        bounds_of = self._bounds(*(end.reshape(-1, *self._shape) for end in (lower, upper)))
        found = bounds_of(self._functionals[None])
        bounds = torch.nan_to_num(found.bounds + self._constants, nan=-torch.inf)
        slack = self._slack * float(bounds[bounds.isfinite()].abs().amax()) if bounds.isfinite().any() else 0.0
        if self._combines:
            shares = self._shares(bounds, found.direction, radius)
            for part, weights in zip(parts, (255.0 * shares.sum(1)).to(torch.uint8).numpy(), strict=True):
                part.weights = weights
            combined = bounds_of((shares @ self._functionals.flatten(1)).reshape(*shares.shape[:2], *self._outputs))
            value = torch.nan_to_num(combined.bounds + shares @ self._constants, nan=-torch.inf)
            direction = combined.direction
            # What the combined functionals depend on, though in combination they may not.
            magnitude = shares @ found.direction.abs()
        else:
            only = self._members.int().argmax(1)
            value, direction = bounds[:, only], found.direction[:, only]
            magnitude = direction.abs()
        worst, alternative = value.min(1)
        lanes = torch.arange(len(parts))
        along = direction[lanes, alternative].numpy()
        dependence = np.nan_to_num(magnitude[lanes, alternative].numpy())
        middle = ((lower.astype(np.float64) + upper) / 2).astype(np.float32)
        width = upper - lower
        share = width / np.where(self._width > 0, self._width, 1.0)
        gain = dependence * width + _FLOOR * share * (dependence * self._width).sum(1, keepdims=True)
        gain = np.where((lower < middle) & (middle < upper), gain, -1.0)
        axis = gain.argmax(1)
        cut = middle[lanes, axis]
        axis = np.where(gain[lanes, axis] >= 0, axis, LEAF)
        for part, *where in zip(parts, axis.tolist(), cut.tolist(), strict=True):
            part.promising, part.cut = where
        waiting = (~(worst > slack)).numpy().nonzero()[0]
        for lane in waiting.tolist():
            heapq.heappush(self._waiting, (float(worst[lane]), next(self._order), parts[lane]))
        lowest = np.where(along > 0, lower, upper)
        return len(waiting) > 0 and self._refuted(np.concatenate([lowest[waiting], middle[waiting]]))

    def _shares(self, bounds: Values, direction: Values, radius: Values) -> Values:
        """The combination of each alternative's functionals that promises most, in whole 255ths: lanes x alternatives x
        functionals."""
        centre = bounds + (direction.abs() @ radius[..., None])[..., 0]
        shares = torch.zeros(len(bounds), *self._members.shape)
        for alternative, members in enumerate(self._members):
            best = combinations(centre[:, members], direction[:, members], radius)
            shares[:, alternative, members] = (best * 255.0).round() / 255.0
        return shares

    @torch.no_grad()
    def _refuted(self, points: NDArray[np.float32]) -> bool:
        """Whether one of the most promising points is a counterexample."""
        y = self._function(torch.tensor(points.reshape(-1, *self._shape)))
        value = y.flatten(1) @ self._functionals.flatten(1).T + self._constants
        excess = torch.where(self._members, value[:, None], -torch.inf).amax(2).amin(1)
        near = excess.argsort()[:_SHOWN].tolist()
        return any(excess[point] < _NEAR and self._refute(points[point]) for point in near)


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
