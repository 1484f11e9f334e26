"""Branch and bound over parts of a box whose neurons are all bounded anew (`verify.proofs.parts`).

The worst part is split first, at a neuron of the earliest ReLU that has an open one: what its sign tells tightens the
bounds of all that lies behind. Where CROWN does not prove a functional in a part, slopes and multipliers are chosen for
it. Bounds that count are the rigorous ones, so that no leaf needs to be looked at again.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor as Values

from verify.bounds.activations import relus, smooth
from verify.core.intervals import Interval
from verify.core.primitives import Tensor
from verify.core.rounding import Array
from verify.proofs.part_slopes import PartSlopes
from verify.proofs.parts import Parts
from verify.proofs.paths import LEAF, Path, Split, Splits, splits_of
from verify.search.backward import Backward
from verify.search.lanes import Lanes, intervals_of_lanes
from verify.search.slopes_of_parts import Missing, SlopesOfParts

_RECENT = 64
"""Parts whose bounds tell how much a split gains."""

_SHARE_OF_DEPTH = 0.65
"""Of the splits that the worst path of a tree takes, how many its other paths take, about."""

_GROWTH = 1.1
"""By what factor a tree grows between two estimates of how long it will take, which look at all that waits."""

_ROOM = 1e-7
"""How much more than zero a bound must be, relative to that of the whole box, so that whoever computes it anew, with
other parts beside it and so in another order, finds it positive, too."""

Show = Callable[[NDArray[np.intp], Values], bool]
"""Told which of the needed functionals some bounds are of, and the coefficients of the input that they come from:
whether no proof is needed any more."""


@dataclass(eq=False)
class _Part:
    """lowest: of its bounds, approximately. proved: whether they all suffice. neuron: at which it is split. chosen: by
    the functional, slopes and multipliers for its bound."""

    path: Path
    lowest: float = -math.inf
    proved: bool = False
    neuron: int = LEAF
    halves: tuple[_Part, ...] = ()
    chosen: dict[int, tuple[NDArray[np.uint8], NDArray[np.float32]]] = field(default_factory=dict)


def leaves_to_come(gap: float, gain: float) -> float:
    """Of the tree below a leaf that lacks so much, about, if each split gains so much."""
    return 2.0 ** min(_SHARE_OF_DEPTH * gap / gain, 1000.0) if gain > 0 else math.inf


class Partition:
    """A tree to be grown until the needed functionals, some of those of its parts, are proved in all leaves."""

    def __init__(self, parts: Parts, needed: NDArray[np.intp], device: torch.device) -> None:
        self._parts, self._needed = parts, needed
        self._backward = Backward(parts.inside, device)
        self._relus = list(relus(parts.inside).values())
        self._signed = torch.tensor(~smooth(parts.inside), device=device)
        self._place = {int(number): place for place, number in enumerate(parts.numbers)}
        self._slopes = SlopesOfParts(self._backward, patient=True)
        self._columns = _columns(parts)
        self._order = count()
        self._root = _Part([])
        self._waiting: list[tuple[float, int, _Part]] = []
        self._gains: deque[float] = deque(maxlen=_RECENT)
        self._bounded, self._spent_s, self._needless = 0, 0.0, False
        self._room = 0.0
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
        return np.array([part.neuron if part.halves else LEAF for part in self._preorder()], np.int32)

    @property
    def slopes(self) -> PartSlopes | None:
        """In its leaves."""
        return self._slopes_of([part for part in self._preorder() if not part.halves])

    def _preorder(self) -> Iterator[_Part]:
        stack = [self._root]
        while stack:
            part = stack.pop()
            yield part
            stack.extend(reversed(part.halves))

    def _width(self) -> int:
        return min(len(self._waiting), max(1, self._parts.at_a_time // 2))

    def _queue(self, part: _Part) -> None:
        if not part.proved:
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
        found = self._parts.over([part.path for part in some])
        lower, intervals = found[0][:, self._needed], found[1]
        if not self._bounded:
            self._room = _ROOM * float(np.abs(lower[np.isfinite(lower)]).max(initial=0.0))
        rigorous, expected = self._steepened(some, found)
        for part, bounds, approximate in zip(some, rigorous, expected, strict=True):
            part.proved = bool((bounds > self._room).all())
            part.lowest = float(approximate.min())
        missed = [row for row, part in enumerate(some) if not part.proved]
        if missed:
            worst = expected[missed].argmin(axis=1)
            self._choose([some[row] for row in missed], worst, intervals_of_lanes(intervals, len(some), missed), show)
        self._bounded, self._spent_s = self._bounded + len(some), self._spent_s + time.perf_counter() - began

    def _steepened(self, some: Sequence[_Part], found: tuple[Array, dict[Tensor, Interval]]) -> tuple[Array, Array]:
        """Bounds of the needed functionals: with slopes and multipliers where these seem to prove everything about a
        part; and approximate ones, with those that were found, which are minus infinity where nothing is known."""
        needed, (lower, intervals) = self._needed, found
        rigorous = lower[:, needed]
        expected = np.nan_to_num(rigorous, nan=-np.inf)

        def lanes(numbers: NDArray[np.intp]) -> Lanes:
            of_some = intervals_of_lanes(intervals, len(some), numbers)
            blank = self._backward.lanes(of_some, np.zeros((len(numbers), *self._backward.output.shape)))
            return self._backward.along(blank, self._inside([some[number].path for number in numbers.tolist()]))

        shape = len(some), *self._parts.functionals[needed].shape
        functionals = np.broadcast_to(self._parts.functionals[needed], shape)
        constants = np.broadcast_to(self._parts.constants[needed], shape[:2])
        missing = Missing(rigorous, np.full(len(needed), self._room), functionals, constants, lanes)
        pairs = self._slopes.found(missing, lambda: False)
        if pairs is None:
            return rigorous, expected
        likely = pairs.of_proved()
        of_neurons = self._columns >= 0
        for part, functional, slopes, multipliers in zip(
            likely.part.tolist(), needed[likely.functional].tolist(), likely.slopes, likely.multipliers, strict=True
        ):
            row = np.zeros(int(self._parts.neurons.sum()), np.uint8)
            row[self._columns[of_neurons]] = slopes[of_neurons]
            on_path = [self._place[split.neuron] for split in some[part].path]
            some[part].chosen[functional] = row, multipliers[on_path]
        expected[pairs.part, pairs.functional] = np.fmax(expected[pairs.part, pairs.functional], pairs.bounds)
        if slopes := self._slopes_of(some):
            rigorous = self._parts.steepened([part.path for part in some], found, slopes)[:, needed]
            self._slopes.learn(missing, pairs, rigorous)
        return rigorous, expected

    def _slopes_of(self, parts: Sequence[_Part]) -> PartSlopes | None:
        pairs = [
            (number, each, *part.chosen[each]) for number, part in enumerate(parts) for each in sorted(part.chosen)
        ]
        if not pairs:
            return None
        part, functional, slopes, multipliers = zip(*pairs, strict=True)
        padded = np.zeros((len(pairs), max(map(len, multipliers))), np.float32)
        for row, values in zip(padded, multipliers, strict=True):
            row[: len(values)] = values
        return PartSlopes(np.array(part, np.int32), np.array(functional, np.int32), np.stack(slopes), padded)

    def _inside(self, paths: Sequence[Path]) -> Splits:
        """The splits of paths, with the numbers that neurons have in the part of the network that matters."""
        splits = splits_of(paths)
        return splits._replace(neuron=np.array([self._place[number] for number in splits.neuron.tolist()], np.intp))

    def _choose(
        self, missed: Sequence[_Part], worst: NDArray[np.intp], intervals: Mapping[Tensor, Interval], show: Show
    ) -> None:
        """Neurons of parts to split them at, by what bounds of the worst of the needed functionals lose there."""
        lanes = self._backward.lanes(intervals, self._parts.functionals[self._needed[worst]])
        lanes = self._backward.along(lanes, self._inside([part.path for part in missed]))
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


def _columns(parts: Parts) -> NDArray[np.intp]:
    """Of each neuron of the part of the network that matters, its place among those that have slopes, or -1."""
    place = np.where(parts.neurons, np.cumsum(parts.neurons) - 1, -1)
    return np.asarray(place[parts.numbers])
