"""Branch and bound on the signs of ReLU neurons (beta-CROWN, arXiv 2103.06624), for many boxes and functionals at once.

Each functional that is not proved positive over its box has a tree; its leaves that are not proved yet wait in a queue,
the worst first. A round takes leaves from the trees of all boxes, splits each at the neuron that promises most, and
optimises slopes and multipliers of all halves together. A leaf counts as proved only when `split_trees.leaf_bounds`
says so, in rigorous arithmetic; one that misses by rounding is split further.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray

from verify.crown import crown_intervals
from verify.intervals import Interval
from verify.linear_bounds import lower_bounds
from verify.network import Network
from verify.primitives import Tensor, topological
from verify.rounding import Array, Contract, down
from verify.search.backward import Backward, Lanes, Values
from verify.search.branching import best_splits
from verify.search.optimise import Found, Settings, optimised
from verify.split_trees import LEAF, Path, SplitProof, Tree, leaf_bounds, leaves_at_a_time

AT_ROOT = Settings(iterations=60, slope_step=0.25, multiplier_step=0.0, decay=0.97)
AT_LEAVES = Settings(iterations=20, slope_step=0.1, multiplier_step=0.2, decay=0.95)

Refute = Callable[[int, Array], bool]
"""Told a box and an input in it at which a bound is lowest; whether that settles the box, so that no proof is needed."""


class Ending(StrEnum):
    """How the search about a box ended."""

    PROVED = "proved"
    REFUTED = "refuted"
    UNDECIDED = "undecided"
    TIMEOUT = "timeout"


@dataclass(frozen=True)
class Outcome:
    """About one box. proof: when proved. bound: the least lower bound that was found of any functional, approximately.
    spent_s: the box's share of the time."""

    ending: Ending
    proof: SplitProof | None
    bound: float
    spent_s: float

    @property
    def branched(self) -> bool:
        """Whether the proof splits anything."""
        return self.proof is not None and any(len(tree.nodes) > 1 for tree in self.proof.trees)


@dataclass(eq=False)
class _Node:
    """A part of a box: a leaf, or split at `neuron`. slopes: of the box's unstable neurons. bound: approximate."""

    path: Path
    slopes: NDArray[np.uint8]
    multipliers: NDArray[np.float32]
    bound: float = -math.inf
    neuron: int = LEAF
    parts: tuple[_Node, ...] = ()


@dataclass(eq=False)
class _Task:
    """One functional over one box."""

    box: int
    functional: int
    root: _Node
    waiting: list[tuple[float, int, _Node]] = field(default_factory=list)


@dataclass(eq=False)
class _Box:
    """intervals: rigorous, in one lane. slack: how much more than zero an approximate bound must be for the rigorous one
    to follow. spent_s: seconds of work."""

    intervals: dict[Tensor, Interval]
    neurons: NDArray[np.bool_]
    tasks: list[_Task]
    slack: float = 0.0
    spent_s: float = 0.0
    ending: Ending | None = None


