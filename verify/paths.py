"""Trees that split the executions of a network by the signs of what single ReLUs read.

A tree splits, at each inner node, the executions by the sign of the float32 number that one ReLU's neuron reads: at
least zero, or at most zero. It is a number in every execution (bounds that could hold of none are NaN, and prove
nothing), so that each execution belongs to one subtree at least; zero belongs to both, where the ReLU is either line.
By induction every execution belongs to some leaf, whichever input in the box and order of summation brought it about:
what holds in each leaf holds over the box. A leaf that no execution reaches is nothing special: whatever is proved
about it is true.

As an array a tree is in preorder, int32: the neuron that is split, as `relus` numbers them, then the tree for at least
zero, then the tree for at most zero; or LEAF.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from verify.errors import Rejected

LEAF = -1

Path = list[tuple[int, int]]
"""The splits from the root to a leaf: neuron, and 1 for at least zero or -1 for at most zero."""


def leaf_paths(nodes: NDArray[np.int32], neurons: int, splits: int | None = None) -> Iterator[Path]:
    """The path to each leaf, in order; raises Rejected, at the end at the latest, unless `nodes` is exactly one tree
    that splits some of so many neurons, and whose paths have that many splits together, if it is said how many.

    Every inner node is followed by two whole subtrees, so that the leaves cover all executions.
    """
    if ((nodes < LEAF) | (nodes >= neurons)).any():
        raise Rejected("it splits a neuron that does not exist")
    path: Path = []
    above: set[int] = set()
    complete = False
    unused = math.inf if splits is None else splits
    for node in nodes.tolist():
        if complete:
            raise Rejected("one of its trees goes on behind its last leaf")
        if node != LEAF:
            if node in above:
                raise Rejected("one of its trees splits a neuron twice on its way to a leaf")
            above.add(node)
            path.append((node, 1))
            continue
        unused -= len(path)
        if unused < 0:
            raise Rejected("one of its trees lacks multipliers")
        yield path.copy()
        while path and path[-1][1] < 0:
            above.remove(path.pop()[0])
        if path:
            path[-1] = (path[-1][0], -1)
        else:
            complete = True
    if not complete:
        raise Rejected("one of its trees does not cover the box")
    if splits is not None and unused:
        raise Rejected("one of its trees has multipliers for more splits than it has")


def splits_of(paths: Sequence[Path]) -> NDArray[np.intp]:
    """The splits of all paths, one path after the other, in three rows: the number of the path, neuron and side."""
    pairs = np.fromiter(chain.from_iterable(chain.from_iterable(paths)), np.intp).reshape(-1, 2)
    return np.stack([np.repeat(np.arange(len(paths)), [len(path) for path in paths]), *pairs.T])
