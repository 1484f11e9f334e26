"""Boxes, points inside them, and what onnxruntime makes of those in several kinds of execution."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from support.onnx_models import ALL, DISABLED, EXTENDED, session
from verify.boxes import box_around
from verify.intervals import Interval

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
