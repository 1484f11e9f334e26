"""What a search over splits of neurons keeps: boxes, functionals over them, and a tree of parts for each of these; and
the proofs that these become."""

from __future__ import annotations

import heapq
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import count, groupby
from statistics import median

import numpy as np
from numpy.typing import NDArray

from verify.bounds.activations import activations, neuron_count
from verify.bounds.cones import Cone
from verify.bounds.pruning import neurons_of
from verify.bounds.refinements import Refinement
from verify.core.primitives import Tensor
from verify.core.rounding import Array
from verify.proofs.assumptions import Assumption
from verify.proofs.part_slopes import PartSlopes
from verify.proofs.paths import LEAF, Path
from verify.proofs.planes import fractions_of_whole
from verify.proofs.split_trees import SplitProof, Tree
from verify.search.assumptions import Assuming, Region
from verify.search.descent import Descent
from verify.search.partition import Partition, leaves_to_come
from verify.time_limit import OutOfTime, time_limit

_RECENT = 64
"""Halves whose bounds tell how much a split gains."""

_WEIGHTS_OF_A_PROOF = 2**28
"""Of planes above neurons, of all leaves together, for more than twice as many are refused by whoever checks."""


class Ending(StrEnum):
    """How the search about a box ended."""

    PROVED = "proved"
    REFUTED = "refuted"
    UNDECIDED = "undecided"
    TIMEOUT = "timeout"


@dataclass(eq=False)
class Node:
    """A part of a box: a leaf, or split at `neuron`, where that reads `point`. region: what is known of it. slopes: of
    the box's open neurons. fractions: of their weights, if there are planes above them. bound: approximate. ends: how
    often nothing was left to split. assumptions: that its region rests on, beside those of the nodes above."""

    path: Path
    region: Region
    slopes: NDArray[np.uint8]
    multipliers: NDArray[np.float32]
    fractions: NDArray[np.uint8] | None = None
    bound: float = -math.inf
    neuron: int = LEAF
    point: float = 0.0
    parts: tuple[Node, ...] = ()
    ends: int = 0
    assumptions: list[Assumption] = field(default_factory=list)


@dataclass(eq=False)
class Box:
    """seconds: for all work on it; interrupts: whether a step that exceeds these is cut short by a signal. opening_s:
    until it had bounds; spent_s: of all work so far.

    region: all of it. neurons: which leave a choice. slack: how much more than zero an approximate bound must be for
    the rigorous one to follow. refined: whether its leaves may be split. weights: how many its open neurons have that
    have planes above them, 0 for lines; written: how many of those a leaf of the proof has. assumed: how many bytes
    bounds that assume a counterexample took so far.

    partition: looks for parts that prove the tasks `needed`. pressed: whether it did so against the odds. parts: the
    nodes of its tree, when it found one that proves whatever the tasks do not, and part_slopes: in its leaves.
    """

    index: int
    seconds: float
    interrupts: bool
    opening_s: float = 0.0
    spent_s: float = 0.0
    region: Region = field(init=False)
    neurons: NDArray[np.bool_] = field(init=False)
    tasks: list[Task] = field(default_factory=list)
    refinements: list[Refinement] = field(default_factory=list)
    slack: float = 0.0
    refined: bool = False
    weights: int = 0
    written: int = 0
    assumed: int = 0
    partition: Partition | None = None
    needed: list[Task] = field(default_factory=list)
    pressed: bool = False
    parts: NDArray[np.int32] | None = None
    part_slopes: PartSlopes | None = None
    ending: Ending | None = None

    @property
    def leaves(self) -> int:
        """How many there are of all tasks together, less one for each."""
        return sum(task.splits for task in self.tasks)

    @property
    def left_s(self) -> float:
        """Of its time."""
        return self.seconds - self.spent_s

    def gap(self, node: Node) -> float:
        """What is missing to a proof of it."""
        return self.slack - node.bound

    def ended(self) -> bool:
        """Whether nothing is left to do about it, or no time for it."""
        if self.ending is None and not any(task.waiting for task in self.tasks):
            self.ending = Ending.PROVED
        if self.ending is None and self.left_s <= 0:
            self.ending = Ending.TIMEOUT
        if self.ending is None and self.written * self.leaves > _WEIGHTS_OF_A_PROOF:
            self.ending = Ending.UNDECIDED
        return self.ending is not None

    def charge(self, work: Callable[[], None]) -> None:
        """Do work that ends when the time for the box does, and counts as its own; none if its time is over."""
        began = time.perf_counter()
        try:
            with time_limit(max(self.left_s, 0.0) if self.interrupts else None):
                work()
        except OutOfTime:
            self.ending = Ending.TIMEOUT
        finally:
            self.spent_s += time.perf_counter() - began


