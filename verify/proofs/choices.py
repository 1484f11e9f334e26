"""What bounds choose that hold in leaves of a tree of splits (`verify.proofs.paths`), for a part of the network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from verify.bounds.activations import activations, is_relu, neuron_count
from verify.bounds.cones import Cone
from verify.bounds.linear_bounds import WORKSPACE
from verify.bounds.pruning import neurons_of
from verify.bounds.steps import Choice, Planes
from verify.core.intervals import Interval
from verify.core.primitives import Tensor, topological
from verify.core.rounding import Array
from verify.proofs.paths import Path, Splits, splits_of


def choices_of(
    part: Cone,
    output: Tensor,
    neurons: NDArray[np.bool_],
    paths: Sequence[Path],
    slopes: NDArray[np.uint8],
    multipliers: NDArray[np.float32],
    planes: Mapping[Tensor, Planes] = MappingProxyType({}),
) -> dict[Tensor, Choice]:
    """For the activations of a part of the network with that output; one lane for each path.

    neurons: of all neurons, those that have a slope. slopes: paths x such neurons, in 255ths. multipliers: of the
    splits, path by path; of several splits of a neuron, the last one's counts. planes: by the ReLU of the part.
    """
    slope = np.full((len(paths), len(neurons)), np.nan)
    slope[:, neurons] = slopes / 255.0
    sign, multiplier = np.zeros_like(slope), np.zeros_like(slope)
    splits = splits_of(paths)
    sign[splits.path, splits.neuron], multiplier[splits.path, splits.neuron] = splits.side, multipliers
    places = neurons_of(part, output)
    within = () if all(map(is_relu, places)) else _within(len(paths), len(neurons), splits)
    found = {}
    for activation, numbers in places.items():
        shares = slope[:, np.newaxis, numbers].reshape(-1, 1, *activation.shape)
        signs, betas, *ends = (each[:, numbers].reshape(-1, *activation.shape) for each in (sign, multiplier, *within))
        inside = None if is_relu(activation) else Interval(*ends)
        found[activation] = Choice(shares, signs, betas, planes.get(activation), inside)
    return found


def slopes_alone(output: Tensor, slopes: NDArray[np.uint8]) -> dict[Tensor, Choice]:
    """Without splits: slopes of all neurons of a network with that output, lanes x neurons, in 255ths."""
    return {
        activation: Choice((slopes[:, numbers] / 255.0).reshape(-1, 1, *activation.shape))
        for activation, numbers in activations(output).items()
    }


def _within(paths: int, neurons: int, splits: Splits) -> tuple[Array, Array]:
    """From where to where neurons read numbers, by the splits of so many paths."""
    path, neuron, side, point = splits
    least, largest = np.full((paths, neurons), -np.inf), np.full((paths, neurons), np.inf)
    np.maximum.at(least, (path[side > 0], neuron[side > 0]), point[side > 0])
    np.minimum.at(largest, (path[side < 0], neuron[side < 0]), point[side < 0])
    return least, largest


def leaves_at_a_time(output: Tensor, fractions: int = 0) -> int:
    """How many leaves, with so many fractions each, to bound at a time: few enough for memory, at least one."""
    sizes = [math.prod(tensor.shape) for tensor in topological([output])]
    return max(1, WORKSPACE // (4 * max(*sizes, neuron_count(output), fractions)))
