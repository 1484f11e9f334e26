"""Weights, slopes and multipliers for bounds that assume a counterexample (`verify.proofs.assumptions`).

That a functional of the output plus a constant is not positive is the sign of one more neuron, which reads it: so its
weights are multipliers like those of splits, and are optimised with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from verify.bounds.activations import activations, is_relu
from verify.core.intervals import Interval
from verify.core.linear_maps import Dense
from verify.core.primitives import LeakyRelu, Linear, Reshape, Tensor
from verify.core.rounding import Array, Contract
from verify.proofs.assumptions import Assumption, assumed
from verify.proofs.paths import Path, Split, splits_of
from verify.search.backward import Backward
from verify.search.lanes import Lanes
from verify.search.optimise import Settings, optimised

AT_FIRST = Settings(iterations=12, slope_step=0.2, multiplier_step=0.3, decay=0.87)
AT_NEXT = replace(AT_FIRST, iterations=5)

_MOST = 256
"""Neurons that are bounded anew: those by which the bound loses most."""

_WORTH_BOUNDING, _WORTH_KEEPING = 0.02, 0.001
"""What share of the largest loss by a neuron another one must bring to be bounded anew; and what share of the width of
its interval that must gain."""


@dataclass(eq=False)
class Region:
    """What is known of executions that are to be bounded: those in a box, or the counterexamples at a node of a tree.
    intervals: rigorous, in one lane. lanes: the same for bounds in torch. bound: of the functional, when bounds that
    assume a counterexample were found."""

    intervals: dict[Tensor, Interval]
    lanes: Lanes
    bound: float = -math.inf


@dataclass(frozen=True, eq=False)
class Start:
    """Of bounds of what elements of an activation read: slopes and multipliers, 2 x elements x all neurons, and behind
    these that of the assumption."""

    elements: NDArray[np.intp]
    slopes: NDArray[np.uint8]
    multipliers: NDArray[np.float32]


class Assuming:
    """About the counterexamples to that a functional of the output, plus a constant, is positive."""

    def __init__(self, backward: Backward, functional: Array, constant: float, contract: Contract) -> None:
        self._backward, self._functional, self._constant, self._contract = backward, functional, constant, contract
        self._numbers = activations(backward.output)
        flat = Tensor(Reshape((functional.size,)), (backward.output,), (functional.size,), "")
        column, bias = functional.reshape(-1, 1), np.array([constant])
        value = Tensor(Linear(Dense(column), bias, np.abs(bias), 0, 0.0, 0.0, 0.0), (flat,), (1,), "")
        self._flat, self._value = flat, value
        self._sign = Tensor(LeakyRelu(0.0), (value,), (1,), "")
        self._behind: dict[Tensor, Backward] = {}
        self._latest: dict[Tensor, Start] = {}

    def last(self, region: Region, path: Path) -> tuple[Tensor, NDArray[np.intp]] | None:
        """The last activation with open neurons, and which of its elements these are."""
        split = {each.neuron for each in path}
        for activation in reversed(self._numbers):
            low, high = (end.reshape(-1) for end in region.intervals[activation.operands[0]])
            elements = np.flatnonzero((low < 0) & (high > 0) if is_relu(activation) else low < high)
            first = self._numbers[activation].start
            elements = elements[[first + element not in split for element in elements.tolist()]]
            if len(elements):
                return activation, elements
        return None

    def found(
        self,
        region: Region,
        path: Path,
        neurons: NDArray[np.bool_],
        slopes: NDArray[np.uint8],
        multipliers: NDArray[np.float32],
        stop: Callable[[], bool],
    ) -> Assumption | None:
        """Bounds of what the last activation with open neurons reads, where these matter; None if none of them gains.

        neurons, slopes, multipliers: that the bounds of the node have.
        """
        last = self.last(region, path)
        if last is None:
            return None
        activation, elements = last
        (operand,) = activation.operands
        width, losses = self._range(region, activation)
        elements = elements[losses[elements] > _WORTH_BOUNDING * losses[elements].max()]
        elements = np.sort(elements[np.argsort(-losses[elements], kind="stable")[:_MOST]])
        if not len(elements):
            return None
        backward = self._of(operand)
        low, high = (end.reshape(-1)[elements] for end in region.intervals[operand])
        around = self._lanes(backward, region, path)
        unit = (high - low) / width
        every = torch.arange(backward.neurons, device=backward.device)
        start = self._start(activation, elements, neurons, slopes)
        if activation not in self._latest:
            start.multipliers[:, :, -1] = unit
        split = [each.neuron for each in path]
        start.multipliers[:, :, split] = start.multipliers[:, :, -1:] * multipliers
        settings = AT_NEXT if activation in self._latest else AT_FIRST
        best = Start(elements, start.slopes.copy(), start.multipliers.copy())
        bounds = np.empty((2, len(elements)))
        for end, sign in enumerate((1.0, -1.0)):
            for first in range(0, len(elements), backward.width):
                some = np.s_[first : first + backward.width]
                count = len(elements[some])
                functional = torch.zeros(count, math.prod(operand.shape), device=backward.device)
                functional[torch.arange(count), torch.tensor(elements[some])] = sign
                units = torch.zeros(count, backward.neurons, device=backward.device)
                units[:, -1] = backward.values(unit[some])
                found = optimised(
                    backward,
                    replace(around.repeated(count), functional=functional.reshape(-1, *operand.shape)),
                    every,
                    backward.values(start.slopes[end, some]) / 255.0,
                    backward.values(start.multipliers[end, some]),
                    settings,
                    target=torch.zeros(count, device=backward.device),
                    stop=stop,
                    units=units,
                )
                bounds[end, some] = found.bounds.cpu().numpy()
                best.slopes[end, some] = found.slopes.cpu().numpy()
                best.multipliers[end, some] = found.multipliers.cpu().numpy()
        self._latest[activation] = best
        gained = (np.fmax(bounds[0] - low, 0.0) + np.fmax(high + bounds[1], 0.0)) > _WORTH_KEEPING * (high - low)
        if not gained.any():
            return None
        numbers = (self._numbers[activation].start + elements).astype(np.int32)
        return Assumption(
            0,
            len(path),
            numbers[gained],
            np.nan_to_num(best.multipliers[:, gained, -1], nan=0.0, posinf=0.0),
            best.slopes[:, gained, :-1][:, :, neurons],
            best.multipliers[:, gained][:, :, split],
        )

    def region(self, region: Region, path: Path, neurons: NDArray[np.bool_], assumption: Assumption) -> Region | None:
        """With these bounds; None where there is no counterexample."""
        with np.errstate(all="ignore"):
            intervals = assumed(
                self._backward.output,
                self._functional,
                self._constant,
                region.intervals,
                self._contract,
                neurons=neurons,
                path=path,
                assumption=assumption,
            )
        if intervals is None:
            return None
        return Region(intervals, self._backward.lanes(intervals, self._functional[np.newaxis]))

    def _of(self, target: Tensor) -> Backward:
        if target not in self._behind:
            self._behind[target] = self._backward.behind(self._sign, target)
        return self._behind[target]

    def _lanes(self, backward: Backward, region: Region, path: Path) -> Lanes:
        """The only lane, for functionals of the target."""
        values = Interval(*(end.reshape(1, -1) for end in region.intervals[self._backward.output]))
        intervals = region.intervals | {self._flat: values, self._value: Interval(-np.ones((1, 1)), np.ones((1, 1)))}
        lanes = backward.lanes(intervals, np.zeros((1, *backward.target.shape)))
        return backward.along(lanes, splits_of([[*path, Split(backward.neurons - 1, -1)]]))

    def _range(self, region: Region, activation: Tensor) -> tuple[float, Array]:
        """Of the functional, about; and what its lower bound loses by the lines around each neuron of an activation."""
        backward = self._backward
        functional = self._functional[np.newaxis]
        lanes = replace(region.lanes.repeated(2), functional=backward.values(np.concatenate([functional, -functional])))
        every = torch.arange(backward.neurons, device=backward.device)
        with torch.no_grad():
            found = backward.bounds(lanes, every, lanes.fixed, torch.zeros_like(lanes.fixed))
        coefficients = found.coefficients[backward.activations.index(activation)][0]
        if is_relu(activation):
            losses = -coefficients.clamp(max=0.0) * lanes.offset[0, self._numbers[activation]]
        else:
            losses = coefficients.abs() * backward.gaps(lanes, activation)[0]
        return max(float(-found.bounds.sum()), float(np.finfo(np.float32).tiny)), losses.cpu().double().numpy()

    def _start(
        self, activation: Tensor, elements: NDArray[np.intp], neurons: NDArray[np.bool_], slopes: NDArray[np.uint8]
    ) -> Start:
        """Where the latest bounds of these elements ended; or, for those that have none, the slopes of the node."""
        of_node = np.zeros(len(neurons) + 1, np.uint8)
        of_node[:-1][neurons] = slopes
        shape = 2, len(elements), len(of_node)
        start = Start(elements, np.broadcast_to(of_node, shape).copy(), np.zeros(shape, np.float32))
        if activation in self._latest:
            before = self._latest[activation]
            _, new, old = np.intersect1d(elements, before.elements, return_indices=True)
            start.slopes[:, new], start.multipliers[:, new] = before.slopes[:, old], before.multipliers[:, old]
        return start
