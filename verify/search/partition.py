"""Branch and bound over parts of a box whose neurons are all bounded anew (`verify.proofs.parts`).

The worst part is split first, at a neuron of the earliest ReLU that has an open one: what its sign tells tightens the
bounds of all that lies behind. Bounds are the rigorous ones, so that no leaf needs to be looked at again.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor as Values

from verify.bounds.activations import relus, smooth
from verify.core.intervals import Interval
from verify.core.primitives import Tensor
from verify.core.rounding import Array
from verify.proofs.parts import Parts
from verify.proofs.paths import LEAF, Path, Split, splits_of
from verify.search.backward import Backward

_RECENT = 64
"""Parts whose bounds tell how much a split gains."""

_SHARE_OF_DEPTH = 0.65
"""Of the splits that the worst path of a tree takes, how many its other paths take, about."""

_GROWTH = 1.1
"""By what factor a tree grows between two estimates of how long it will take, which look at all that waits."""

_ROOM = 1e-9
"""How much more than zero a bound must be, relative to that of the whole box, so that whoever computes it anew, with
other parts beside it and so in another order, finds it positive, too."""

Show = Callable[[NDArray[np.intp], Values], bool]
"""Told which of the needed functionals some bounds are of, and the coefficients of the input that they come from:
whether no proof is needed any more."""


@dataclass(eq=False)
class _Part:
    """lowest: of its bounds. neuron: at which it is split."""

    path: Path
    lowest: float = -math.inf
    neuron: int = LEAF
    halves: tuple[_Part, ...] = ()


def leaves_to_come(gap: float, gain: float) -> float:
    """Of the tree below a leaf that lacks so much, about, if each split gains so much."""
    return 2.0 ** min(_SHARE_OF_DEPTH * gap / gain, 1000.0) if gain > 0 else math.inf


class Partition:
    """A tree to be grown until CROWN proves the needed functionals, some of those of its parts, in all leaves."""

    def __init__(self, parts: Parts, needed: NDArray[np.intp], device: torch.device) -> None:
        self._parts, self._needed = parts, needed
        self._backward = Backward(parts.inside, device)
        self._relus = list(relus(parts.inside).values())
        self._signed = torch.tensor(~smooth(parts.inside), device=device)
        self._place = {int(number): place for place, number in enumerate(parts.numbers)}
        self._order = count()
        self._root = _Part([])
        self._waiting: list[tuple[float, int, _Part]] = []
        self._gains: deque[float] = deque(maxlen=_RECENT)
        self._bounded, self._spent_s, self._needless = 0, 0.0, False
        self._endless, self._expected_s, self._estimated_at = False, 0.0, 0.0

    def grow(self, seconds: float, patience: float, show: Show) -> bool:
        """Go on until it is a proof, for so many seconds at most, and only as long as it seems to take no more than
        `patience` times what is left of them; whether it is one."""
        deadline = time.perf_counter() + seconds
        if not self._bounded:
            self._bound([self._root], show)
            self._queue(self._root)
        while self._waiting:
            left = deadline - time.perf_counter()
            if self._bounded >= self._estimated_at:
                self._expected_s, self._estimated_at = self._estimate_s(), _GROWTH * self._bounded
            if self._needless or self._endless or left <= 0 or self._expected_s > patience * left:
                return False
            split = [heapq.heappop(self._waiting)[2] for _ in range(self._width())]
            for part in split:
                part.halves = tuple(_Part([*part.path, Split(part.neuron, side)]) for side in (1, -1))
            halves = [half for part in split for half in part.halves]
            self._bound(halves, show)
            for part in split:
                self._gains += [half.lowest - part.lowest for half in part.halves if math.isfinite(half.lowest)]
            for half in halves:
                self._queue(half)
        return True

    @property
    def nodes(self) -> NDArray[np.int32]:
        """Of the tree."""
        nodes, stack = [], [self._root]
        while stack:
            part = stack.pop()
            nodes.append(part.neuron if part.halves else LEAF)
            stack.extend(reversed(part.halves))
        return np.array(nodes, np.int32)

    def _is_proved(self, part: _Part) -> bool:
        return part.lowest > _ROOM * abs(self._root.lowest)

    def _width(self) -> int:
        return min(len(self._waiting), max(1, self._parts.at_a_time // 2))

    def _queue(self, part: _Part) -> None:
        if not self._is_proved(part):
            heapq.heappush(self._waiting, (part.lowest, next(self._order), part))
            self._endless |= part.neuron == LEAF or not math.isfinite(part.lowest)

    def _estimate_s(self) -> float:
        """How long the tree will take, if each split gains as much as the latest ones did."""
        if not self._gains:
            return 0.0
        gain = sum(self._gains) / len(self._gains)
        if not gain > 0:
            return math.inf
        leaves = math.fsum(leaves_to_come(-part.lowest, gain) for _, _, part in self._waiting)
        return leaves * self._spent_s / self._bounded

    def _bound(self, some: Sequence[_Part], show: Show) -> None:
        """Note the bounds of some parts, and choose neurons of those that are not proved."""
        began = time.perf_counter()
        lower, intervals = self._parts.over([part.path for part in some])
        lower = lower[:, self._needed]
        lower[np.isnan(lower)] = -np.inf
        for part, lowest in zip(some, lower.min(axis=1).tolist(), strict=True):
            part.lowest = lowest
        missed = [row for row, part in enumerate(some) if not self._is_proved(part)]
        if missed:
            self._choose([some[row] for row in missed], lower[missed], _lanes(intervals, len(some), missed), show)
        self._bounded, self._spent_s = self._bounded + len(some), self._spent_s + time.perf_counter() - began

    def _choose(self, missed: Sequence[_Part], lower: Array, intervals: Mapping[Tensor, Interval], show: Show) -> None:
        worst = lower.argmin(axis=1)
        splits = splits_of([part.path for part in missed])
        inside = splits._replace(neuron=np.array([self._place[number] for number in splits.neuron.tolist()], np.intp))
        lanes = self._backward.lanes(intervals, self._parts.functionals[self._needed[worst]])
        lanes = self._backward.along(lanes, inside)
        every = torch.arange(self._backward.neurons, device=self._backward.device)
        with torch.no_grad():
            found = self._backward.bounds(lanes, every, lanes.fixed, torch.zeros_like(lanes.fixed))
            coefficients = torch.cat([lanes.offset[:, :0], *found.coefficients], 1)
            scores = (
                torch.where(lanes.open & self._signed, -coefficients.clamp(max=0.0) * lanes.offset, -1.0).cpu().numpy()
            )
        for part, score in zip(missed, scores, strict=True):
            part.neuron = self._first(score)
        self._needless = show(worst, found.direction)

    def _first(self, score: NDArray[np.float32]) -> int:
        """The neuron with the highest score of the first ReLU that has a positive one; LEAF if no neuron is open."""
        for numbers in self._relus:
            if (score[numbers] > 0).any():
                return int(self._parts.numbers[numbers.start + score[numbers].argmax()])
        return int(self._parts.numbers[score.argmax()]) if (score >= 0).any() else LEAF


def _lanes(intervals: Mapping[Tensor, Interval], count: int, chosen: Sequence[int]) -> dict[Tensor, Interval]:
    """Some of so many lanes; constants have a single one for all."""
    return {
        tensor: Interval(*(np.broadcast_to(end, (count, *end.shape[1:]))[chosen] for end in ends))
        for tensor, ends in intervals.items()
    }
