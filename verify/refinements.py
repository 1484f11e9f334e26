"""Slopes that a proof chooses for the bounds of what single neurons read (alpha-CROWN for these)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verify.activations import activations, neuron_count
from verify.crown import Choose, Slopes
from verify.errors import Rejected
from verify.lines import Intervals
from verify.primitives import Tensor


@dataclass(frozen=True, eq=False)
class Refinement:
    """Slopes for the bounds of what single neurons read.

    neurons: which, in order, all of one activation. slopes: uint8, in 255ths, 2 x neurons x those neurons of the
    activations before it that have a slope; for the lower bounds and for the upper ones.
    """

    neurons: NDArray[np.int32]
    slopes: NDArray[np.uint8]


def refining(output: Tensor, neurons: NDArray[np.bool_], refinements: Sequence[Refinement]) -> Choose:
    """The slopes that the refinements choose; raises Rejected if they do not fit the network.

    neurons: of all neurons, those that have a slope.
    """
    numbers = activations(output)
    count = neuron_count(output)
    if len(neurons) != count:
        raise Rejected(f"it is about {len(neurons)} neurons; the network has {count}")
    found = {}
    for refinement in refinements:
        if (np.diff(refinement.neurons) <= 0).any():
            raise Rejected("the neurons that it refines are not in order")
        for activation, part in numbers.items():
            if ((refinement.neurons >= part.start) & (refinement.neurons < part.stop)).all():
                found[activation] = refinement, part.start
                break
        else:
            raise Rejected("it refines the bounds of neurons that do not exist, or that are of several layers together")

    def choose(activation: Tensor, intervals: Intervals) -> Slopes | None:
        if activation not in found:
            return None
        refinement, first = found[activation]
        below = {tensor: np.flatnonzero(neurons[numbers[tensor]]) for tensor in activations(activation.operands[0])}
        shape = 2, len(refinement.neurons), sum(map(len, below.values()))
        if refinement.slopes.shape != shape:
            raise Rejected("it lacks slopes for the bounds of some neurons")
        return Slopes(refinement.neurons.astype(np.intp) - first, below, refinement.slopes)

    return choose