def search(
    network: Network,
    box: Interval,
    functionals: Array,
    constants: Array,
    contract: Contract,
    *,
    branch: bool,
    seconds: float,
    refute: Refute | None = None,
    device: torch.device | None = None,
) -> list[Outcome]:
    """For each box, try to prove every functional of the output, plus its constant, positive.

    box: lanes x the shape of the network's only input. functionals: lanes x functionals x the output's shape, constants:
    lanes x functionals. branch: split neurons, rather than optimise slopes only. seconds: of work for each box.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        return _Search(network, box, functionals, constants, contract, seconds, refute, device).run(branch)
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


class _Search:
    def __init__(
        self,
        network: Network,
        box: Interval,
        functionals: Array,
        constants: Array,
        contract: Contract,
        seconds: float,
        refute: Refute | None,
        device: torch.device,
    ) -> None:
        self.network, self.output, self.contract, self.device = network, network.output, contract, device
        self.functionals, self.constants, self.seconds, self.refute = functionals, constants, seconds, refute
        self.backward = Backward(network.output, device)
        self.order = count()
        size = sum(math.prod(tensor.shape) for tensor in topological([self.output]))
        budget = 2**22 if device.type == "cpu" else 2**28
        self.width = int(np.clip(budget // (4 * size), 2, 1024))
        self.boxes = [
            self._opened(index, Interval(*(end[index : index + 1] for end in box))) for index in range(len(box.lower))
        ]
        together = {
            tensor: Interval(*(np.concatenate([each.intervals[tensor][end] for each in self.boxes]) for end in (0, 1)))
            for tensor in self.boxes[0].intervals
        }
        self.base = self.backward.lanes(together, functionals[:, 0])
        self.rows = torch.tensor(functionals, device=device, dtype=self.backward.dtype)
        self.shifts = torch.tensor(constants, device=device, dtype=self.backward.dtype)

    def _opened(self, index: int, box: Interval) -> _Box:
        """A box with a task for every functional that CROWN does not prove."""
        began = time.perf_counter()
        with np.errstate(all="ignore"):
            intervals = crown_intervals(self.network, box, self.contract)
            (lower,) = lower_bounds(self.output, self.functionals[index][np.newaxis], intervals, self.contract)
        before = [intervals[tensor.operands[0]] for tensor in self.backward.relus]
        low, high = (np.concatenate([each[end].reshape(-1) for each in before] or [np.zeros(0)]) for end in (0, 1))
        neurons = (low < 0) & (high > 0)
        start = np.where(high > -low, 255, 0).astype(np.uint8)[neurons]
        still = np.flatnonzero(~(down(lower + self.constants[index]) > 0))
        tasks = [_Task(index, int(row), _Node([], start, np.zeros(0, np.float32))) for row in still]
        return _Box(intervals, neurons, tasks, spent_s=time.perf_counter() - began)

    def run(self, branch: bool) -> list[Outcome]:
        roots = [(task, task.root) for box in self.boxes for task in box.tasks]
        self._bound(roots, AT_ROOT)
        while branch and (picked := self._picked()):
            parts = self._split(picked)
            self._bound(parts, AT_LEAVES)
        return [self._outcome(box) for box in self.boxes]

    def _open(self, box: _Box) -> bool:
        """Whether there is still something to do about a box, and time for it."""
        if box.ending is None and not any(task.waiting for task in box.tasks):
            box.ending = Ending.PROVED
        if box.ending is None and box.spent_s >= self.seconds:
            box.ending = Ending.TIMEOUT
        return box.ending is None

    def _picked(self) -> list[tuple[_Task, _Node]]:
        """The worst leaves of each open box, as many as fit."""
        open_boxes = [box for box in self.boxes if self._open(box)]
        picked = []
        for box in open_boxes:
            for _ in range(max(1, self.width // (2 * len(open_boxes)))):
                if len(picked) >= max(1, self.width // 2) or not any(task.waiting for task in box.tasks):
                    break
                task = min((task for task in box.tasks if task.waiting), key=lambda task: task.waiting[0][0])
                picked.append((task, heapq.heappop(task.waiting)[2]))
        return picked

    def _split(self, picked: Sequence[tuple[_Task, _Node]]) -> list[tuple[_Task, _Node]]:
        """Both halves of each leaf, at the neurons that promise most."""
        began = time.perf_counter()
        lanes, slopes, multipliers = self._lanes(picked)
        if self.refute:
            self._attack(picked, lanes, slopes, multipliers)
        neurons = best_splits(self.backward, lanes, slopes / 255.0, multipliers, self.width)
        parts = []
        for (task, node), neuron in zip(picked, neurons, strict=True):
            if neuron == LEAF:  # nothing is left to split
                self.boxes[task.box].ending = self.boxes[task.box].ending or Ending.UNDECIDED
                continue
            node.neuron = neuron
            multiplier = np.append(node.multipliers, np.float32(0))
            node.parts = tuple(
                _Node([*node.path, (neuron, side)], node.slopes, multiplier, node.bound) for side in (1, -1)
            )
            parts += [(task, part) for part in node.parts]
        self._charge([task for task, _ in picked], time.perf_counter() - began)
        return parts

    def _attack(self, picked: Sequence[tuple[_Task, _Node]], lanes: Lanes, slopes: Values, multipliers: Values) -> None:
        with torch.no_grad():
            _, _, direction = self.backward.bounds(lanes, slopes / 255.0, multipliers)
        points = (lanes.centre - lanes.radius * direction.sign()).double().cpu().numpy()
        assert self.refute
        for (task, _), point in zip(picked, points, strict=True):
            box = self.boxes[task.box]
            if box.ending is None and self.refute(task.box, point):
                box.ending = Ending.REFUTED

    def _bound(self, leaves: Sequence[tuple[_Task, _Node]], settings: Settings) -> None:
        """Bound leaves, and queue those that are not proved."""
        for start in range(0, len(leaves), self.width):
            part = [leaf for leaf in leaves[start : start + self.width] if self.boxes[leaf[0].box].ending is None]
            if not part:
                continue
            began = time.perf_counter()
            lanes, slopes, multipliers = self._lanes(part)
            tasks = [task for task, _ in part]
            target = [self.boxes[task.box].slack - self.constants[task.box, task.functional] for task in tasks]
            found = optimised(
                self.backward,
                lanes,
                slopes,
                multipliers,
                settings,
                target=torch.tensor(target, device=self.device, dtype=self.backward.dtype),
                stop=partial(self._late, tasks, began),
            )
            self._keep(part, found)
            self._charge(tasks, time.perf_counter() - began)

    def _keep(self, leaves: Sequence[tuple[_Task, _Node]], found: Found) -> None:
        """Write what was found into the leaves; queue those that rigorous bounds do not prove."""
        bounds, slopes, multipliers = (
            values.cpu().numpy() for values in (found.bounds.double(), found.slopes, found.multipliers)
        )
        likely: dict[_Task, list[_Node]] = {}
        for lane, (task, node) in enumerate(leaves):
            box = self.boxes[task.box]
            node.bound = float(bounds[lane]) + self.constants[task.box, task.functional]
            node.slopes = slopes[lane, box.neurons]
            node.multipliers = multipliers[lane, [neuron for neuron, _ in node.path]].astype(np.float32)
            if node.bound > box.slack:
                likely.setdefault(task, []).append(node)
            else:
                self._queue(task, node)
        step = leaves_at_a_time(self.output)
        for task, nodes in likely.items():
            for start in range(0, len(nodes), step):
                self._settle(task, nodes[start : start + step])

    def _settle(self, task: _Task, nodes: Sequence[_Node]) -> None:
        """Queue those of the leaves that rigorous bounds do not prove."""
        box = self.boxes[task.box]
        with np.errstate(all="ignore"):
            found = leaf_bounds(
                self.output,
                self.functionals[task.box, task.functional],
                box.intervals,
                self.contract,
                neurons=box.neurons,
                paths=[node.path for node in nodes],
                slopes=np.stack([node.slopes for node in nodes]),
                multipliers=np.concatenate([node.multipliers for node in nodes]),
            )
        rigorous = down(found + self.constants[task.box, task.functional])
        for node, bound in zip(nodes, rigorous.tolist(), strict=True):
            if not bound > 0:
                box.slack = max(box.slack, 1.5 * (node.bound - bound)) if math.isfinite(bound) else math.inf
                node.bound = bound if math.isfinite(bound) else -math.inf
                self._queue(task, node)

    def _queue(self, task: _Task, node: _Node) -> None:
        heapq.heappush(task.waiting, (node.bound, next(self.order), node))

    def _lanes(self, leaves: Sequence[tuple[_Task, _Node]]) -> tuple[Lanes, Values, Values]:
        """The leaves as lanes, with the slopes (in 255ths) and multipliers that they have."""
        shape = (len(leaves), self.backward.neurons)
        slopes, sides, multipliers = (np.zeros(shape, kind) for kind in (np.uint8, np.int8, np.float32))
        for lane, (task, node) in enumerate(leaves):
            slopes[lane, self.boxes[task.box].neurons] = node.slopes
            for (neuron, side), multiplier in zip(node.path, node.multipliers, strict=True):
                sides[lane, neuron], multipliers[lane, neuron] = side, multiplier
        where = torch.tensor([task.box for task, _ in leaves], device=self.device)
        which = torch.tensor([task.functional for task, _ in leaves], device=self.device)
        dtype = self.backward.dtype
        start, side, multiplier = (
            torch.tensor(values, device=self.device, dtype=dtype) for values in (slopes, sides, multipliers)
        )
        return replace(self.base.take(where), functional=self.rows[where, which], side=side), start, multiplier

    def _late(self, tasks: Sequence[_Task], began: float) -> bool:
        """Whether some box has no time left, given that the work on these tasks began then."""
        elapsed = time.perf_counter() - began
        return any(
            self.boxes[index].spent_s + elapsed * lanes / len(tasks) > self.seconds
            for index, lanes in Counter(task.box for task in tasks).items()
        )

    def _charge(self, tasks: Sequence[_Task], elapsed: float) -> None:
        for task in tasks:
            self.boxes[task.box].spent_s += elapsed / len(tasks)

    def _outcome(self, box: _Box) -> Outcome:
        bounds = [task.waiting[0][0] for task in box.tasks if task.waiting]
        ending = Ending.PROVED if not bounds else box.ending or Ending.UNDECIDED
        proof = SplitProof(box.neurons, tuple(map(_tree, box.tasks))) if ending is Ending.PROVED else None
        return Outcome(ending, proof, min(bounds, default=0.0), box.spent_s)


def _tree(task: _Task) -> Tree:
    """The tree of a task whose leaves are all proved."""
    nodes, leaves, stack = [], [], [task.root]
    while stack:
        node = stack.pop()
        nodes.append(node.neuron)
        stack.extend(reversed(node.parts))
        if not node.parts:
            leaves.append(node)
    return Tree(
        task.functional,
        np.array(nodes, np.int32),
        np.stack([leaf.slopes for leaf in leaves]),
        np.concatenate([leaf.multipliers for leaf in leaves]),
    )
