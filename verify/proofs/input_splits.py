"""Proofs over parts of a box of inputs.

A tree splits, at each inner node, the inputs by one coordinate: at most the cut, or at least the cut. Each input is in
one of these parts at least, and by induction in the part of some leaf, so that what one way of bounding proves about
the part of each leaf holds over the whole box. Slopes for the bounds of single functionals over single parts are the
choice of whoever wrote the proof, as in `verify.proofs.split_trees`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from verify.bounds.evaluation import lanes_at_a_time
from verify.core.intervals import Interval
from verify.errors import Rejected
from verify.model.network import Network
from verify.proofs.part_slopes import PartSlopes
from verify.proofs.paths import LEAF


@dataclass(frozen=True, eq=False)
class InputSplits:
    """nodes: the tree in preorder, as int32: the number of the input that is split, then the tree for at most the cut,
    then the tree for at least the cut; or LEAF. cuts: float32, of the inner nodes in order. way: the name of the bounds
    that prove each part. weights: uint8, leaves x constraints, with which a leaf adds up the constraints of each
    alternative; none where a single constraint of each is enough. part_slopes: for the bounds of some alternatives'
    sums over some leaves; or of constraints, where there are no weights.
    """

    nodes: NDArray[np.int32]
    cuts: NDArray[np.float32]
    way: str
    weights: NDArray[np.uint8] | None = None
    part_slopes: PartSlopes | None = None

    @property
    def leaves(self) -> int:
        """How many parts there are."""
        return len(self.cuts) + 1


Proves = Callable[[Interval, NDArray[np.uint8] | None, PartSlopes | None], NDArray[np.bool_]]
"""Tells of each of several boxes, lanes x inputs, whether it is proved, with these weights (lanes x constraints) and
slopes, if any."""


def parts(box: Interval, proof: InputSplits) -> Iterator[Interval]:
    """The parts of the box (one lane, flat) at the leaves, in order; raises Rejected, at the end at the latest, unless
    `nodes` is exactly one tree, with a cut inside the part that it splits for each inner node."""
    lower, upper = (end.reshape(-1).copy() for end in box)
    cuts = iter(proof.cuts.astype(np.float64).tolist())
    path: list[tuple[int, float, bool]] = []  # input, the end that its cut stands in for, whether that is the upper one
    complete = False
    for node in proof.nodes.tolist():
        if complete:
            raise Rejected("its tree goes on behind its last leaf")
        if node != LEAF:
            cut = next(cuts, np.nan)
            if not (0 <= node < len(lower) and lower[node] < cut < upper[node]):
                raise Rejected("it splits an input that does not exist, or lacks a cut inside the part that it splits")
            path.append((node, float(upper[node]), True))
            upper[node] = cut
            continue
        yield Interval(lower[np.newaxis].copy(), upper[np.newaxis].copy())
        while path and not path[-1][2]:
            split, end, _ = path.pop()
            lower[split] = end
        if path:
            split, end, _ = path.pop()
            path.append((split, float(lower[split]), False))
            lower[split], upper[split] = upper[split], end
        else:
            complete = True
    if not complete:
        raise Rejected("its tree does not cover the box")
    if next(cuts, None) is not None:
        raise Rejected("it has more cuts than its tree has splits")


def unproved(network: Network, box: Interval, proof: InputSplits, proves: Proves) -> Iterator[NDArray[np.intp]]:
    """The numbers of the leaves whose part is not proved, some leaves at a time; there are none if the proof is valid.

    box: in one lane. Raises Rejected for a tree that does not cover it, or weights or slopes that do not fit it.
    """
    step, first = lanes_at_a_time(network), 0
    if proof.part_slopes is not None and not proof.part_slopes.fit(proof.leaves):
        raise Rejected("its slopes are for parts that do not exist, or not in order")
    leaves = parts(box, proof)
    while some := list(islice(leaves, step)):
        weights = None if proof.weights is None else proof.weights[first : first + len(some)]
        if weights is not None and len(weights) != len(some):
            raise Rejected("it lacks weights for some of its leaves")
        slopes = proof.part_slopes and proof.part_slopes.of(np.arange(first, first + len(some)))
        yield first + np.flatnonzero(~proves(Interval(*map(np.concatenate, zip(*some, strict=True))), weights, slopes))
        first += len(some)
    if proof.weights is not None and len(proof.weights) != first:
        raise Rejected("it has weights for more leaves than its tree has")
