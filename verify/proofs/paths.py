"""Trees that split the executions of a network by what single neurons read.

A tree splits, at each inner node, the executions by the float32 number that one neuron reads: at least as large as a
point, or at most. The point is zero for a ReLU, and any number for a smooth function. What is read is a number in every
execution (bounds that could hold of none are NaN, and prove nothing), so that each execution belongs to one subtree at
least; the point belongs to both, and a ReLU is either line there. By induction every execution belongs to some leaf,
whichever input in the box and order of summation brought it about: what holds in each leaf holds over the box. A leaf
that no execution reaches is nothing special: whatever is proved about it is true.

As an array a tree is in preorder, int32: the neuron that is split, as `activations` numbers them, then the tree for at
least the point, then the tree for at most that; or LEAF. The points of smooth functions are an array beside it, in the
same order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from verify.core.rounding import Array
from verify.errors import Rejected

LEAF = -1


class Split(NamedTuple):
    """One half of the executions. side: 1 where the neuron reads at least the point, -1 where at most."""

    neuron: int
    side: int
    point: float = 0.0


Path = list[Split]
"""From the root to a leaf."""


class Splits(NamedTuple):
    """Of several paths, one after the other: the number of the path, and what `Split` holds."""

    path: NDArray[np.intp]
    neuron: NDArray[np.intp]
    side: NDArray[np.intp]
    point: Array


def leaf_paths(
    nodes: NDArray[np.int32],
    smooth: NDArray[np.bool_],
    points: NDArray[np.float32] | None = None,
    splits: int | None = None,
) -> Iterator[Path]:
    """The path to each leaf, in order; raises Rejected, at the end at the latest, unless `nodes` is exactly one tree
    that splits some of these neurons, has a point for each smooth one that it splits, and whose paths have that many
    splits together, if it is said how many.

    Every inner node is followed by two whole subtrees, so that the leaves cover all executions.
    """
    if ((nodes < LEAF) | (nodes >= len(smooth))).any():
        raise Rejected("it splits a neuron that does not exist")
    where = np.zeros(0) if points is None else points
    if not np.isfinite(where).all():
        raise Rejected("it splits a neuron where there is no number")
    if int(smooth[nodes[nodes != LEAF]].sum()) != len(where):
        raise Rejected("one of its trees does not say where it splits smooth functions")
    path: Path = []
    above: set[int] = set()
    complete = False
    unused = math.inf if splits is None else splits
    of_smooth = iter(where.tolist())
    for node in nodes.tolist():
        if complete:
            raise Rejected("one of its trees goes on behind its last leaf")
        if node != LEAF:
            if node in above:
                raise Rejected("one of its trees splits a ReLU twice on its way to a leaf")
            if smooth[node]:
                path.append(Split(node, 1, next(of_smooth)))
            else:
                above.add(node)
                path.append(Split(node, 1))
            continue
        unused -= len(path)
        if unused < 0:
            raise Rejected("one of its trees lacks multipliers")
        yield path.copy()
        while path and path[-1].side < 0:
            above.discard(path.pop().neuron)
        if path:
            path[-1] = path[-1]._replace(side=-1)
        else:
            complete = True
    if not complete:
        raise Rejected("one of its trees does not cover the box")
    if splits is not None and unused:
        raise Rejected("one of its trees has multipliers for more splits than it has")


def splits_of(paths: Sequence[Path]) -> Splits:
    """The splits of all paths."""
    number = np.repeat(np.arange(len(paths)), [len(path) for path in paths])
    each = np.fromiter(chain.from_iterable(chain.from_iterable(paths)), np.float64)
    neuron, side, point = each.reshape(-1, 3).T
    return Splits(number, neuron.astype(np.intp), side.astype(np.intp), point)
