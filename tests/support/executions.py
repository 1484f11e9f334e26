"""Boxes, points inside them, and what onnxruntime makes of those in several kinds of execution."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from support.onnx_models import ALL, DISABLED, EXTENDED, network_of, session
from verify.bounds.crown import crown_margins
from verify.bounds.evaluation import bounds
from verify.bounds.margins import margin_bounds
from verify.boxes import box_around
from verify.core.intervals import Interval
from verify.core.rounding import FLOAT32_ANY_ORDER

EXECUTIONS = ((DISABLED, 1, 1), (EXTENDED, 1, 64), (ALL, 1, 64), (ALL, 2, 64), (ALL, 1, 7))
"""Optimisation level, threads, batch size."""

Points = NDArray[np.float32]


def box_of(seed: int, shape: tuple[int, ...]) -> Interval:
    """A box around a random image, from a single point to half of the input range."""
    rng = np.random.default_rng(seed)
    eps = (Fraction(0), Fraction(1, 10**6), Fraction(2, 255), Fraction(1, 10), Fraction(1, 2))[seed % 5]
    return box_around(rng.random((1, *shape)).astype(np.float32), eps, (0.0, 1.0))


def sampled_points(box: Interval, rng: np.random.Generator, count: int) -> Points:
    """Uniform points, corners, and points that are corners in most coordinates; all of them float32 and in the box."""
    lower, upper = (end.astype(np.float32) for end in box)
    share = rng.random((count, *lower.shape[1:]))
    share[count // 3 :] = np.round(share[count // 3 :])
    loose = rng.random(share.shape) < 0.1
    loose[: 2 * count // 3] = False
    share = np.where(loose, rng.random(share.shape), share)
    return np.clip((lower + share * (upper - lower)).astype(np.float32), lower, upper)


def attacked_points(box: Interval, run: Any, steps: int = 6) -> Points:
    """For each output and direction, corners found by following the sign of finite differences."""
    lower, upper = (end.astype(np.float32)[0] for end in box)
    width = upper - lower
    found = []
    centre = (lower + upper) / 2
    outputs = run(centre[np.newaxis]).shape[-1]
    moved = np.where(np.eye(lower.size, dtype=bool).reshape(-1, *lower.shape), upper, centre)
    gradients = (run(moved) - run(centre[np.newaxis])).T.reshape(outputs, *lower.shape)
    for gradient in (*gradients, *-gradients):
        found.append(np.where(gradient > 0, upper, lower))
        for step in range(1, steps):
            found.append(np.clip(centre + np.float32(step / steps) * width * np.sign(gradient), lower, upper))
    return np.stack(found).astype(np.float32)


def executions(content: bytes, points: Points) -> list[NDArray[np.float32]]:
    """The outputs for every point, under every kind of execution."""
    results = []
    for level, threads, batch in EXECUTIONS:
        oracle = session(content, level=level, threads=threads)
        parts = [points[i : i + batch] for i in range(0, len(points) if batch > 1 else min(len(points), 20), batch)]
        results.append(np.concatenate([oracle.run(None, {"x": part})[0] for part in parts]))
    return results


def assert_no_execution_leaves_the_bounds(content: bytes, shape: tuple[int, ...], seed: int) -> None:
    """Neither of the outputs of the network in `content`, nor of their differences. shape: of its input."""
    network = network_of(content)
    box = box_of(seed, shape)
    ((lower, upper),) = bounds(network, box, FLOAT32_ANY_ORDER)
    assert np.isfinite(lower).all()
    assert np.isfinite(upper).all()
    oracle = session(content)
    points = np.concatenate(
        [
            sampled_points(box, np.random.default_rng(seed), 60).reshape(-1, *shape[1:]),
            attacked_points(Interval(*(end[0] for end in box)), lambda x: oracle.run(None, {"x": x})[0]),
        ]
    )
    labels = np.arange(lower.shape[-1])
    everywhere = Interval(*(np.repeat(end, len(labels), axis=0) for end in box))
    methods = (margin_bounds, crown_margins, partial(crown_margins, refine=False))
    margins = [method(network, everywhere, labels, FLOAT32_ANY_ORDER) for method in methods]
    others = ~np.eye(len(labels), dtype=bool)
    for logits in executions(content, points):
        assert (lower[0] <= logits).all()
        assert (logits <= upper[0]).all()
        differences = logits.astype(np.float64)[:, :, np.newaxis] - logits[:, np.newaxis]
        for found in margins:
            assert (found[others] <= differences.min(axis=0)[others]).all()