@dataclass(eq=False)
class Task:
    """One functional over one box; its leaves that are not proved wait in a heap. descent: for counterexamples.
    splits: how many the tree has. gains: in bounds, of the latest halves. assuming: for bounds that assume a
    counterexample; reach: what a leaf may lack to a proof, for these to gain much, as it seems; failed: how many of the
    latest tries did not."""

    box: Box
    row: int
    functional: Array
    constant: float
    root: Node
    descent: Descent
    assuming: Assuming
    splits: int = 0
    gains: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    reach: float = math.inf
    failed: int = 0
    waiting: list[tuple[float, int, Node]] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=count)

    @property
    def worst(self) -> Node:
        """Of the leaves that wait."""
        return self.waiting[0][2]

    def queue(self, node: Node) -> None:
        """Let a leaf wait."""
        heapq.heappush(self.waiting, (node.bound, next(self._order), node))

    def taken(self) -> Node:
        """The worst leaf, which waits no more."""
        return heapq.heappop(self.waiting)[2]

    def leaves_below(self, nodes: Iterable[Node]) -> float:
        """How many some leaves will have, if each split gains as much as the latest ones did; 0 where too few did."""
        if len(self.gains) < _RECENT:
            return 0.0
        gain = median(self.gains)
        return math.fsum(leaves_to_come(self.box.gap(node), gain) for node in nodes)


Leaves = Sequence[tuple[Task, Node]]


def tree_of(task: Task, smooth: NDArray[np.bool_]) -> Tree:
    """The tree of a task whose leaves are all proved. smooth: which neurons are."""
    nodes: list[int] = []
    points: list[float] = []
    leaves: list[Node] = []
    assumptions: list[Assumption] = []
    stack = [task.root]
    while stack:
        node = stack.pop()
        nodes.append(node.neuron)
        if node.neuron != LEAF and smooth[node.neuron]:
            points.append(node.point)
        assumptions += [replace(each, leaf=len(leaves), depth=len(node.path)) for each in node.assumptions]
        stack.extend(reversed(node.parts))
        if not node.parts:
            leaves.append(node)
    fractions = [leaf.fractions for leaf in leaves if leaf.fractions is not None]
    assert len(fractions) in (0, len(leaves))
    return Tree(
        task.row,
        np.array(nodes, np.int32),
        np.stack([leaf.slopes for leaf in leaves]),
        np.concatenate([leaf.multipliers for leaf in leaves]),
        np.stack(fractions) if fractions else None,
        tuple(assumptions),
        np.array(points, np.float32) if points else None,
    )


def about_the_whole(proof: SplitProof, part: Cone, output: Tensor) -> SplitProof:
    """The proof about a part of the network as one about the whole, whose neurons have other numbers."""
    numbers_of = neurons_of(part, output)
    every = [numbers_of[each].astype(np.int32) for each in activations(part.tensor)]
    numbers = np.concatenate([np.zeros(0, np.int32), *every])
    neurons = np.zeros(neuron_count(output), np.bool_)
    neurons[numbers[proof.neurons]] = True
    refinements = tuple(replace(found, neurons=numbers[found.neurons]) for found in proof.refinements)
    trees = []
    for tree in proof.trees:
        nodes = tree.nodes.copy()
        nodes[nodes != LEAF] = numbers[nodes[nodes != LEAF]]
        fractions = tree.fractions
        if fractions is not None:
            fractions = fractions_of_whole(part, output, neurons, proof.neurons, fractions)
        assumptions = tuple(replace(found, neurons=numbers[found.neurons]) for found in tree.assumptions)
        trees.append(replace(tree, nodes=nodes, fractions=fractions, assumptions=assumptions))
    return SplitProof(neurons, refinements, tuple(trees), proof.parts, proof.part_slopes)  # parts are of the whole


def by_box(leaves: Leaves) -> Iterator[tuple[Box, slice]]:
    """The boxes of the leaves, and which of these are each one's: those of a box stand side by side."""
    first = 0
    for box, same in groupby(leaves, key=lambda leaf: leaf[0].box):
        rows = slice(first, first := first + len(list(same)))
        yield box, rows
