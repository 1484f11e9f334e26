"""Proofs by linear bounds with chosen slopes, over trees of splits (alpha-CROWN and branch and bound).

A functional with a positive lower bound in each leaf of a tree (`verify.paths`) is positive. Slopes, multipliers and
splits are the choice of whoever wrote the proof; multipliers can prove whatever they like about a leaf that no
execution reaches. Two kinds of trees do different work:

- A tree for one functional, whose leaves have slopes, multipliers and maybe planes: the intervals of all neurons are
  computed anew once, for all trees, and each leaf takes one backward pass.
- A single tree for all functionals without one of their own, whose leaves are `verify.parts`: each takes the intervals
  of all neurons anew, where its signs are known, and CROWN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from verify.cones import intervals_of
from verify.crown import WORKSPACE
from verify.errors import Rejected
from verify.intervals import Interval
from verify.linear_bounds import Choice, lower_bounds, neuron_count
from verify.lines import Intervals
from verify.network import Network
from verify.parts import Parts
from verify.paths import Path, leaf_paths, splits_of
from verify.planes import fraction_count, planes_of
from verify.primitives import Tensor, topological
from verify.pruning import neurons_of, pruned
from verify.refinements import Refinement
from verify.rounding import Array, Contract, down


@dataclass(frozen=True, eq=False)
class Tree:
    """Proves one functional positive.

    functional: which one. nodes: the tree. slopes: leaves x neurons with a slope, uint8, in 255ths. multipliers:
    float32, leaf by leaf, for the splits on its path from the root down. fractions: of the weights of neurons with a
    slope, for the planes above these (`verify.planes`), uint8, in 255ths, leaves x weights; None for lines above them.
    """

    functional: int
    nodes: NDArray[np.int32]
    slopes: NDArray[np.uint8]
    multipliers: NDArray[np.float32]
    fractions: NDArray[np.uint8] | None = None


@dataclass(frozen=True, eq=False)
class SplitProof:
    """Trees for those functionals that CROWN does not prove positive, over bounds of the neurons that are refined.

    neurons: of all neurons of all ReLUs, numbered as `relus` numbers them, those that have a slope; CROWN decides about
    the others. parts: the nodes of the tree for functionals without one of their own, if there is one.
    """

    neurons: NDArray[np.bool_]
    refinements: tuple[Refinement, ...]
    trees: tuple[Tree, ...]
    parts: NDArray[np.int32] | None = None

    @property
    def leaves(self) -> int:
        """Of all trees, the one for parts included."""
        return sum(len(tree.slopes) for tree in self.trees) + (0 if self.parts is None else len(self.parts) // 2 + 1)

    @property
    def branches(self) -> bool:
        """Whether it splits anything, or has more than the slopes of alpha-CROWN otherwise."""
        split = self.leaves > len(self.trees) + (self.parts is not None)
        return split or any(tree.fractions is not None for tree in self.trees)


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
    slope = np.full((len(paths), len(neurons)), np.nan)
    slope[:, neurons] = slopes / 255.0
    sign, multiplier = np.zeros_like(slope), np.zeros_like(slope)
    leaf, neuron, side = splits_of(paths)
    sign[leaf, neuron], multiplier[leaf, neuron] = side, multipliers
    part = pruned(output, intervals)
    inside = intervals_of(part, intervals)
    planes = {} if fractions is None else planes_of(part, output, neurons, fractions, inside, contract)
    choices = {
        relu: Choice(
            slope[:, np.newaxis, numbers].reshape(-1, 1, *relu.shape),
            sign[:, numbers].reshape(-1, *relu.shape),
            multiplier[:, numbers].reshape(-1, *relu.shape),
            planes.get(relu),
        )
        for relu, numbers in neurons_of(part, output).items()
    }
    functionals = np.broadcast_to(functional, (len(paths), 1, *output.shape))
    found = lower_bounds(part.tensor, functionals, inside, contract, choices)[:, 0]
    return np.where(np.isfinite(found), found, np.nan)


def leaves_at_a_time(output: Tensor, fractions: int = 0) -> int:
    """How many leaves, with so many fractions each, to bound at a time: few enough for memory, at least one."""
    sizes = [math.prod(tensor.shape) for tensor in topological([output])]
    return max(1, WORKSPACE // (4 * max(*sizes, neuron_count(output), fractions)))


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
            lower = np.where(lower > 0, lower, parts.least(proof.parts, ~(lower > 0)))
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
    paths = leaf_paths(tree.nodes, len(proof.neurons), len(tree.multipliers))
    first, used, least = 0, 0, math.inf
    width = 0 if tree.fractions is None else fraction_count(output, proof.neurons)
    while part := list(islice(paths, leaves_at_a_time(output, width))):
        needed = sum(map(len, part))
        slopes, multipliers = tree.slopes[first : first + len(part)], tree.multipliers[used : used + needed]
        if slopes.shape != (len(part), int(proof.neurons.sum())):
            raise Rejected("it lacks slopes for some of its leaves")
        fractions = None if tree.fractions is None else tree.fractions[first : first + len(part)]
        if fractions is not None and fractions.shape != (len(part), width):
            raise Rejected("it lacks planes for some of its leaves")
        first, used = first + len(part), used + needed
        found = leaf_bounds(
            output,
            functional,
            intervals,
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
    return least
