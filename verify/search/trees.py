"""What a search over splits of neurons keeps: boxes, functionals over them, and a tree of parts for each of these; and
the proofs that these become."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from verify.cones import Cone
from verify.intervals import Interval
from verify.linear_bounds import neuron_count, relus
from verify.paths import LEAF, Path
from verify.primitives import Tensor
from verify.pruning import neurons_of
from verify.refinements import Refinement
from verify.rounding import Array
from verify.search.backward import Lanes
from verify.search.partition import Partition
from verify.split_trees import SplitProof, Tree


class Ending(StrEnum):
    """How the search about a box ended."""

    PROVED = "proved"
    REFUTED = "refuted"
    UNDECIDED = "undecided"
    TIMEOUT = "timeout"


@dataclass(eq=False)
class Node:
    """A part of a box: a leaf, or split at `neuron`. slopes: of the box's open neurons. bound: approximate. ends: how
    often nothing was left to split."""

    path: Path
    slopes: NDArray[np.uint8]
    multipliers: NDArray[np.float32]
    bound: float = -math.inf
    neuron: int = LEAF
    parts: tuple[Node, ...] = ()
    ends: int = 0


@dataclass(eq=False)
class Box:
    """intervals: rigorous, in one lane. lanes: the same for bounds in torch. neurons: which have an open sign. slack:
    how much more than zero an approximate bound must be for the rigorous one to follow. opening_s: seconds until it had
    bounds; spent_s: of all work. refined: whether its leaves may be split.

    partition: looks for parts that prove the tasks `needed`. pressed: whether it did so against the odds. parts: the
    nodes of its tree, when it found one that proves whatever the tasks do not.
    """

    index: int
    intervals: dict[Tensor, Interval] = field(init=False)
    lanes: Lanes = field(init=False)
    neurons: NDArray[np.bool_] = field(init=False)
    tasks: list[Task] = field(default_factory=list)
    refinements: list[Refinement] = field(default_factory=list)
    slack: float = 0.0
    opening_s: float = 0.0
    spent_s: float = 0.0
    refined: bool = False
    partition: Partition | None = None
    needed: list[Task] = field(default_factory=list)
    pressed: bool = False
    parts: NDArray[np.int32] | None = None
    ending: Ending | None = None


@dataclass(eq=False)
class Task:
    """One functional over one box; its leaves that are not proved wait in a heap."""

    box: Box
    row: int
    functional: Array
    constant: float
    root: Node
    waiting: list[tuple[float, int, Node]] = field(default_factory=list)


Leaves = Sequence[tuple[Task, Node]]


def tree_of(task: Task) -> Tree:
    """The tree of a task whose leaves are all proved."""
    nodes, leaves, stack = [], [], [task.root]
    while stack:
        node = stack.pop()
        nodes.append(node.neuron)
        stack.extend(reversed(node.parts))
        if not node.parts:
            leaves.append(node)
    return Tree(
        task.row,
        np.array(nodes, np.int32),
        np.stack([leaf.slopes for leaf in leaves]),
        np.concatenate([leaf.multipliers for leaf in leaves]),
    )


def about_the_whole(proof: SplitProof, part: Cone, output: Tensor) -> SplitProof:
    """The proof about a part of the network as one about the whole, whose neurons have other numbers."""
    numbers_of = neurons_of(part, output)
    each = [numbers_of[relu].astype(np.int32) for relu in relus(part.tensor)]
    numbers = np.concatenate([np.zeros(0, np.int32), *each])
    neurons = np.zeros(neuron_count(output), np.bool_)
    neurons[numbers[proof.neurons]] = True
    refinements = tuple(replace(found, neurons=numbers[found.neurons]) for found in proof.refinements)
    trees = []  # nobody but the whole network is divided into parts
    for tree in proof.trees:
        nodes = tree.nodes.copy()
        nodes[nodes != LEAF] = numbers[nodes[nodes != LEAF]]
        trees.append(replace(tree, nodes=nodes))
    return SplitProof(neurons, refinements, tuple(trees), proof.parts)
