"""Branch and bound on what single neurons read, for many boxes and functionals at once: the signs of what ReLUs read
(beta-CROWN, arXiv 2103.06624), and the halves of what smooth functions do (GenBaB, arXiv 2405.21063).

Each functional that is not proved positive over its box has a tree; its leaves that are not proved yet wait in a queue,
the worst first. A round takes leaves from the trees of all boxes, splits each at the neuron that promises most, and
optimises slopes and multipliers of all halves together. A leaf counts as proved only when `split_trees.leaf_bounds`
says so, in rigorous arithmetic; one that misses by rounding is split further.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from verify.bounds.activations import smooth
from verify.bounds.cones import intervals_of
from verify.bounds.pruning import pruned
from verify.core.intervals import Interval
from verify.core.primitives import Tensor
from verify.core.rounding import Array, Contract
from verify.model.network import Network
from verify.proofs.parts import Parts, of_each
from verify.proofs.paths import LEAF, Split
from verify.proofs.split_trees import SplitProof
from verify.search.backward import Backward
from verify.search.bounding import Bounding, share
from verify.search.branching import best_splits
from verify.search.opening import Opening
from verify.search.optimise import Settings
from verify.search.query import Query
from verify.search.refuting import Refute, Refuting
from verify.search.tightening import Tightening
from verify.search.trees import Box, Ending, Leaves, Node, Task, about_the_whole, tree_of

AT_LEAVES = Settings(iterations=4, slope_step=0.1, multiplier_step=0.5, decay=0.8)
AT_ENDS = Settings(iterations=100, slope_step=0.0, multiplier_step=0.5, decay=0.98)
_MOST_ENDS = 5
"""How often the multipliers of a leaf in which nothing is left to split are optimised before the box is given up."""


@dataclass(frozen=True)
class Outcome:
    """About one box. proof: when proved. bound: the least lower bound that was found of any functional, approximately.
    spent_s: the box's share of the time."""

    ending: Ending
    proof: SplitProof | None
    bound: float
    spent_s: float

    @property
    def timed_out(self) -> bool:
        """Whether there might have been a proof, given more time."""
        return self.ending is Ending.TIMEOUT

    @property
    def branched(self) -> bool:
        """Whether the proof splits anything."""
        return self.proof is not None and self.proof.branches


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
    intervals: dict[Tensor, Interval] | None = None,
    opening_s: float = 0.0,
    interrupts: bool = False,
    parts: Sequence[Parts] | None = None,
    rows: Sequence[int] | None = None,
    device: torch.device | None = None,
) -> Iterator[Outcome]:
    """For each box in turn, try to prove every functional of the output, plus its constant, positive.

    The work on a box uses what lanes the ones before it leave free. box: lanes x the shape of the network's only input.
    functionals: lanes x functionals x the output's shape, constants: lanes x functionals. branch: split neurons, rather
    than optimise slopes only. seconds: of work for each box. intervals: by CROWN, of the only box, if they are known;
    opening_s: how much of its time they took. interrupts: whether a single step that exceeds the time for a box is cut
    short by a signal. parts: of each box, which remember for whoever looks at the proofs; rows: which of their
    functionals these are, if not all in order.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parts = parts or of_each(network, box, functionals, constants, contract)
    output, part = network.output, None
    if intervals:
        part = pruned(output, intervals)
        network, intervals = replace(network, outputs=(part.tensor,)), intervals_of(part, intervals)
    query = Query(
        network,
        box,
        functionals,
        constants,
        contract,
        Backward(network.output, device),
        seconds,
        interrupts,
        part,
        parts,
        np.arange(functionals.shape[1]) if rows is None else np.array(rows),
    )
    for outcome in _Search(query, refute, intervals, opening_s).run(branch):
        proof = outcome.proof and part and about_the_whole(outcome.proof, part, output)
        yield replace(outcome, proof=proof or outcome.proof)


class _Search:
    def __init__(
        self, query: Query, refute: Refute | None, intervals: dict[Tensor, Interval] | None, opening_s: float
    ) -> None:
        self._query, self._intervals, self._opening_s = query, intervals, opening_s
        self._bounding = Bounding(query.backward, query.contract)
        self._refuting = Refuting(query.network, query.box, refute)
        self._opening = Opening(query, self._bounding, self._refuting)
        self._tightening = Tightening(self._bounding)
        self._boxes: list[Box] = []

    def run(self, branch: bool) -> Iterator[Outcome]:
        done = 0
        while done < len(self._query.box.lower):
            for box in self._boxes[done:]:
                self._opening.reconsider(box)
                for task in box.tasks:
                    if box.ending is None:
                        self._tightening.at_root(task)
            picked = self._picked()
            if 2 * len(picked) < self._bounding.width(task.box for task, _ in picked):
                self._admit(branch)
            self._branch([leaf for leaf in picked if not self._tightening.at_leaf(*leaf)])
            while done < len(self._boxes) and self._boxes[done].ended():
                yield self._outcome(self._boxes[done])
                done += 1

    def _admit(self, branch: bool) -> None:
        """Make a further box ready to be split; or open as many as fill the lanes, where all that are open are."""
        for box in self._boxes:
            if not box.refined and not box.ended():
                self._opening.prepare(box, branch)
                if not branch and not box.ended():
                    box.ending = Ending.UNDECIDED
                return
        opened: list[Box] = []
        roots = 0
        while roots < self._query.backward.width and len(self._boxes) < len(self._query.box.lower):
            opened.append(self._opening.opened(len(self._boxes), self._intervals, self._opening_s))
            self._boxes.append(opened[-1])
            roots += len(opened[-1].tasks)
        self._opening.bound(opened)

    def _picked(self) -> Leaves:
        """The worst leaves of the first open box, and of later ones as far as there are lanes for both halves."""
        picked: list[tuple[Task, Node]] = []
        for box in self._boxes:
            if box.ended() or not box.refined or (picked and bool(box.weights) != bool(picked[0][0].box.weights)):
                continue
            width = self._bounding.width([box, *(task.box for task, _ in picked)])
            while 2 * len(picked) < width and any(task.waiting for task in box.tasks):
                task = min((task for task in box.tasks if task.waiting), key=lambda task: task.worst.bound)
                picked.append((task, task.taken()))
        return picked

    def _outcome(self, box: Box) -> Outcome:
        assert box.ending
        bounds = [task.worst.bound for task in box.tasks if task.waiting]
        proof = None
        if box.ending is Ending.PROVED:
            trees = tuple(tree_of(task, smooth(self._query.output)) for task in box.tasks)
            proof = SplitProof(box.neurons, tuple(box.refinements), trees, box.parts, box.part_slopes)
        box.tasks, box.partition = [], None  # which hold all leaves, and bounds of many parts
        return Outcome(box.ending, proof, min(bounds, default=math.nan), box.spent_s)

    def _branch(self, picked: Leaves) -> None:
        """Split leaves, and bound both halves of each."""
        if not picked:
            return
        halves, whole = self._split(picked)
        before = [node.bound for _, node in halves]
        self._bounding.bound(halves, AT_LEAVES)
        for (task, node), bound in zip(halves, before, strict=True):
            if math.isfinite(bound):
                task.gains.append(min(node.bound, task.box.slack) - bound)
        self._bounding.bound(whole, AT_ENDS)

    def _split(self, picked: Leaves) -> tuple[Leaves, Leaves]:
        """Both halves of each leaf, at the neurons that promise most; and the leaves in which nothing is left to split,
        where only better multipliers can help."""
        began = time.perf_counter()
        neurons, points, direction = best_splits(self._query.backward, *self._bounding.stacked(picked))
        self._refuting.attack([task for task, _ in picked], direction)
        parts: list[tuple[Task, Node]] = []
        whole: list[tuple[Task, Node]] = []
        for (task, node), neuron, point in zip(picked, neurons, points, strict=True):
            if neuron == LEAF:
                node.ends += 1
                whole.append((task, node))
                if node.ends > _MOST_ENDS:
                    task.box.ending = task.box.ending or Ending.UNDECIDED
                continue
            node.neuron, node.point = neuron, point
            task.splits += 1
            node.parts = tuple(_half(node, Split(neuron, side, point)) for side in (1, -1))
            node.fractions = None  # which only leaves need
            parts += [(task, part) for part in node.parts]
        share(picked, time.perf_counter() - began)
        return parts, whole


def _half(node: Node, split: Split) -> Node:
    """To begin with, with the bound of the whole."""
    # Of several splits of a neuron, the last one's multiplier counts.
    pairs = zip(node.path, node.multipliers.tolist(), strict=True)
    known = [multiplier for before, multiplier in pairs if before.neuron == split.neuron]
    multipliers = np.append(node.multipliers, np.float32(known[-1] if known else 0.0))
    return Node([*node.path, split], node.region, node.slopes, multipliers, node.fractions, node.bound)
