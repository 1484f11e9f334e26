"""A cone computes what the network computes in its block, and bounds by cones are those by the whole network."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from support.executions import box_of
from support.onnx_models import network_of
from support.random_networks import random_network
from verify import crown
from verify.cones import Cone, cone, spatial_blocks
from verify.crown import crown_intervals
from verify.interpreter import evaluate
from verify.intervals import Interval
from verify.network import Network
from verify.primitives import POINT_RULES, Tensor, topological
from verify.rounding import FLOAT32_ANY_ORDER, Array


def points_of(network: Network, seed: int, count: int) -> dict[Tensor, Array]:
    """The values of every tensor at inputs in `box_of(seed)`."""
    box = box_of(seed, network.input.shape)
    share = np.random.default_rng(seed).random((count, *network.input.shape))
    x = box.lower + share * (box.upper - box.lower)
    order = list(topological([network.output]))
    with np.errstate(all="ignore"):
        return dict(zip(order, evaluate(order, POINT_RULES, {network.input: x}), strict=True))


def blocks_of(tensor: Tensor, edge: int) -> list[tuple[Cone, NDArray[np.intp]]]:
    numbers = np.arange(math.prod(tensor.shape)).reshape(tensor.shape)
    return [(cone(tensor, box), numbers[box].reshape(-1)) for box in spatial_blocks(tensor, edge)]


@pytest.mark.parametrize("seed", range(40))
def test_a_cone_computes_its_block(seed: int) -> None:
    content, _ = random_network(seed)
    network = network_of(content)
    expected = points_of(network, seed, 3)
    for tensor in expected:
        if tensor is network.input or not tensor.varies:
            continue
        blocks = spatial_blocks(tensor, 3)
        covered = np.zeros(tensor.shape, np.intp)
        for block in blocks:
            covered[block] += 1
            part = cone(tensor, block)
            known = {
                piece: expected[source][:, *box]
                for piece, (source, box) in part.parts.items()
                if source is network.input and not piece.operands
            }
            with np.errstate(all="ignore"):
                *pieces, value = evaluate([*part.parts, part.tensor], POINT_RULES, known)
            np.testing.assert_allclose(value, expected[tensor][:, *block], rtol=1e-9, atol=1e-12)
            for piece, (source, box) in zip(pieces, part.parts.values(), strict=True):
                np.testing.assert_allclose(piece, expected[source][:, *box], rtol=1e-9, atol=1e-12)
        assert (covered == 1).all()


@pytest.mark.parametrize("seed", range(40))
def test_bounds_in_blocks_hold_and_are_as_tight(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    content, _ = random_network(seed)
    network = network_of(content)
    box = box_of(seed, network.input.shape)

    def intervals_in_blocks(edge: int) -> dict[Tensor, Interval]:
        monkeypatch.setattr(crown, "_blocks", lambda tensor, wanted: blocks_of(tensor, edge))
        with np.errstate(all="ignore"):
            return crown_intervals(network, box, FLOAT32_ANY_ORDER)

    whole, parts = intervals_in_blocks(100), intervals_in_blocks(2)
    for tensor, values in points_of(network, seed, 50).items():
        lower, upper = parts[tensor]
        assert not (values < lower).any()
        assert not (values > upper).any()
        for mine, other in zip(parts[tensor], whole[tensor], strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-9)
