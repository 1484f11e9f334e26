"""Bounds of a network's values over boxes of inputs, and its values at points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np

from verify.interpreter import evaluate
from verify.intervals import Interval, interval_rules
from verify.network import Network
from verify.primitives import Input, Primitive, Tensor
from verify.rounding import Array, Contract

_POINT_RULES = {kind: kind.apply for kind in get_args(Primitive) if kind is not Input}


def values(network: Network, x: Array, outputs: Sequence[Tensor] | None = None) -> list[Array]:
    """What the network computes, over the real numbers, in float64 (so: nearly).

    x: lanes x the shape of the network's only input. Returns each output, lanes x its shape.
    """
    with np.errstate(all="ignore"):
        return evaluate(outputs or network.outputs, _POINT_RULES, {network.input: x})


def bounds(
    network: Network, box: Interval, contract: Contract, outputs: Sequence[Tensor] | None = None
) -> list[Interval]:
    """Intervals that contain every value of each output, for every input in the box and every execution that the
    contract allows; NaN where nothing can be said.

    box: lanes x the shape of the network's only input, its ends numbers of the deployed format.
    """
    with np.errstate(all="ignore"):
        return evaluate(outputs or network.outputs, interval_rules(contract), {network.input: box})
