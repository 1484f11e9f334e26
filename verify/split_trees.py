"""Proofs by linear bounds with chosen slopes, over trees of splits (alpha-CROWN and branch and bound).

A tree splits, at each inner node, the executions by the sign of the float32 number that one ReLU's neuron reads: at
least zero, or at most zero. It is a number in every execution (bounds that could hold of none are NaN, and prove
nothing), so that each execution belongs to one subtree at least; zero belongs to both, where the ReLU is either line.
By induction every execution belongs to some leaf, whichever input in the box and order of summation brought it about:
a functional with a positive lower bound in each leaf is positive. A leaf that no execution reaches is nothing special:
multipliers can prove whatever they like about it.

Slopes, multipliers and splits are the choice of whoever wrote the proof; the intervals of all neurons are computed here
anew, once for all trees, and each leaf takes one backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from verify.cones import intervals_of
from verify.crown import WORKSPACE, Choose, Slopes, crown_intervals
from verify.errors import Rejected
from verify.intervals import Interval
from verify.linear_bounds import Choice, lower_bounds, neuron_count, relus
from verify.lines import Intervals
from verify.network import Network
from verify.primitives import Tensor, topological
from verify.pruning import neurons_of, pruned
from verify.rounding import Array, Contract, down

LEAF = -1


@dataclass(frozen=True, eq=False)
class Tree:
    """Proves one functional positive.

    functional: which one. nodes: the tree in preorder, as int32: the neuron that is split, then the tree for at least
    zero, then the tree for at most zero; or LEAF. slopes: leaves x neurons with a slope, uint8, in 255ths. multipliers:
    float32, leaf by leaf, for the splits on its path from the root down.
    """

    functional: int
    nodes: NDArray[np.int32]
    slopes: NDArray[np.uint8]
    multipliers: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Refinement:
    """Slopes for the bounds of what single neurons read.

    neurons: which, in order, all of one ReLU. slopes: uint8, in 255ths, 2 x neurons x those neurons of the ReLUs before
    it that have a slope; for the lower bounds and for the upper ones.
    """

    neurons: NDArray[np.int32]
    slopes: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class SplitProof:
    """Trees for those functionals that CROWN does not prove positive, over bounds of the neurons that are refined.

    neurons: of all neurons of all ReLUs, numbered as `relus` numbers them, those that have a slope; CROWN decides about
    the others.
    """

    neurons: NDArray[np.bool_]
    refinements: tuple[Refinement, ...]
    trees: tuple[Tree, ...]


Path = list[tuple[int, int]]
"""The splits from the root to a leaf: neuron, and 1 for at least zero or -1 for at most zero."""


def leaf_paths(nodes: NDArray[np.int32], splits: int) -> Iterator[Path]:
    """The path to each leaf, in order; raises Rejected, at the end at the latest, unless `nodes` is exactly one tree
    whose paths have that many splits together.

    Every inner node is followed by two whole subtrees, so that the leaves cover all executions.
    """
    path: Path = []
    complete = False
    unused = splits
    for node in nodes.tolist():
        if complete:
            raise Rejected("one of its trees goes on behind its last leaf")
        if node != LEAF:
            path.append((node, 1))
            continue
        unused -= len(path)
        if unused < 0:
            break
        yield path.copy()
        while path and path[-1][1] < 0:
            path.pop()
        if path:
            path[-1] = (path[-1][0], -1)
        else:
            complete = True
    if not complete:
        raise Rejected("one of its trees does not cover the box, or lacks multipliers")
    if unused:
        raise Rejected("one of its trees has multipliers for more splits than it has")


def splits_of(paths: Sequence[Path]) -> NDArray[np.intp]:
    """The splits of all paths, one path after the other, in three rows: the number of the path, neuron and side."""
    pairs = np.array([split for path in paths for split in path], np.intp).reshape(-1, 2)
    return np.stack([np.repeat(np.arange(len(paths)), [len(path) for path in paths]), *pairs.T])


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
    choices = {
        relu: Choice(
            slope[:, np.newaxis, numbers].reshape(-1, 1, *relu.shape),
            *(values[:, numbers].reshape(-1, *relu.shape) for values in (sign, multiplier)),
        )
        for relu, numbers in neurons_of(part, output).items()
    }
    functionals = np.broadcast_to(functional, (len(paths), 1, *output.shape))
    found = lower_bounds(part.tensor, functionals, intervals_of(part, intervals), contract, choices)[:, 0]
    return np.where(np.isfinite(found), found, np.nan)


def leaves_at_a_time(output: Tensor) -> int:
    """How many leaves to bound at a time: few enough for memory, at least one."""
    sizes = [math.prod(tensor.shape) for tensor in topological([output])]
    return max(1, WORKSPACE // (4 * max(*sizes, neuron_count(output))))


def split_bounds(
    network: Network, box: Interval, functionals: Array, constants: Array, contract: Contract, proof: SplitProof
) -> Array:
    """For each functional of the output, with its constant, a lower bound over the box, as far as the proof needs it to
    be established; NaN where nothing can be said.

    box: in one lane. functionals: functionals x the output's shape. Raises Rejected for a proof that does not fit.
    """
    with np.errstate(all="ignore"):
        intervals = crown_intervals(network, box, contract, choose=_refining(network.output, proof))
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
    return lower


def columns(output: Tensor, tensor: Tensor, neurons: NDArray[np.bool_]) -> dict[Tensor, NDArray[np.intp]]:
    """Of the neurons of the output that are true, those that the tensor depends on, numbered within their ReLUs."""
    numbers = relus(output)
    return {relu: np.flatnonzero(neurons[numbers[relu]]) for relu in relus(tensor)}


def _refining(output: Tensor, proof: SplitProof) -> Choose:
    """The slopes that a proof chooses; raises Rejected if they do not fit the network."""
    numbers = relus(output)
    count = neuron_count(output)
    if len(proof.neurons) != count:
        raise Rejected(f"it is about {len(proof.neurons)} neurons; the network has {count}")
    found = {}
    for refinement in proof.refinements:
        if (np.diff(refinement.neurons) <= 0).any():
            raise Rejected("the neurons that it refines are not in order")
        for relu, part in numbers.items():
            if ((refinement.neurons >= part.start) & (refinement.neurons < part.stop)).all():
                found[relu] = refinement, part.start
                break
        else:
            raise Rejected("it refines the bounds of neurons that do not exist, or that are of several ReLUs together")

    def choose(relu: Tensor, intervals: Intervals) -> Slopes | None:
        if relu not in found:
            return None
        refinement, first = found[relu]
        below = columns(output, relu.operands[0], proof.neurons)
        shape = 2, len(refinement.neurons), sum(map(len, below.values()))
        if refinement.slopes.shape != shape:
            raise Rejected("it lacks slopes for the bounds of some neurons")
        return Slopes(refinement.neurons.astype(np.intp) - first, below, refinement.slopes)

    return choose


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
    if ((tree.nodes < LEAF) | (tree.nodes >= len(proof.neurons))).any():
        raise Rejected("it splits a neuron that does not exist")
    paths, first, used, least = leaf_paths(tree.nodes, len(tree.multipliers)), 0, 0, math.inf
    while part := list(islice(paths, leaves_at_a_time(output))):
        needed = sum(map(len, part))
        slopes, multipliers = tree.slopes[first : first + len(part)], tree.multipliers[used : used + needed]
        if slopes.shape != (len(part), int(proof.neurons.sum())):
            raise Rejected("it lacks slopes for some of its leaves")
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
        )
        lowest = float(down(found + constant).min())  # NaN if any of them is
        if not lowest > 0:
            return lowest
        least = min(least, lowest)
    return least
