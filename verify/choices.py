"""What bounds choose that hold in leaves of a tree of splits (`verify.paths`), for a part of the network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from verify.activations import is_relu, neuron_count
from verify.cones import Cone
from verify.crown import WORKSPACE
from verify.intervals import Interval
from verify.linear_bounds import Choice, Planes
from verify.paths import Path, splits_of
from verify.primitives import Tensor, topological
from verify.pruning import neurons_of


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
    path, neuron, side, point = splits_of(paths)
    sign[path, neuron], multiplier[path, neuron] = side, multipliers
    least, largest = np.full_like(slope, -np.inf), np.full_like(slope, np.inf)
    np.maximum.at(least, (path[side > 0], neuron[side > 0]), point[side > 0])
    np.minimum.at(largest, (path[side < 0], neuron[side < 0]), point[side < 0])
    found = {}
    for activation, numbers in neurons_of(part, output).items():
        signs, betas, low, high = (
            each[:, numbers].reshape(-1, *activation.shape) for each in (sign, multiplier, least, largest)
        )
        shares = slope[:, np.newaxis, numbers].reshape(-1, 1, *activation.shape)
        within = None if is_relu(activation) else Interval(low, high)
        found[activation] = Choice(shares, signs, betas, planes.get(activation), within)
    return found


def leaves_at_a_time(output: Tensor, fractions: int = 0) -> int:
    """How many leaves, with so many fractions each, to bound at a time: few enough for memory, at least one."""
    sizes = [math.prod(tensor.shape) for tensor in topological([output])]
    return max(1, WORKSPACE // (4 * max(*sizes, neuron_count(output), fractions)))
