"""Fractions of weights, for planes above neurons (`verify.proofs.planes`): from the leaves of a search to torch, and
back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor as Values

from verify.bounds.activations import relus
from verify.core.primitives import Tensor
from verify.core.rounding import Array
from verify.proofs.planes import sheaves, what_is_read
from verify.search.backward import Backward, Fractions
from verify.search.trees import Box, Leaves, by_box


def of_lines(output: Tensor, neurons: NDArray[np.bool_], low: Array, high: Array) -> NDArray[np.uint8]:
    """The fractions that make planes out of the lines above open neurons, the same one of each weight of a neuron.

    neurons: which are open. low, high: ends of what all neurons read.
    """
    share = np.rint(255.0 * np.clip(high / np.where(neurons, high - low, 1.0), 0.0, 1.0))
    parts = [
        np.repeat(share[numbers][sheaf.rows].astype(np.uint8), sheaf.inputs)
        for relu, sheaf in sheaves(output, neurons).items()
        for numbers in [relus(output)[relu]]
    ]
    return np.concatenate([np.zeros(0, np.uint8), *parts])


def of_leaves(leaves: Leaves, backward: Backward) -> list[Fractions]:
    """Those of the leaves; none where these have no planes."""
    if not leaves[0][0].box.weights:
        return []
    found = []
    for relu in backward.sheaved:
        parts = [(lanes, sheaves(backward.output, box.neurons)[relu]) for box, lanes in by_box(leaves)]
        rows = reduce(np.union1d, [sheaf.rows for _, sheaf in parts])
        values = np.zeros((len(leaves), len(rows), math.prod(what_is_read(relu).shape)), np.uint8)
        for lanes, sheaf in parts:
            own = [node.fractions[sheaf.where] for _, node in leaves[lanes] if node.fractions is not None]
            planes = np.stack(own).reshape(len(own), len(sheaf.rows), sheaf.inputs)
            values[lanes, np.searchsorted(rows, sheaf.rows)] = planes
        numbers = torch.tensor(rows, device=backward.device)
        found.append(Fractions(numbers, torch.tensor(values, device=backward.device).to(backward.dtype) / 255.0))
    return found


def of_box(box: Box, output: Tensor, rows: Sequence[Values], found: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """What was found for some lanes of a box, side by side.

    rows: of each ReLU with planes, the neurons that fractions were found of. found: lanes x rows x inputs.
    """
    parts = [
        each[:, np.searchsorted(some.cpu().numpy(), sheaf.rows)].reshape(len(each), -1)
        for sheaf, some, each in zip(sheaves(output, box.neurons).values(), rows, found, strict=True)
    ]
    return np.concatenate(parts, axis=1)
