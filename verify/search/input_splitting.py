"""Branch and bound on the inputs, for networks with few of them.

Parts of the box that are not proved yet wait in a queue, the worst first. A round halves as many as are bounded
together, each along the input that the bound depends on most: by the magnitude of its coefficient times its width; or
cuts away what the linear bound excludes already, if that is a good deal.
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
from verify.search.box_bounds import BoxBounds
from verify.search.points import differentiable
from verify.split_trees import LEAF

_LARGEST_REST, _ROOM = 0.8, 1.05
"""Up to which share of its width a part is cut down to what a linear bound leaves open; and how much more is left, for
the bound is approximate."""

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
    """A part of the box: a leaf, or split. lower, upper: flat. promising: the input that is split next."""

    lower: NDArray[np.float32]
    upper: NDArray[np.float32]
    promising: int = LEAF
    cut: float = 0.0
    halves: tuple[_Part, ...] = ()

    def trim(self, rest: Array, direction: Array) -> None:
        """Cut rather where a linear bound leaves little open, if one does. rest: what the bounds lack; direction:
        their coefficients, bounds x inputs."""
        width = self.upper.astype(np.float64) - self.lower
        with np.errstate(all="ignore"):
            left = _ROOM * np.maximum(rest, 0.0)[:, np.newaxis] / np.abs(direction)
            share = np.where(width > 0, left / width, np.nan)
        share[~np.isfinite(share)] = np.inf
        bound, axis = np.unravel_index(share.argmin(), share.shape)
        if share[bound, axis] <= _LARGEST_REST:
            ends = self.lower[axis] + left[bound, axis], self.upper[axis] - left[bound, axis]
            cut = float(np.float32(ends[int(direction[bound, axis] < 0)]))
            if self.lower[axis] < cut < self.upper[axis]:
                self.promising, self.cut = int(axis), cut


class InputSplitting:
    """A search for parts of a box in each of which CROWN proves the same: of each alternative, one functional of the
    output plus its constant positive.

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
        self._bounds = BoxBounds(network.output, functionals)
        self._function = differentiable(network)
        self._functionals, self._constants = (torch.tensor(x, dtype=torch.float32) for x in (functionals, constants))
        self._members = torch.tensor(alternatives == np.unique(alternatives)[:, np.newaxis])
        self._refute = refute
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
        nodes, cuts = [], []
        for part in self._preorder():
            nodes.append(part.promising if part.halves else LEAF)
            if part.halves:
                cuts.append(part.cut)
        return InputSplits(np.array(nodes, np.int32), np.array(cuts, np.float32), way)

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

    def _examined(self, parts: list[_Part]) -> bool:
        """Bound the parts, queue those that are not proved, and look for counterexamples in these."""
        lower, upper = (np.stack([getattr(part, end) for part in parts]) for end in ("lower", "upper"))
        bounds, direction = self._bounds(*(end.reshape(-1, *self._shape) for end in (lower, upper)))
        bounds = torch.nan_to_num(bounds + self._constants, nan=-torch.inf)
        slack = self._slack * float(bounds[bounds.isfinite()].abs().amax()) if bounds.isfinite().any() else 0.0
        of_alternatives = torch.where(self._members, bounds[:, None], -torch.inf)
        value, row = of_alternatives.max(2)  # lanes x alternatives
        worst, alternative = value.min(1)
        along = direction[torch.arange(len(parts)), row.gather(1, alternative[:, None])[:, 0]].numpy()
        middle = ((lower.astype(np.float64) + upper) / 2).astype(np.float32)
        gain = np.where((lower < middle) & (middle < upper), np.abs(along) * (upper - lower), -1.0)
        # Constraints of the only alternative that is open: what they leave open can be all that is left.
        single = (of_alternatives.amax(2) <= slack).sum(1) <= 1
        rest = torch.where(self._members[alternative] & single[:, None], slack - bounds, torch.inf)
        for lane, part in enumerate(parts):
            axis = int(gain[lane].argmax())
            part.promising, part.cut = (axis, float(middle[lane, axis])) if gain[lane, axis] >= 0 else (LEAF, 0.0)
            if worst[lane] <= slack:
                part.trim(rest[lane].numpy(), direction[lane].numpy())
        waiting = (~(worst > slack)).numpy().nonzero()[0]
        for lane in waiting.tolist():
            heapq.heappush(self._waiting, (float(worst[lane]), next(self._order), parts[lane]))
        lowest = np.where(along > 0, lower, upper)
        return len(waiting) > 0 and self._refuted(np.concatenate([lowest[waiting], middle[waiting]]))

    @torch.no_grad()
    def _refuted(self, points: NDArray[np.float32]) -> bool:
        """Whether one of the most promising points is a counterexample."""
        y = self._function(torch.tensor(points.reshape(-1, *self._shape)))
        value = y.flatten(1) @ self._functionals.flatten(1).T + self._constants
        excess = torch.where(self._members, value[:, None], -torch.inf).amax(2).amin(1)
        near = excess.argsort()[:_SHOWN].tolist()
        return any(excess[point] < _NEAR and self._refute(points[point]) for point in near)
