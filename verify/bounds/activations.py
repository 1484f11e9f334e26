"""Activations about whose linear bounds a proof may choose, and which it may split: ReLUs and smooth functions."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from verify.core.functions import Function
from verify.core.primitives import LeakyRelu, Tensor, topological


def activations(output: Tensor) -> dict[Tensor, slice]:
    """Those that the output depends on, from the input on: ReLUs, leaky ones included, and smooth functions; with the
    numbers of their neurons, all of which are numbered one after the other."""
    found, first = {}, 0
    for tensor in topological([output]):
        if is_relu(tensor) or isinstance(tensor.primitive, Function):
            found[tensor] = slice(first, first := first + math.prod(tensor.shape))
    return found


def relus(output: Tensor) -> dict[Tensor, slice]:
    """The ReLUs among these, with the same numbers."""
    return {tensor: numbers for tensor, numbers in activations(output).items() if is_relu(tensor)}


def neuron_count(output: Tensor) -> int:
    """How many neurons those have together."""
    return sum(math.prod(tensor.shape) for tensor in activations(output))


def smooth(output: Tensor) -> NDArray[np.bool_]:
    """Which of the neurons are of smooth functions."""
    found = np.ones(neuron_count(output), np.bool_)
    for numbers in relus(output).values():
        found[numbers] = False
    return found


def is_relu(tensor: Tensor) -> bool:
    """Whether its line below may have any slope between its own and 1."""
    return isinstance(tensor.primitive, LeakyRelu) and 0 <= tensor.primitive.slope <= 1
