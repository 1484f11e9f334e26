"""Branch and bound over parts of a box whose neurons are all bounded anew (`verify.parts`).

The worst part is split first, at a neuron of the earliest ReLU that has an open one: what its sign tells tightens the
bounds of all that lies behind. Bounds are the rigorous ones, so that no leaf needs to be looked at again.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray

from verify.intervals import Interval
from verify.linear_bounds import relus
from verify.parts import Parts
from verify.paths import LEAF, Path
from verify.search.backward import Backward, Values

_RECENT = 64
"""Parts whose bounds tell how much a split gains."""

_SHARE_OF_DEPTH = 0.65
"""Of the splits that the worst path of a tree takes, how many its other paths take, about."""

_PATIENCE = 20.0
"""How many times as long as there is time a tree may seem to take; estimates shrink as often as they grow."""

_ROOM = 1e-9
"""How much more than zero a bound must be, relative to that of the whole box, so that whoever computes it anew, with
other parts beside it and so in another order, finds it positive, too."""

Show = Callable[[NDArray[np.intp], Values], None]
"""Told which of the needed functionals some bounds are of, and the coefficients of the input that they come from."""


@dataclass(eq=False)
class _Part:
    """lowest: of its bounds. neuron: at which it is split."""

    path: Path
    lowest: float = -math.inf
    neuron: int = LEAF
    halves: tuple[_Part, ...] = ()


class Partition:
    """A tree in whose leaves CROWN proves the needed functionals, which are some of those of the parts."""

    def __init__(self, parts: Parts, needed: NDArray[np.intp], device: torch.device) -> None:
        self._parts, self._needed = parts, needed
        self._backward = Backward(parts.inside, device)
        self._relus = list(relus(parts.inside).values())
        self._place = {int(number): place for place, number in enumerate(parts.numbers)}

    def tree(self, seconds: float, show: Show) -> NDArray[np.int32] | None:
        """Its nodes; None if there seems to be no time to find it, or no neuron is left to split."""
        parts = self._parts
        began, order = time.perf_counter(), count()
        root = _Part([])
        self._bound([root], show)
        room = _ROOM * abs(root.lowest)
        if not math.isfinite(root.lowest):
            return None
        waiting = [(root.lowest, next(order), root)]
        gains: deque[float] = deque(maxlen=_RECENT)
        bounded = 0
        while waiting:
            split = [heapq.heappop(waiting)[2] for _ in range(min(len(waiting), max(1, parts.at_a_time // 2)))]
            if any(part.neuron == LEAF for part in split):
                return None
            for part in split:
                part.halves = tuple(_Part([*part.path, (part.neuron, side)]) for side in (1, -1))
            halves = [half for part in split for half in part.halves]
            self._bound(halves, show)
            gains += [half.lowest - part.lowest for part in split for half in part.halves if math.isfinite(half.lowest)]
            for half in halves:
                if not half.lowest > room:
                    heapq.heappush(waiting, (half.lowest, next(order), half))
            bounded += len(halves)
            elapsed = time.perf_counter() - began
            each = elapsed / bounded
            if each * _expected([part.lowest for _, _, part in waiting], gains) > _PATIENCE * (seconds - elapsed):
                return None
        return _nodes(root)

    def _bound(self, some: Sequence[_Part], show: Show) -> None:
        """Note the bounds of some parts, and choose neurons of those that are not proved."""
        lower, intervals = self._parts.over([part.path for part in some])
        lower = lower[:, self._needed]
        lower[np.isnan(lower)] = -np.inf
        for part, lowest in zip(some, lower.min(axis=1).tolist(), strict=True):
            part.lowest = lowest
        missed = np.flatnonzero(~(lower.min(axis=1) > 0)).tolist()
        if not missed:
            return
        worst = lower[missed].argmin(axis=1)
        around = {tensor: Interval(*(end[missed] for end in ends)) for tensor, ends in intervals.items()}
        sides = np.zeros((len(missed), self._backward.neurons))
        for row, index in zip(sides, missed, strict=True):
            for neuron, side in some[index].path:
                row[self._place[neuron]] = side
        lanes = self._backward.lanes(around, self._parts.functionals[self._needed[worst]])
        lanes = lanes.split(self._backward.values(sides), self._backward.slope)
        every = torch.arange(self._backward.neurons, device=self._backward.device)
        with torch.no_grad():
            found = self._backward.bounds(lanes, every, lanes.fixed, torch.zeros_like(lanes.fixed))
            coefficients = torch.cat([lanes.offset[:, :0], *found.coefficients], 1)
            scores = torch.where(lanes.open, -coefficients.clamp(max=0.0) * lanes.offset, -1.0).cpu().numpy()
        for index, score in zip(missed, scores, strict=True):
            some[index].neuron = self._first(score)
        show(worst, found.direction)

    def _first(self, score: NDArray[np.float32]) -> int:
        """The neuron with the highest score of the first ReLU that has a positive one; LEAF if no neuron is open."""
        for numbers in self._relus:
            if (score[numbers] > 0).any():
                return int(self._parts.numbers[numbers.start + score[numbers].argmax()])
        return int(self._parts.numbers[score.argmax()]) if (score >= 0).any() else LEAF


def _expected(lowest: Sequence[float], gains: Sequence[float]) -> float:
    """How many parts trees below parts with these bounds will have, if each split gains as much as it did."""
    gain = sum(gains) / len(gains) if gains else 0.0
    if not gain > 0:
        return math.inf if lowest else 0.0
    return math.fsum(2.0 ** min(_SHARE_OF_DEPTH * -bound / gain, 1000.0) for bound in lowest)


def _nodes(root: _Part) -> NDArray[np.int32]:
    nodes, stack = [], [root]
    while stack:
        part = stack.pop()
        nodes.append(part.neuron if part.halves else LEAF)
        stack.extend(reversed(part.halves))
    return np.array(nodes, np.int32)
