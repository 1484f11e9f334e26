"""Exported models in onnxruntime, and the images that they are run on: of the training split, never of the test one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from verify import datasets

COMPARED_IMAGES = 1000
LEVELS = tuple(
    getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{name}")
    for name in ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL")
)
"""Of optimisation, from none to all."""

Images = NDArray[np.float32]


def comparison_images(dataset: str) -> Images:
    """The last images of the training split, in [0, 1]."""
    return _scaled(datasets.load(dataset, "train").images[-COMPARED_IMAGES:])


def logits(model: bytes, feeds: Iterable[Images], level: int = LEVELS[-1]) -> NDArray[np.float32]:
    """The only output of a model file's content, as onnxruntime executes it on the CPU, flat. feeds: what the model
    takes at a time."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([np.ravel(session.run(None, {name: feed})[0]) for feed in feeds])


def _scaled(images: NDArray[np.uint8]) -> Images:
    return images.astype(np.float32) / np.float32(255)
