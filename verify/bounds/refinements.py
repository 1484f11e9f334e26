"""Slopes that a proof chooses for the bounds of what single neurons read (alpha-CROWN for these)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verify.bounds.activations import activations, neuron_count
from verify.bounds.cones import Cone, Part
from verify.bounds.lines import Intervals
from verify.bounds.steps import Choice, Choices
from verify.core.functions import Function
from verify.core.primitives import LeakyRelu, Tensor
from verify.core.rounding import Array
from verify.errors import Rejected


@dataclass(frozen=True, eq=False)
class Slopes:
    """Chosen slopes for the bounds of single elements of a tensor.

    elements: which. below: for each activation in front of them, the numbers of its neurons that have slopes. slopes:
    in 255ths, 2 x elements x neurons, those of the lower bounds first, the activations one after the other.
    """

    elements: NDArray[np.intp]
    below: Mapping[Tensor, NDArray[np.intp]]
    slopes: NDArray[np.uint8]

    def choices(self, part: Part, elements: NDArray[np.intp], signs: Array) -> Choices:
        """For the lower bounds of some of the elements times 1 or -1, lanes x elements, by a part of the network."""
        row = np.minimum(np.searchsorted(self.elements, elements), len(self.elements) - 1)[..., np.newaxis]
        side = np.where(signs > 0, 0, 1)[..., np.newaxis]
        chosen, first = {}, 0
        columns = {}
        for tensor, neurons in self.below.items():
            if len(neurons):  # CROWN decides about the others
                columns[tensor] = np.full((1, *tensor.shape), -1)
                columns[tensor].reshape(-1)[neurons] = np.arange(first, first := first + len(neurons))
        for piece, (source, _) in part.parts.items():
            if source in columns and isinstance(piece.primitive, LeakyRelu | Function):
                column = part.cut(piece, columns[source]).reshape(-1, 1, math.prod(piece.shape))
                slope = np.where(column < 0, np.nan, self.slopes[side, row, column] / 255.0)
                chosen[piece] = Choice(slope.reshape(len(row), -1, *piece.shape))
        return chosen

    def inside(self, part: Cone, activation: Tensor) -> Slopes:
        """The same about a part of the network, for what an activation of it reads."""
        place = {source: _places(part, piece) for piece, (source, _) in part.parts.items()}
        rows, elements = _kept(self.elements, place[part.parts[activation.operands[0]][0]])
        columns, below = [np.zeros(0, np.bool_)], {}
        piece_of = {source: piece for piece, (source, _) in part.parts.items()}
        for source, neurons in self.below.items():
            column, below[piece_of[source]] = _kept(neurons, place[source])
            columns.append(column)
        return Slopes(elements, below, self.slopes[:, rows][:, :, np.concatenate(columns)])


def _places(part: Cone, piece: Tensor) -> NDArray[np.intp]:
    """The numbers, in order, that the elements of a piece have in its tensor."""
    source, where = part.parts[piece]
    return np.arange(math.prod(source.shape)).reshape(source.shape)[where].reshape(-1)


def _kept(numbers: NDArray[np.intp], places: NDArray[np.intp]) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Which of the numbers are among the places, and at which."""
    kept = np.isin(numbers, places)
    return kept, np.searchsorted(places, numbers[kept])


Choose = Callable[[Tensor, Intervals], Slopes | None]
"""Chooses slopes for what an activation reads, given the intervals of all that comes before; None leaves them to
CROWN."""


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
