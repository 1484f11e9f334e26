"""Models with their batch norms folded into the affine layers before them.

A training step makes one clean pass in train mode; the statistics of that clean batch are folded into effective
weights, through which gradients flow, and everything else (attack, adversarial pass, interval bounds) runs on the
folded network. That is the treatment of batch norm in CTBench (arXiv 2406.04848) and in AD-CERT's code.

    BN(W x) = g (W x - mean) / sqrt(var + tiny) + b = (s W) x + (b - s mean),   s = g / sqrt(var + tiny)

A batch norm without an affine layer of its own before it becomes a scale per channel.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from adcert.layers import Affine, Convolution, Layer, Linear, Network, Scale, Step, apply, per_channel
from adcert.tracing import BatchNorm, Blueprint


def fold_batch(blueprint: Blueprint, images: Tensor, momentum: float | None = None) -> tuple[Network, Tensor]:
    """The network under the statistics of this batch, and its logits (N x classes) on the batch; differentiable.

    Moves the running statistics towards those of the batch by `momentum`, by default that of each batch norm, as
    `nn.BatchNorm2d` does in train mode.
    """
    steps: list[Step] = []
    norms = iter([node.norm for node in blueprint.nodes])

    def rule(layer: Layer, *operands: Tensor) -> Tensor:
        result = apply(layer, *operands)
        norm = next(norms)
        if norm is not None:
            mean, variance = _moments(result)
            _update_running_statistics(norm, mean, variance, result, momentum)
            layer = _fold(layer, norm, mean, variance)
            scale, shift = _scale_and_shift(norm, mean, variance)
            result = result * per_channel(scale, result) + per_channel(shift, result)
        steps.append(Step(layer, blueprint.nodes[len(steps)].operands))
        return result

    plain = Network(tuple(Step(node.layer(), node.operands) for node in blueprint.nodes))
    logits = plain.result(images, rule)
    return Network(tuple(steps)), logits


def fold_running(blueprint: Blueprint) -> Network:
    """The network under its running statistics: how it is evaluated, taught from and exported. Detached."""
    steps = []
    for node in blueprint.nodes:
        layer = node.layer()
        if node.norm is not None:
            assert node.norm.running_mean is not None
            assert node.norm.running_var is not None
            layer = _fold(layer, node.norm, node.norm.running_mean, node.norm.running_var)
        steps.append(Step(layer, node.operands))
    return Network(tuple(steps)).detached()


def _fold(layer: Layer, norm: BatchNorm, mean: Tensor, variance: Tensor) -> Affine:
    assert isinstance(layer, Convolution | Linear | Scale)
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
    return mean, (activations - per_channel(mean, activations)).square().mean(dimensions)


@torch.no_grad()
def _update_running_statistics(
    norm: BatchNorm, mean: Tensor, variance: Tensor, activations: Tensor, momentum: float | None
) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    share = norm.momentum if momentum is None else momentum
    count = activations.numel() // activations.shape[1]
    norm.running_mean.lerp_(mean, share)
    norm.running_var.lerp_(variance * (count / (count - 1)), share)
