"""Planes above ReLUs, over the box of what their dense layer reads.

For y = relu(w h + b) and h in a box, the plane c h + d lies above y wherever

    d  >=  max over the box of -c h     and     d  >=  b + max over the box of (w - c) h

for y - c h is the larger of these two linear functions. A maximum over a box is a sum over single inputs, so that any c
may be chosen. Those with each c_i between 0 and w_i hold all facets of the convex hull of h and y (arXiv 2006.14076);
the line that CROWN draws above what the ReLU reads is the one whose c_i are the same fraction u / (u - l) of each w_i.
Deployed, a ReLU reads w h + b + e, and y is off by |e| at most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from verify.bounds.activations import relus
from verify.bounds.cones import Part
from verify.bounds.pruning import is_dense
from verify.bounds.relaxations import relaxation
from verify.bounds.steps import Planes
from verify.core.intervals import Interval, magnitude_of
from verify.core.linear_maps import Dense
from verify.core.primitives import LeakyRelu, Linear, Tensor
from verify.core.rounding import FLOAT64_UNIT, OWN_UNDERFLOW, Array, Contract, kappa


class Sheaf(NamedTuple):
    """The planes above one ReLU. rows: of its neurons, those that have one. inputs: how many numbers the dense layer
    reads. where: of all fractions of weights side by side, those of its planes, neuron by neuron."""

    rows: NDArray[np.intp]
    inputs: int
    where: slice


def sheaves(output: Tensor, neurons: NDArray[np.bool_]) -> dict[Tensor, Sheaf]:
    """By the ReLU, where the neurons that have a slope may have planes as well.

    neurons: of all neurons, as `activations` numbers them.
    """
    found, first = {}, 0
    for relu, numbers in relus(output).items():
        if reads_dense_layer(relu):
            rows = np.flatnonzero(neurons[numbers])
            inputs = math.prod(what_is_read(relu).shape)
            found[relu] = Sheaf(rows, inputs, slice(first, first := first + len(rows) * inputs))
    return found


def fraction_count(output: Tensor, neurons: NDArray[np.bool_]) -> int:
    """How many fractions of weights the planes have together."""
    return sum(len(sheaf.rows) * sheaf.inputs for sheaf in sheaves(output, neurons).values())


def reads_dense_layer(relu: Tensor) -> bool:
    """Whether it is a plain ReLU of a dense layer's answer to a single vector."""
    primitive = relu.primitive
    return isinstance(primitive, LeakyRelu) and primitive.slope == 0 and is_dense(relu.operands[0])


def what_is_read(relu: Tensor) -> Tensor:
    """By the dense layer in front of it."""
    return relu.operands[0].operands[0]


def planes_of(
    part: Part,
    output: Tensor,
    neurons: NDArray[np.bool_],
    fractions: NDArray[np.uint8],
    intervals: Mapping[Tensor, Interval],
    contract: Contract,
) -> dict[Tensor, Planes]:
    """By the ReLU of a part of the network with that output, the chosen planes above those of its neurons that the part
    has.

    fractions: in 255ths, lanes x the weights that `sheaves` tells. intervals: of the part, in one lane.
    """
    whole = sheaves(output, neurons)
    found = {}
    for relu in relus(part.tensor):
        source, kept = part.parts[relu]
        if source not in whole or not reads_dense_layer(relu):
            continue
        rows, inputs, where = whole[source]
        places, read = _numbers(source, kept), _numbers(what_is_read(source), part.parts[what_is_read(relu)][1])
        live = np.isin(rows, places)
        if live.any():
            chosen = fractions[:, where].reshape(len(fractions), len(rows), inputs)[:, live][:, :, read] / 255.0
            found[relu] = planes_above(relu, np.searchsorted(places, rows[live]), chosen, intervals, contract)
    return found


def fractions_of_whole(
    part: Part, output: Tensor, neurons: NDArray[np.bool_], inside: NDArray[np.bool_], fractions: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Fractions that were chosen for a part of the network, as such for the whole: none of the weights of what the part
    leaves out, which is zero.

    neurons, inside: those that have a slope, of the whole and of the part.
    """
    pieces = sheaves(part.tensor, inside)
    result = np.zeros((len(fractions), fraction_count(output, neurons)), np.uint8)
    wholes = sheaves(output, neurons)
    for relu, (rows, inputs, where) in pieces.items():
        source, kept = part.parts[relu]
        whole = wholes[source]
        own = np.searchsorted(whole.rows, _numbers(source, kept)[rows])
        read = _numbers(what_is_read(source), part.parts[what_is_read(relu)][1])
        block = np.zeros((len(result), len(whole.rows), whole.inputs), np.uint8)
        block[:, own[:, np.newaxis], read] = fractions[:, where].reshape(len(result), len(rows), inputs)
        result[:, whole.where] = block.reshape(len(result), -1)
    return result


def planes_above(
    relu: Tensor, rows: NDArray[np.intp], fractions: Array, intervals: Mapping[Tensor, Interval], contract: Contract
) -> Planes:
    """The planes above some neurons of a ReLU that have these fractions of the weights; lanes x rows x inputs.

    intervals: in one lane, of what the dense layer reads and of its result at least.
    """
    (operand,) = relu.operands
    read = what_is_read(relu)
    primitive = operand.primitive
    assert isinstance(primitive, Linear)
    assert isinstance(primitive.map, Dense)
    weight = primitive.map.weight.T[rows]
    bias = np.broadcast_to(primitive.bias, operand.shape).reshape(-1)[rows]
    lower, upper = (end.reshape(-1) for end in intervals[read])
    # With its fraction of a weight a plane has the weight's sign, and so has what remains of it.
    least, most = (weight * np.where(weight >= 0, *ends) for ends in ((lower, upper), (upper, lower)))
    first, second = -np.einsum("lri,ri->lr", fractions, least), bias + np.einsum("lri,ri->lr", 1.0 - fractions, most)
    # What is left to be charged, per unit of a functional's coefficient: the deployed error, which the charge of the
    # dense layer has; and roundings of the sums above, of the slopes' in a functional and of the offsets' in its bound.
    charge = relaxation(operand, intervals, contract).charge.reshape(-1)[rows]
    sizes = np.abs(weight) @ magnitude_of(intervals[read]).reshape(-1) + np.abs(bias)
    roundings = kappa(2 * (len(lower) + math.prod(relu.shape)) + 64, FLOAT64_UNIT)
    slack = (charge + 4.0 * roundings * sizes) * (1.0 + 2.0**-20) + OWN_UNDERFLOW
    return Planes(rows, fractions * weight, np.maximum(first, second) + slack)


def _numbers(tensor: Tensor, where: tuple[slice | NDArray[np.intp], ...]) -> NDArray[np.intp]:
    """Of some elements of a tensor, in order."""
    return np.asarray(np.arange(math.prod(tensor.shape)).reshape(tensor.shape)[where]).reshape(-1)
