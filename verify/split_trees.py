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

from verify.crown import WORKSPACE, crown_intervals, margin_functionals
from verify.errors import Rejected
from verify.intervals import Interval
from verify.linear_bounds import Choice, Choices, Intervals, lower_bounds
from verify.network import Network
from verify.primitives import LeakyRelu, Tensor, topological
from verify.rounding import Array, Contract

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
class SplitProof:
    """Trees for those functionals that CROWN does not prove positive.

    neurons: of all neurons of all ReLUs, numbered as `relus` orders them, those that have a slope; CROWN decides about
    the others.
    """

    neurons: NDArray[np.bool_]
    trees: tuple[Tree, ...]


Path = list[tuple[int, int]]
"""The splits from the root to a leaf: neuron, and 1 for at least zero or -1 for at most zero."""


def relus(output: Tensor) -> list[Tensor]:
    """The ReLUs, leaky ones included, that the output depends on and whose linear bounds leave a choice, from the input
    on."""
    return [
        tensor
        for tensor in topological([output])
        if isinstance(tensor.primitive, LeakyRelu) and 0 <= tensor.primitive.slope <= 1
    ]


def neuron_count(output: Tensor) -> int:
    """How many neurons those have together."""
    return sum(math.prod(tensor.shape) for tensor in relus(output))


def leaf_paths(nodes: NDArray[np.int32]) -> Iterator[Path]:
    """The path to each leaf, in order; raises Rejected at the end unless `nodes` is exactly one tree.

    Every inner node is followed by two whole subtrees, so that the leaves cover all executions.
    """
    path: Path = []
    complete = False
    for node in nodes.tolist():
        if complete:
            raise Rejected("one of its trees goes on behind its last leaf")
        if node != LEAF:
            path.append((node, 1))
            continue
        yield path.copy()
        while path and path[-1][1] < 0:
            path.pop()
        if path:
            path[-1] = (path[-1][0], -1)
        else:
            complete = True
    if not complete:
        raise Rejected("one of its trees does not cover the box")


def choices_at(
    output: Tensor, neurons: NDArray[np.bool_], slopes: NDArray[np.uint8], paths: Sequence[Path], multipliers: Array
) -> Choices:
    """What each leaf chooses. slopes: leaves x neurons with a slope. multipliers: leaf by leaf, along its path."""
    slope = np.full((len(paths), len(neurons)), np.nan)
    slope[:, neurons] = slopes / 255.0
    sign, multiplier = np.zeros_like(slope), np.zeros_like(slope)
    start = 0
    for leaf, path in enumerate(paths):
        for (neuron, side), beta in zip(path, multipliers[start : start + len(path)].tolist(), strict=True):
            sign[leaf, neuron], multiplier[leaf, neuron] = side, beta
        start += len(path)
    choices, first = {}, 0
    for tensor in relus(output):
        part = slice(first, first := first + math.prod(tensor.shape))
        choices[tensor] = Choice(
            slope[:, np.newaxis, part].reshape(-1, 1, *tensor.shape),
            *(values[:, part].reshape(-1, *tensor.shape) for values in (sign, multiplier)),
        )
    return choices


def leaves_at_a_time(output: Tensor) -> int:
    """How many leaves to bound at a time: few enough for memory, at least one."""
    sizes = [math.prod(tensor.shape) for tensor in topological([output])]
    return max(1, WORKSPACE // (4 * max(*sizes, neuron_count(output))))


def least_bound(
    output: Tensor, functional: Array, intervals: Intervals, contract: Contract, proof: SplitProof, tree: Tree
) -> float:
    """The lower bound of the functional (of the output's shape) over all leaves of a tree, or over as many as it takes
    to find one that is not positive; raises Rejected if the proof does not fit the network or is malformed."""
    count = neuron_count(output)
    if len(proof.neurons) != count:
        raise Rejected(f"it is about {len(proof.neurons)} neurons; the network has {count}")
    if ((tree.nodes < LEAF) | (tree.nodes >= count)).any():
        raise Rejected("it splits a neuron that does not exist")
    paths, first, used, least = leaf_paths(tree.nodes), 0, 0, math.inf
    while part := list(islice(paths, leaves_at_a_time(output))):
        needed = sum(map(len, part))
        slopes, multipliers = tree.slopes[first : first + len(part)], tree.multipliers[used : used + needed]
        if len(slopes) != len(part) or len(multipliers) != needed:
            raise Rejected("it lacks slopes or multipliers for some of its leaves")
        first, used = first + len(part), used + needed
        choices = choices_at(output, proof.neurons, slopes, part, multipliers.astype(np.float64))
        functionals = np.broadcast_to(functional, (len(part), 1, *output.shape))
        bounds = lower_bounds(output, functionals, intervals, contract, choices)
        least = min(least, float(bounds.min())) if np.isfinite(bounds).all() else math.nan
        if not least > 0:
            break
    return least


def split_margins(network: Network, box: Interval, label: int, contract: Contract, proof: SplitProof) -> Array:
    """For the box's only lane and each class j, a lower bound of y[label] - y[j], as far as the proof needs it to be
    established; infinity for the label itself, NaN where nothing can be said. Raises Rejected for a proof that does not
    fit the network."""
    output = network.output
    functionals = margin_functionals(network, np.array([label]))
    with np.errstate(all="ignore"):
        intervals = crown_intervals(network, box, contract)
        (lower,) = lower_bounds(output, functionals, intervals, contract)
        lower[label] = np.inf
        for tree in proof.trees:
            if not 0 <= tree.functional < len(lower):
                raise Rejected("one of its trees is about a functional that does not exist")
            if not lower[tree.functional] > 0:
                functional = functionals[0, tree.functional]
                lower[tree.functional] = least_bound(output, functional, intervals, contract, proof, tree)
    return np.asarray(lower[np.newaxis])
