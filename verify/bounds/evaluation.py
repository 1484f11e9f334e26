"""Bounds of a network's values over boxes of inputs, and its values at points."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from verify.core.interpreter import evaluate
from verify.core.intervals import Interval, interval_rules
from verify.core.primitives import POINT_RULES, Tensor, topological, uses
from verify.core.rounding import Array, Contract
from verify.model.network import Network

_MEMORY = 128 * 2**20
"""Bytes that the values of the lanes at work may take, unless those of a single one take more."""


def values(network: Network, x: Array, outputs: Sequence[Tensor] | None = None) -> list[Array]:
    """What the network computes, over the real numbers, in float64 (so: nearly).

    x: lanes x the shape of the network's only input. Returns each output, lanes x its shape.
    """
    outputs, step = outputs or network.outputs, lanes_at_a_time(network)
    with np.errstate(all="ignore"):
        parts = [
            evaluate(outputs, POINT_RULES, {network.input: x[start : start + step]}) for start in range(0, len(x), step)
        ]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def bounds(
    network: Network, box: Interval, contract: Contract, outputs: Sequence[Tensor] | None = None
) -> list[Interval]:
    """Intervals that contain every value of each output, for every input in the box and every execution that the
    contract allows; NaN where nothing can be said.

    box: lanes x the shape of the network's only input, its ends numbers of the deployed format.
    """
    outputs, step, rules = outputs or network.outputs, lanes_at_a_time(network), interval_rules(contract)
    with np.errstate(all="ignore"):
        parts = [
            evaluate(outputs, rules, {network.input: Interval(*(end[start : start + step] for end in box))})
            for start in range(0, len(box.lower), step)
        ]
    return [
        Interval(np.concatenate([x.lower for x in part]), np.concatenate([x.upper for x in part]))
        for part in zip(*parts, strict=True)
    ]


def lanes_at_a_time(network: Network) -> int:
    """How many lanes to bound at a time: few enough for memory and caches, at least one.

    Counts two float64 numbers per value that is alive, and eight per element of the operation in progress.
    """
    waiting = uses(network.outputs)
    alive = peak = 0
    for tensor in topological(network.outputs):
        size = math.prod(tensor.shape)
        alive += 2 * size
        peak = max(peak, alive + 8 * max(size, *(math.prod(x.shape) for x in tensor.operands), 1))
        for operand in tensor.operands:
            waiting[operand] -= 1
            if not waiting[operand]:
                alive -= 2 * math.prod(operand.shape)
    return int(np.clip(_MEMORY // (8 * peak), 1, 1024))
