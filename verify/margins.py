"""Lower bounds of a classifier's margins: the label's logit minus each other logit, as the deployed network yields
them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from verify.bounds import bounds
from verify.errors import ModelProblem
from verify.intervals import Interval, LinearError, magnitude_of, midpoint
from verify.linear_maps import Dense
from verify.network import Network
from verify.primitives import Linear, Reshape, Softmax, Tensor
from verify.rounding import Array, Contract, down
from verify.softmax import strict_margin

Labels = NDArray[np.int64]


def classes(network: Network) -> int:
    """How many logits the network has; raises ModelProblem unless its output is one vector."""
    shape = network.output.shape
    count = int(np.prod(shape))
    if not shape or count != shape[-1] or count < 2:
        raise ModelProblem(f"the output has shape {shape}: a classifier yields one vector of two or more logits")
    return count


def margin_bounds(network: Network, box: Interval, labels: Labels, contract: Contract) -> Array:
    """For each lane and class j, a lower bound of y[label] - y[j] over the box, for the logits y; infinity for the
    label itself, NaN where nothing can be said. A positive bound proves that the output answers the label, not j.

    Where the network ends in a matrix product, the difference of two logits is bounded as one linear functional of the
    last features, which is never looser than the difference of the logits' bounds.
    """
    count = classes(network)
    decisive = last = logits_of(network)
    while isinstance(last.primitive, Reshape):
        (last,) = last.operands
    primitive = last.primitive
    if isinstance(primitive, Linear) and isinstance(primitive.map, Dense) and primitive.map.weight.shape[-1] == count:
        features, logits = bounds(network, box, contract, outputs=(*last.operands, decisive))
        flat = Interval(*(end.reshape(len(end), -1) for end in features))
        with np.errstate(all="ignore"):
            lower = _of_functionals(primitive, primitive.map.weight, flat, labels, contract)
    else:
        (logits,) = bounds(network, box, contract, outputs=[decisive])
        low, high = (end.reshape(-1, count) for end in logits)
        with np.errstate(all="ignore"):
            lower = down(low[np.arange(len(low)), labels, np.newaxis] - high)
    return of_the_answer(lower, network, labels, logits, contract)


def logits_of(network: Network) -> Tensor:
    """The tensor whose largest element is the answer: the operand of a final softmax, or else the output.

    A softmax keeps the order of its operands, strictly once they are far enough apart (`softmax.strict_margin`), while
    the differences of its values vanish; so margins are bounded before it.
    """
    last = network.output
    while isinstance(last.primitive, Reshape):
        (last,) = last.operands
    if isinstance(last.primitive, Softmax) and last.shape[-1] == classes(network):
        return last.operands[0]
    return network.output


def of_the_answer(lower: Array, network: Network, labels: Labels, logits: Interval, contract: Contract) -> Array:
    """Lower bounds of the margins of `logits_of(network)`, less what a final softmax needs to keep them strict."""
    if logits_of(network) is not network.output:
        reach = magnitude_of(logits).reshape(lower.shape).max(axis=1, keepdims=True)
        lower = down(lower - strict_margin(reach, lower.shape[1], contract))
    lower[np.arange(len(lower)), labels] = np.inf
    return lower


def _of_functionals(primitive: Linear, weight: Array, x: Interval, labels: Labels, contract: Contract) -> Array:
    """(w_t - w_j) x + b_t - b_j, less the rounding of both logits: the radius of each lane is

        |w_t - w_j| r + kappa (|w_t| M + |w_j| M + m_t + m_j) + 2 e

    with the notation of `intervals.linear`.
    """
    weight = weight.reshape(-1, weight.shape[-1])
    bias = np.broadcast_to(primitive.bias.reshape(-1), weight.shape[-1:])
    centre, radius, magnitude = midpoint(x)
    error = LinearError.of(primitive, magnitude, contract)
    sums = magnitude @ np.abs(weight) + primitive.magnitude.reshape(-1)
    lower = np.empty_like(sums)
    for label in np.unique(labels):
        lanes = labels == label
        difference = weight[:, [label]] - weight
        value = centre[lanes] @ difference + (bias[label] - bias)
        width = radius[lanes] @ np.abs(difference) + error.kappa * (sums[lanes][:, [label]] + sums[lanes])
        width = (width + 2.0 * error.absolute[lanes, np.newaxis]) * (1.0 + 4.0 * error.own)
        lower[lanes] = down(value - width)
    return lower
