"""Frozen teachers: networks that adcert trained, and classifiers from ONNX files."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from adcert.benchmark import Benchmark
from adcert.problems import RunProblem
from verify.bounds.margins import classes, logits_of
from verify.core.primitives import Linear, Reshape
from verify.core.primitives import Tensor as Value
from verify.model.network import Network, load
from verify.search.points import differentiable


class Frozen(Protocol):
    """What objectives ask a teacher for."""

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N x C x H x W, in [0, 1]) to logits (N x classes)."""
        ...

    def body(self, images: Tensor) -> Tensor:
        """What enters the last layer (N x features)."""
        ...


@dataclass(frozen=True)
class Teacher:
    """A network for images of that shape (or for their pixels in one row), the SHA-256 of its file, and the weights of
    its model if adcert built that."""

    network: Frozen
    shape: tuple[int, ...]
    classes: int
    sha256: str
    weights: dict[str, Tensor] | None = None

    def require(self, wanted: Benchmark) -> None:
        """Raise RunProblem unless it can teach such a task."""
        if self.shape not in (wanted.shape, (math.prod(wanted.shape),)) or self.classes != wanted.classes:
            raise RunProblem(
                f"the teacher knows {self.classes} classes of images of shape {self.shape}, but the data hold "
                f"{wanted.classes} of shape {wanted.shape}"
            )


def from_onnx(path: Path, device: torch.device) -> Teacher:
    """The classifier in a file, as it is, so that a normalisation of images must be part of it.

    Raises ModelProblem for what `verify` does not read either.
    """
    network = load(path)
    network.require_floats("distillation")
    return Teacher(_FromOnnx(network, device), network.input.shape[1:], classes(network), network.sha256)


class _FromOnnx:
    """The network of an ONNX file, computed by torch."""

    def __init__(self, network: Network, device: torch.device) -> None:
        self._network, self._device = network, device
        self._logits = self._function(logits_of(network))

    def __call__(self, images: Tensor) -> Tensor:
        return self._computed(self._logits, images)

    def body(self, images: Tensor) -> Tensor:
        return self._computed(self._features, images)

    @cached_property
    def _features(self) -> Callable[[Tensor], Tensor]:
        last = logits_of(self._network)
        while isinstance(last.primitive, Reshape):
            (last,) = last.operands
        if not isinstance(last.primitive, Linear):
            raise RunProblem("the teacher does not end in a linear layer, whose features this objective needs")
        return self._function(last.operands[0])

    def _function(self, output: Value) -> Callable[[Tensor], Tensor]:
        return differentiable(replace(self._network, outputs=(output,)), device=self._device)

    def _computed(self, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        return function(images.reshape(len(images), *self._network.input.shape)).flatten(1)
