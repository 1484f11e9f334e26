"""Proofs by linear bounds with chosen slopes, over trees of splits (alpha-CROWN and branch and bound).

A functional with a positive lower bound in each leaf of a tree (`verify.proofs.paths`) is positive. Slopes, multipliers
and splits are the choice of whoever wrote the proof; multipliers can prove whatever they like about a leaf that no
execution reaches. Two kinds of trees do different work:

- A tree for one functional, whose leaves have slopes, multipliers and maybe planes: the intervals of all neurons are
  computed anew once, for all trees, and each leaf takes one backward pass. Nodes of it may have better intervals that
  hold for counterexamples (`verify.proofs.assumptions`).
- A single tree for all functionals without one of their own, whose leaves are `verify.proofs.parts`: each takes the
  intervals of all neurons anew, where its signs are known, and CROWN, or slopes and multipliers for some functionals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verify.bounds.activations import smooth
from verify.bounds.cones import intervals_of
from verify.bounds.linear_bounds import lower_bounds
from verify.bounds.lines import Intervals
from verify.bounds.pruning import pruned
from verify.bounds.refinements import Refinement
from verify.core.intervals import Interval
from verify.core.primitives import Tensor
from verify.core.rounding import Array, Contract, down
from verify.errors import Rejected
from verify.model.network import Network
from verify.proofs.assumptions import Assumption, assumed
from verify.proofs.choices import choices_of, leaves_at_a_time
from verify.proofs.part_slopes import PartSlopes
from verify.proofs.parts import Parts
from verify.proofs.paths import Path, leaf_paths
from verify.proofs.planes import fraction_count, planes_of

_POSITIVE = math.ulp(0.0)
"""The smallest positive number."""


_SPLITS_AT_A_TIME = 2**18
"""On paths that are held at a time; smooth functions make these as long as anybody likes."""


@dataclass(frozen=True, eq=False)
class Tree:
    """Proves one functional positive.

    functional: which one. nodes: the tree. slopes: leaves x neurons with a slope, uint8, in 255ths. multipliers:
    float32, leaf by leaf, for the splits on its path from the root down. fractions: of the weights of neurons with a
    slope, for the planes above these (`verify.proofs.planes`), uint8, in 255ths, leaves x weights; None for lines above
    them.
    points: float32, where it splits smooth functions; None if it splits none.
    assumptions: in the order of their nodes; each takes what the ones above it, and before it, found.
    """

    functional: int
    nodes: NDArray[np.int32]
    slopes: NDArray[np.uint8]
    multipliers: NDArray[np.float32]
    fractions: NDArray[np.uint8] | None = None
    assumptions: tuple[Assumption, ...] = ()
    points: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class SplitProof:
    """Trees for those functionals that CROWN does not prove positive, over bounds of the neurons that are refined.

    neurons: of all neurons, numbered as `activations` numbers them, those that have a slope; CROWN decides about the
    others. parts: the nodes of the tree for functionals without one of their own, if there is one; part_slopes: for
    bounds of some of them in some of its leaves.
    """

    neurons: NDArray[np.bool_]
    refinements: tuple[Refinement, ...]
    trees: tuple[Tree, ...]
    parts: NDArray[np.int32] | None = None
    part_slopes: PartSlopes | None = None

    @property
    def leaves(self) -> int:
        """Of all trees, the one for parts included."""
        return sum(len(tree.slopes) for tree in self.trees) + (0 if self.parts is None else len(self.parts) // 2 + 1)

    @property
    def branches(self) -> bool:
        """Whether it splits anything, or has more than the slopes of alpha-CROWN otherwise."""
        split = self.leaves > len(self.trees) + (self.parts is not None)
        return split or any(tree.fractions is not None or tree.assumptions for tree in self.trees)


def leaf_bounds(
    output: Tensor,
    functional: Array,
    intervals: Intervals,
    contract: Contract,
    *,
    neurons: NDArray[np.bool_],
    paths: Sequence[Path],
    slopes: NDArray[np.uint8],
    multipliers: NDArray[np.float32],
    fractions: NDArray[np.uint8] | None = None,
) -> Array:
    """A lower bound of the functional (of the output's shape) at each leaf, NaN where none is known.

    intervals: in one lane. The others as in `SplitProof` and `Tree`, for these leaves only.
    """
    part = pruned(output, intervals)
    inside = intervals_of(part, intervals)
    planes = {} if fractions is None else planes_of(part, output, neurons, fractions, inside, contract)
    choices = choices_of(part, output, neurons, paths, slopes, multipliers, planes)
    functionals = np.broadcast_to(functional, (len(paths), 1, *output.shape))
    found = lower_bounds(part.tensor, functionals, inside, contract, choices)[:, 0]
    return np.where(np.isfinite(found), found, np.nan)


def split_bounds(
    network: Network,
    box: Interval,
    functionals: Array,
    constants: Array,
    contract: Contract,
    proof: SplitProof,
    parts: Parts | None = None,
) -> Array:
    """For each functional of the output, with its constant, a lower bound over the box, as far as the proof needs it to
    be established; NaN where nothing can be said.

    box: in one lane. functionals: functionals x the output's shape. parts: which may remember some that the proof
    needs, if they are of the same problem. Raises Rejected for a proof that does not fit.
    """
    problem = network, box, functionals, constants, contract
    parts = parts if parts and parts.is_about(*problem) else Parts(*problem)
    parts.refine(proof.neurons, proof.refinements)
    with np.errstate(all="ignore"):
        intervals = parts.whole
        part = pruned(network.output, intervals)
        (lower,) = lower_bounds(part.tensor, functionals[np.newaxis], intervals_of(part, intervals), contract)
        lower = down(lower + constants)
        if len({tree.functional for tree in proof.trees}) < len(proof.trees):
            raise Rejected("several of its trees are about the same functional")
        for tree in proof.trees:
            which = tree.functional
            if not 0 <= which < len(lower):
                raise Rejected("one of its trees is about a functional that does not exist")
            if not lower[which] > 0:
                found = _least(network.output, functionals[which], constants[which], intervals, contract, proof, tree)
                lower[which] = found
        if proof.parts is not None and not (lower > 0).all():
            lower = np.where(lower > 0, lower, parts.least(proof.parts, ~(lower > 0), proof.part_slopes))
    return np.asarray(lower)


def _least(
    output: Tensor,
    functional: Array,
    constant: float,
    intervals: Intervals,
    contract: Contract,
    proof: SplitProof,
    tree: Tree,
) -> float:
    """The least bound of a tree's leaves; or of as many as it takes to find one that is not positive."""
    first, used, least = 0, 0, math.inf
    width = 0 if tree.fractions is None else fraction_count(output, proof.neurons)

    def assume(around: Intervals, path: Path, assumption: Assumption) -> Intervals | None:
        return assumed(
            output,
            functional,
            constant,
            around,
            contract,
            neurons=proof.neurons,
            path=path,
            assumption=assumption,
        )

    most = leaves_at_a_time(output, width)
    for part, around in _within(tree, smooth(output), most, intervals, assume):
        needed = sum(map(len, part))
        slopes, multipliers = tree.slopes[first : first + len(part)], tree.multipliers[used : used + needed]
        if slopes.shape != (len(part), int(proof.neurons.sum())):
            raise Rejected("it lacks slopes for some of its leaves")
        fractions = None if tree.fractions is None else tree.fractions[first : first + len(part)]
        if fractions is not None and fractions.shape != (len(part), width):
            raise Rejected("it lacks planes for some of its leaves")
        first, used = first + len(part), used + needed
        if around is None:
            continue
        found = leaf_bounds(
            output,
            functional,
            around,
            contract,
            neurons=proof.neurons,
            paths=part,
            slopes=slopes,
            multipliers=multipliers,
            fractions=fractions,
        )
        lowest = float(down(found + constant).min())  # NaN if any of them is
        if not lowest > 0:
            return lowest
        least = min(least, lowest)
    # Of counterexamples, which there are none of, anything is true: no more follows than that it is positive.
    return min(least, _POSITIVE) if tree.assumptions else least


def _within(
    tree: Tree,
    smooth: NDArray[np.bool_],
    most: int,
    intervals: Intervals,
    assume: Callable[[Intervals, Path, Assumption], Intervals | None],
) -> Iterator[tuple[list[Path], Intervals | None]]:
    """The paths to the leaves of a tree, in order, as many at a time as are bounded together; and the intervals that
    hold in the counterexamples of all of these, None where there is none. smooth: of the neurons. most: paths.
    intervals: in all counterexamples; assume: finds better ones at a node."""
    waiting = list(reversed(tree.assumptions))
    above: list[tuple[Path, Intervals | None]] = [([], intervals)]
    some: list[Path] = []
    splits = 0
    for leaf, path in enumerate(leaf_paths(tree.nodes, smooth, tree.points, len(tree.multipliers))):
        leaving = path[: len(above[-1][0])] != above[-1][0]
        entering = bool(waiting) and waiting[-1].leaf == leaf
        splits += len(path)
        if some and (leaving or entering or len(some) == most or splits > _SPLITS_AT_A_TIME):
            yield some, above[-1][1]
            some, splits = [], len(path)
        while path[: len(above[-1][0])] != above[-1][0]:
            above.pop()
        while waiting and waiting[-1].leaf == leaf:
            assumption = waiting.pop()
            before, around = above[-1]
            if not len(before) <= assumption.depth <= len(path):
                raise Rejected("its assumptions are not in order")
            node = path[: assumption.depth]
            above.append((node, None if around is None else assume(around, node, assumption)))
        some.append(path)
    if some:
        yield some, above[-1][1]
    if waiting:
        raise Rejected("its assumptions are not in order")
