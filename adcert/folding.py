"""Networks as plain lists of layers, with batch norm folded into the affine layer before it.

A training step makes one clean pass in train mode; the statistics of that clean batch are folded into effective
weights, through which gradients flow, and everything else (attack, adversarial pass, interval bounds) runs on the
folded network. That is the treatment of batch norm in CTBench (arXiv 2406.04848) and in AD-CERT's code.

    BN(W x) = g (W x - mean) / sqrt(var + tiny) + b = (s W) x + (b - s mean),   s = g / sqrt(var + tiny)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adcert.models import Normalization


@dataclass(frozen=True)
class Convolution:
    """weight: out x in x kh x kw; bias: out."""

    weight: Tensor
    bias: Tensor
    stride: tuple[int, int]
    padding: tuple[int, int]


@dataclass(frozen=True)
class Linear:
    """weight: out x in; bias: out."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Normalize:
    """mean, std: C x 1 x 1."""

    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class Relu:
    pass


@dataclass(frozen=True)
class Flatten:
    pass


Affine = Convolution | Linear
Layer = Affine | Normalize | Relu | Flatten

APPLY: dict[type, Callable[[Any, Tensor], Tensor]] = {
    Convolution: lambda layer, x: F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding),
    Linear: lambda layer, x: F.linear(x, layer.weight, layer.bias),
    Normalize: lambda layer, x: (x - layer.mean) / layer.std,
    Relu: lambda layer, x: F.relu(x),
    Flatten: lambda layer, x: x.flatten(1),
}


@dataclass(frozen=True)
class Network:
    """A feed-forward network without batch norm; its last layer is linear."""

    layers: tuple[Layer, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N x C x H x W, in [0, 1]) to logits (N x classes)."""
        for layer in self.layers:
            images = APPLY[type(layer)](layer, images)
        return images

    def detached(self) -> Network:
        """The same network with weights that collect no gradient: what an attack runs on."""
        return Network(
            tuple(
                replace(layer, weight=layer.weight.detach(), bias=layer.bias.detach())
                if isinstance(layer, Convolution | Linear)
                else layer
                for layer in self.layers
            )
        )

    @property
    def last(self) -> Linear:
        """The linear layer that gives the logits."""
        layer = self.layers[-1]
        assert isinstance(layer, Linear)
        return layer


def _convolution(module: nn.Conv2d) -> Convolution:
    assert isinstance(module.padding, tuple)
    assert module.dilation == (1, 1)
    assert module.groups == 1
    return Convolution(module.weight, _bias(module), (module.stride[0], module.stride[1]), module.padding)  # type: ignore[arg-type]


def _bias(module: nn.Conv2d | nn.Linear) -> Tensor:
    return module.weight.new_zeros(module.weight.shape[0]) if module.bias is None else module.bias


CONVERT: dict[type[nn.Module], Callable[[Any], Layer]] = {
    nn.Conv2d: _convolution,
    nn.Linear: lambda module: Linear(module.weight, _bias(module)),
    Normalization: lambda module: Normalize(module.mean, module.std),
    nn.ReLU: lambda module: Relu(),
    nn.Flatten: lambda module: Flatten(),
}

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


def fold_batch(model: nn.Sequential, images: Tensor, momentum: float = 0.1) -> tuple[Network, Tensor]:
    """The network under the statistics of this batch, and its logits (N x classes) on the batch; differentiable.

    Moves the running statistics towards those of the batch by `momentum`, as `nn.BatchNorm2d` does in train mode.
    """
    layers: list[Layer] = []
    for module, norm in _with_batch_norms(model):
        layer = CONVERT[type(module)](module)
        images = APPLY[type(layer)](layer, images)
        if norm is not None:
            mean, variance = _moments(images)
            _update_running_statistics(norm, mean, variance, images, momentum)
            layer = _fold(layer, norm, mean, variance)
            scale, shift = _scale_and_shift(norm, mean, variance)
            images = images * _per_channel(scale, images) + _per_channel(shift, images)
        layers.append(layer)
    return Network(tuple(layers)), images


def fold_running(model: nn.Sequential) -> Network:
    """The network under its running statistics: how it is evaluated, taught from and exported. Detached."""
    layers: list[Layer] = []
    for module, norm in _with_batch_norms(model):
        layer = CONVERT[type(module)](module)
        if norm is not None:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            layer = _fold(layer, norm, norm.running_mean, norm.running_var)
        layers.append(layer)
    return Network(tuple(layers)).detached()


def _with_batch_norms(model: nn.Sequential) -> list[tuple[nn.Module, BatchNorm | None]]:
    """Every module that is no batch norm, with the batch norm that follows it."""
    modules = list(model)
    return [
        (module, following if isinstance(following, BatchNorm) else None)
        for module, following in zip(modules, [*modules[1:], None], strict=True)
        if not isinstance(module, BatchNorm)
    ]


def _fold(layer: Layer, norm: BatchNorm, mean: Tensor, variance: Tensor) -> Affine:
    assert isinstance(layer, Convolution | Linear)
    scale, shift = _scale_and_shift(norm, mean, variance)
    weight = layer.weight * scale.reshape(-1, *[1] * (layer.weight.dim() - 1))
    return replace(layer, weight=weight, bias=layer.bias * scale + shift)


def _scale_and_shift(norm: BatchNorm, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return scale, norm.bias - mean * scale


def _moments(activations: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance of each channel. In two passes: on CPUs several times as fast as `torch.var_mean`."""
    dimensions = [0, *range(2, activations.dim())]
    mean = activations.mean(dimensions)
    return mean, (activations - _per_channel(mean, activations)).square().mean(dimensions)


def _per_channel(values: Tensor, activations: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (activations.dim() - 2))


@torch.no_grad()
def _update_running_statistics(
    norm: BatchNorm, mean: Tensor, variance: Tensor, activations: Tensor, momentum: float
) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    count = activations.numel() // activations.shape[1]
    norm.running_mean.lerp_(mean, momentum)
    norm.running_var.lerp_(variance * (count / (count - 1)), momentum)
