"""Lower bounds by intervals of a classifier's margins, the label's logit minus each other logit, and of any other
functionals of the output, as the deployed network yields them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from verify.bounds.evaluation import bounds
from verify.bounds.linear_bounds import lower_bounds
from verify.core.intervals import Interval, LinearError, magnitude_of, midpoint, per_lane
from verify.core.linear_maps import Dense, Diagonal
from verify.core.primitives import Clip, Linear, Primitive, Reshape, Round, Softmax, Tensor
from verify.core.rounding import Array, Contract, down
from verify.core.softmax import strict_margin
from verify.errors import ModelProblem
from verify.model.network import Network

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
    label itself, NaN where nothing can be said. If all are positive, the network answers the label; behind a softmax a
    single one says nothing about its two outputs, which may tie at zero.

    Where the network ends in a matrix product, the difference of two logits is bounded as one linear functional of the
    last features, which is never looser than the difference of the logits' bounds; and then through what is done to
    each logit alike, as quantisation does.
    """
    count = classes(network)
    decisive = logits_of(network)
    product, tail = last_product(decisive, count)
    if product is None:
        (logits,) = map(_flat, bounds(network, box, contract, outputs=[decisive]))
        with np.errstate(all="ignore"):
            lower = _difference(logits, labels)
    else:
        before = [tensor.operands[0] for tensor in tail]
        found = bounds(network, box, contract, outputs=[*product.operands, *before, decisive])
        features, *between, logits = map(_flat, found)
        with np.errstate(all="ignore"):
            lower = _of_functionals(product, features, labels, contract)
            for tensor, values in zip(tail, between, strict=True):
                lower = _MARGIN_RULES[type(tensor.primitive)](tensor.primitive, lower, values, labels, contract)
            if tail:
                lower = np.fmax(lower, _difference(logits, labels))
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


def functional_bounds(network: Network, box: Interval, functionals: Array, contract: Contract) -> Array:
    """For each lane and functional of the output (lanes x functionals x the output's shape), a lower bound over the
    box; NaN where nothing can be said.

    The functional passes backwards through the linear operations that the network ends in, and meets intervals there.
    """
    path = [network.output]
    while isinstance(path[-1].primitive, Reshape | Linear):
        path.append(path[-1].operands[0])
    intervals = dict(zip(path, bounds(network, box, contract, outputs=path), strict=True))
    with np.errstate(all="ignore"):
        return lower_bounds(network.output, functionals, intervals, contract, stop=path[-1])


def last_product(output: Tensor, count: int) -> tuple[Tensor | None, list[Tensor]]:
    """The matrix product that the network ends in, if there is one, and what is done to each of its results alike after
    it, in order."""
    tail: list[Tensor] = []
    last = output
    while isinstance(last.primitive, Reshape | Clip | Round) or _is_diagonal(last.primitive):
        tail.insert(0, last)
        (last,) = last.operands
    product = last.primitive
    if not (isinstance(product, Linear) and isinstance(product.map, Dense) and product.map.weight.shape[-1] == count):
        return None, []
    tail = [tensor for tensor in tail if not isinstance(tensor.primitive, Reshape)]
    while tail and isinstance(scale := tail[0].primitive, Linear):  # which may differ from one logit to another
        product, tail = product.then(scale), tail[1:]
    if any(isinstance(tensor.primitive, Linear) and not _is_the_same_for_all(tensor.primitive) for tensor in tail):
        return None, []
    return replace(last, primitive=product), tail


def _is_diagonal(primitive: Primitive) -> bool:
    return isinstance(primitive, Linear) and isinstance(primitive.map, Diagonal)


def _is_the_same_for_all(primitive: Linear) -> bool:
    """Whether an elementwise map does the same to every logit, and keeps their order."""
    assert isinstance(primitive.map, Diagonal)
    scale = primitive.map.scale
    return scale.size == primitive.bias.size == primitive.magnitude.size == 1 and scale.item() > 0


def _flat(x: Interval) -> Interval:
    """Lanes x elements."""
    return Interval(*(end.reshape(len(end), -1) for end in x))


def _difference(logits: Interval, labels: Labels) -> Array:
    """Of the label's lower bound and every upper bound."""
    low, high = logits
    return down(low[np.arange(len(low)), labels, np.newaxis] - high)


def _of_clipped(primitive: Clip, margin: Array, logits: Interval, labels: Labels, contract: Contract) -> Array:
    """clip(a) - clip(b) is a - b, unless a is clipped from above, or b from below."""
    low, high = logits
    room_above, room_below = down(primitive.upper - high), down(low - primitive.lower)
    room = np.minimum(room_above, room_below[np.arange(len(low)), labels, np.newaxis])
    return np.minimum(np.minimum(margin, room), primitive.upper - primitive.lower)


def _of_rounded(primitive: Round, margin: Array, logits: Interval, labels: Labels, contract: Contract) -> Array:
    """Rounding takes at most one half from either side, and leaves an integer."""
    return np.ceil(down(margin - 1.0))


def _of_scaled(primitive: Linear, margin: Array, logits: Interval, labels: Labels, contract: Contract) -> Array:
    """s (a - b), less the rounding of both."""
    assert isinstance(primitive.map, Diagonal)
    scale = primitive.map.scale.item()
    if primitive.roundings == 0 and scale == 1:
        return margin
    magnitude = magnitude_of(logits)
    error = LinearError.of(primitive, magnitude, contract)
    width = error.widened(per_lane(error.kappa, magnitude) * (scale * magnitude + primitive.magnitude.item()))
    lost = width + width[np.arange(len(width)), labels, np.newaxis]
    return down(scale * margin - lost * (1.0 + 4.0 * error.own))


_MARGIN_RULES: Mapping[type, Callable[..., Array]] = {Clip: _of_clipped, Round: _of_rounded, Linear: _of_scaled}
"""How a lower bound of the label's margins (lanes x classes) passes an operation on each logit, whose bounds before it
are known."""


def _of_functionals(product: Tensor, x: Interval, labels: Labels, contract: Contract) -> Array:
    """(w_t - w_j) x + b_t - b_j, less the rounding of both logits: the radius of each lane is

        |w_t - w_j| r + kappa (|w_t| M + |w_j| M + m_t + m_j) + 2 e

    with the notation of `intervals.linear`.
    """
    primitive = product.primitive
    assert isinstance(primitive, Linear)
    assert isinstance(primitive.map, Dense)
    weight = primitive.map.weight.reshape(-1, primitive.map.weight.shape[-1])
    bias = np.broadcast_to(primitive.bias.reshape(-1), weight.shape[-1:])
    centre, radius, magnitude = midpoint(x)
    error = LinearError.of(primitive, magnitude, contract)
    sums = magnitude @ np.abs(weight) + primitive.magnitude.reshape(-1)
    lower = np.empty_like(sums)
    for label in np.unique(labels):
        lanes = labels == label
        difference = weight[:, [label]] - weight
        value = centre[lanes] @ difference + (bias[label] - bias)
        both = sums[lanes][:, [label]] + sums[lanes]
        width = radius[lanes] @ np.abs(difference) + error.kappa[lanes, np.newaxis] * both
        width = (width + 2.0 * error.absolute[lanes, np.newaxis]) * (1.0 + 4.0 * error.own)
        lower[lanes] = down(value - width)
    return lower
