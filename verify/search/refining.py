"""Slopes that make the bounds of what single neurons read tight, block by block: a neuron of a convolution depends on
a small part of the network (`verify.bounds.cones`), and the slopes of what lies outside that do not matter."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from verify.bounds.activations import activations, neuron_count
from verify.bounds.blocks import cheapest_tilings
from verify.bounds.cones import Tiles, intervals_of
from verify.bounds.refinements import Slopes
from verify.core.intervals import Interval
from verify.core.primitives import Tensor
from verify.search.backward import Backward
from verify.search.optimise import Settings, optimised

AT_NEURONS = Settings(iterations=5, slope_step=0.3, multiplier_step=0.0, decay=0.8)


def slopes_of_elements(
    backward: Backward, elements: NDArray[np.intp], intervals: Mapping[Tensor, Interval], stop: Callable[[], bool]
) -> Slopes:
    """For the bounds of elements of what `backward` bounds, their numbers in order; intervals: in one lane."""
    output = backward.output
    (open_,) = backward.lanes(intervals, np.zeros((1, *output.shape))).open.cpu().numpy()
    chosen = np.flatnonzero(open_)
    numbers = np.full((1, neuron_count(output)), -1)
    numbers[0, chosen] = np.arange(len(chosen))
    columns = {tensor: numbers[:, part].reshape(1, *tensor.shape) for tensor, part in activations(output).items()}
    found = np.zeros((2, len(elements), len(chosen)), np.uint8)
    wanted = np.zeros((1, math.prod(output.shape)), np.bool_)
    wanted[0, elements] = True
    for tiles in cheapest_tilings(output, wanted):
        inner = backward.of(tiles.cone.tensor)
        if not inner.neurons:
            continue
        blocks, places = np.nonzero(wanted[0, tiles.inside])
        at_a_time = inner.width // 2  # with both ends of each
        for start in range(0, len(blocks), at_a_time):
            some = np.s_[start : start + at_a_time]
            slopes, column = _of_blocks(inner, tiles, blocks[some], places[some], intervals, columns, stop)
            row, neuron = np.nonzero(column >= 0)
            element = np.searchsorted(elements, tiles.inside[blocks[some], places[some]])
            found[:, element[row], column[row, neuron]] = slopes[:, row, neuron]
    below = {
        tensor: chosen[(chosen >= part.start) & (chosen < part.stop)] - part.start
        for tensor, part in activations(output).items()
    }
    return Slopes(elements, below, found)


def _of_blocks(
    inner: Backward,
    tiles: Tiles,
    blocks: NDArray[np.intp],
    places: NDArray[np.intp],
    intervals: Mapping[Tensor, Interval],
    columns: Mapping[Tensor, NDArray[np.intp]],
    stop: Callable[[], bool],
) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Slopes for bounds of a place in each of some blocks, which may be the same: 2 x places x neurons of the block's
    cone, for the lower bounds and the upper ones; and the columns, places x neurons, of those of the whole network.
    inner: bounds such a block."""
    used, owner = np.unique(blocks, return_inverse=True)
    part = tiles.at(np.zeros_like(used), used)
    around = {
        piece: Interval(*(np.broadcast_to(end, (len(used), *end.shape[1:])) for end in ends))
        for piece, ends in intervals_of(part, intervals).items()
    }
    functional = torch.zeros(2, len(blocks), math.prod(inner.output.shape), device=inner.device)
    for end, sign in enumerate((1.0, -1.0)):
        functional[end, torch.arange(len(blocks)), torch.tensor(places)] = sign
    both = torch.tensor(np.concatenate([owner, owner]), device=inner.device)
    lanes = inner.lanes(around, np.zeros((len(used), *inner.output.shape))).take(both)
    lanes = replace(lanes, functional=functional.reshape(-1, *inner.output.shape))
    chosen = lanes.chosen
    slopes = lanes.fixed[:, chosen]
    none, target = torch.zeros_like(slopes), torch.zeros(len(both), device=inner.device)
    best = optimised(inner, lanes, chosen, slopes, none, AT_NEURONS, target=target, stop=stop)
    cut = [
        part.cut(piece, columns[part.parts[piece][0]]).reshape(-1, math.prod(piece.shape))
        for piece in inner.activations
    ]
    every = np.concatenate([np.broadcast_to(each, (len(used), each.shape[1])) for each in cut], axis=1)
    return best.slopes.cpu().numpy().reshape(2, len(blocks), -1), every[:, chosen.cpu().numpy()][owner]
