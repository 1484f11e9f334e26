"""Bounds of what single neurons read that assume a counterexample (as INVPROP does, arXiv 2302.01404).

To prove f y + c > 0 over a box, look at the executions in which f y + c <= 0: there should be none. In each of these

    z  >=  z + w (f y + c)        for any w >= 0,

and the right side is a functional of a neuron's deployed z and of the deployed output y together, with lower bounds
like any other (`verify.bounds.linear_bounds`). So are upper bounds of z found, as lower bounds of -z. Bounds of y that
rest on such bounds hold for all counterexamples; where they say f y + c > 0, or bounds contradict each other, there is
none. The same goes for the executions of one node of a tree of splits (`verify.proofs.paths`), whose signs have
multipliers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.bounds.activations import activations
from verify.bounds.cones import intervals_of
from verify.bounds.linear_bounds import lower_bounds
from verify.bounds.lines import Intervals
from verify.bounds.pruning import neurons_of, pruned
from verify.core.intervals import Interval, interval_rules, magnitude_of
from verify.core.primitives import Tensor
from verify.core.rounding import FLOAT64_UNIT, OWN_UNDERFLOW, Array, Contract, down, kappa
from verify.errors import Rejected
from verify.proofs.choices import choices_of, leaves_at_a_time
from verify.proofs.paths import Path


@dataclass(frozen=True, eq=False)
class Assumption:
    """Bounds of what some neurons read in the counterexamples at a node of a tree.

    leaf, depth: the node is on the path to this leaf, of those in order, behind so many splits. neurons: which, in
    order, all of one activation. The others are for the lower bounds of all, then for the upper ones, and those of
    `Tree`. weights: of the functional, float32, 2 x neurons. slopes: uint8, in 255ths, 2 x neurons x neurons with a
    slope. multipliers: of the splits before the node, float32, 2 x neurons x depth.
    """

    leaf: int
    depth: int
    neurons: NDArray[np.int32]
    weights: NDArray[np.float32]
    slopes: NDArray[np.uint8]
    multipliers: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        """Of its arrays."""
        return sum(each.nbytes for each in (self.neurons, self.weights, self.slopes, self.multipliers))


def assumed(
    output: Tensor,
    functional: Array,
    constant: float,
    intervals: Intervals,
    contract: Contract,
    *,
    neurons: NDArray[np.bool_],
    path: Path,
    assumption: Assumption,
) -> dict[Tensor, Interval] | None:
    """Intervals that hold in the counterexamples along a path, to that the functional of the output plus the constant
    is positive; given others that do, in one lane. None where there is no counterexample.

    neurons: those that have a slope. Raises Rejected for an assumption that does not fit.
    """
    activation, elements = _read(output, assumption, int(neurons.sum()), len(path))
    numbers = activations(output)[activation].start + elements
    part = pruned(output, intervals)
    inside = intervals_of(part, intervals)
    piece = next(piece for piece, (source, _) in part.parts.items() if source is activation)
    places = neurons_of(part, output)[piece]
    kept = np.flatnonzero(np.isin(numbers, places))
    elements, place = elements[kept], np.searchsorted(places, numbers[kept])
    (operand,), (source,) = piece.operands, activation.operands
    found = np.full((2, len(kept)), np.nan)
    step = leaves_at_a_time(output)
    for end, sign in enumerate((1.0, -1.0)):
        for start in range(0, len(kept), step):
            some = np.s_[start : start + step]
            rows = kept[some]
            weights = assumption.weights[end, rows].astype(np.float64)
            lanes = len(rows), 1
            functionals = weights.reshape(-1, *[1] * (functional.ndim + 1)) * functional
            units = np.zeros((*lanes, len(places)))
            units[np.arange(len(rows)), 0, place[some]] = sign
            choices = choices_of(
                part,
                output,
                neurons,
                [path] * len(rows),
                assumption.slopes[end, rows],
                assumption.multipliers[end, rows].reshape(-1),
            )
            lower = lower_bounds(
                part.tensor,
                functionals,
                inside,
                contract,
                choices,
                beside=(operand, units.reshape(*lanes, *operand.shape)),
            )[:, 0]
            # Weights times the functional were rounded once.
            sizes = magnitude_of(inside[part.tensor]).reshape(-1)
            loss = np.abs(functionals).reshape(len(rows), -1) @ sizes * kappa(4, FLOAT64_UNIT)
            loss += OWN_UNDERFLOW * (1.0 + sizes.sum())
            lower = down(down(lower - loss) + down(weights * constant))
            found[end, some] = np.where(np.isfinite(lower), lower, np.nan)
    low, high = (ends.reshape(-1).copy() for ends in intervals[source])
    # fmax and fmin pass over NaN, where nothing is known.
    low[elements], high[elements] = np.fmax(low[elements], found[0]), np.fmin(high[elements], -found[1])
    if (low > high).any():
        return None
    better = dict(intervals)
    better[source] = Interval(*(ends.reshape(1, *source.shape) for ends in (low, high)))
    rule: Any = interval_rules(contract)[type(activation.primitive)]
    better[activation] = rule(activation.primitive, better[source])
    return better


def _read(output: Tensor, assumption: Assumption, slopes: int, depth: int) -> tuple[Tensor, NDArray[np.intp]]:
    """The activation that the neurons are of, and their places in it; raises Rejected for what does not fit."""
    count = len(assumption.neurons)
    shapes = {"weights": (2, count), "slopes": (2, count, slopes), "multipliers": (2, count, depth)}
    if any(getattr(assumption, name).shape != shape for name, shape in shapes.items()):
        raise Rejected("it lacks something for the bounds that assume a counterexample")
    if not (np.isfinite(assumption.weights) & (assumption.weights >= 0)).all():
        raise Rejected("a weight in it is negative, or no number")
    if (np.diff(assumption.neurons.astype(np.int64)) <= 0).any():
        raise Rejected("the neurons that it bounds are not in order")
    for activation, part in activations(output).items():
        if count and part.start <= assumption.neurons[0] and assumption.neurons[-1] < part.stop:
            return activation, assumption.neurons.astype(np.intp) - part.start
    raise Rejected("it bounds neurons that do not exist, or that are of several layers together")
