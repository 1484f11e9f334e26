"""Models with their batch norms folded into the affine layers before them.

A training step makes one clean pass in train mode; the statistics of that clean batch are folded into effective
weights, through which gradients flow, and everything else (attack, adversarial pass, interval bounds) runs on the
folded network. That is the treatment of batch norm in CTBench (arXiv 2406.04848) and in AD-CERT's code.

    BN(W x) = g (W x - mean) / sqrt(var + tiny) + b = (s W) x + (b - s mean),   s = g / sqrt(var + tiny)

A batch norm without an affine layer of its own before it becomes a scale per channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor

from adcert import processes
from adcert.layers import Affine, Convolution, Layer, Linear, Network, Scale, Step, apply, per_channel
from adcert.tracing import BatchNorm, Blueprint


def fold_batch(blueprint: Blueprint, images: Tensor, momentum: float | None = None) -> tuple[Network, Tensor]:
    """The network under the statistics of this batch, and its logits (N x classes) on the batch; differentiable.

    Moves the running statistics towards those of the batch by `momentum`, by default that of each batch norm, as
    `nn.BatchNorm2d` does in train mode.
    """
    folded: list[tuple[Layer, ...]] = []
    norms = iter([node.norm for node in blueprint.nodes])

    def rule(layer: Layer, *operands: Tensor) -> Tensor:
        result = apply(layer, *operands)
        norm = next(norms)
        if norm is not None:
            mean, variance = _moments(result)
            _update_running_statistics(norm, mean, variance, result, momentum)
            scale = Scale(*_scale_and_shift(norm, mean, variance))
            result = apply(scale, result)
            # The weights of a linear layer are many more than its results: scaling those is cheaper.
            folded.append((layer, scale) if isinstance(layer, Linear) else (_fold(layer, norm, mean, variance),))
        else:
            folded.append((layer,))
        return result

    plain = Network(tuple(Step(node.layer(), node.operands) for node in blueprint.nodes)).overwriting()
    logits = plain.result(images, rule)
    return _network(plain.steps, folded), logits


def _network(steps: Sequence[Step], layers: Sequence[tuple[Layer, ...]]) -> Network:
    """The network whose steps take what `steps` take, and apply one layer or several in a row."""
    results = [0, *accumulate(len(chain) for chain in layers)]  # the new numbers of the values
    numbered = []
    for step, chain in zip(steps, layers, strict=True):
        operands = tuple(results[operand] for operand in step.operands)
        for layer in chain:
            numbered.append(Step(layer, operands))
            operands = (len(numbered),)
    return Network(tuple(numbered)).overwriting()


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
    return Network(tuple(steps)).overwriting().detached()


def _fold(layer: Layer, norm: BatchNorm, mean: Tensor, variance: Tensor) -> Affine:
    assert isinstance(layer, Convolution | Linear | Scale)
    scale, shift = _scale_and_shift(norm, mean, variance)
    weight = layer.weight * scale.reshape(-1, *[1] * (layer.weight.dim() - 1))
    return replace(layer, weight=weight, bias=layer.bias * scale + shift)


def _scale_and_shift(norm: BatchNorm, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return scale, norm.bias - mean * scale


def _moments(activations: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance of each channel."""
    return _Moments.apply(activations)  # type: ignore[no-any-return, no-untyped-call]


class _Moments(torch.autograd.Function):
    """Over the rows of all processes. In two passes: on CPUs several times as fast as `torch.var_mean`."""

    @staticmethod
    def forward(context: torch.autograd.function.FunctionCtx, x: Tensor) -> tuple[Tensor, Tensor]:
        dimensions = [0, *range(2, x.dim())]
        mean = processes.mean(x.mean(dimensions))
        context.save_for_backward(x, mean)
        return mean, processes.mean((x - per_channel(mean, x)).square_().mean(dimensions))

    @staticmethod
    def backward(context: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        x, mean = context.saved_tensors  # type: ignore[attr-defined]
        # The losses of all processes depend on the same moments.
        of_mean, of_variance = processes.mean(torch.stack(gradients))
        count = x.numel() // x.shape[1]
        # (of_mean + 2 of_variance (x - mean)) / count
        slope = 2 * of_variance / count
        return torch.addcmul(per_channel(of_mean / count - slope * mean, x), x, per_channel(slope, x))


@torch.no_grad()
def _update_running_statistics(
    norm: BatchNorm, mean: Tensor, variance: Tensor, activations: Tensor, momentum: float | None
) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    share = norm.momentum if momentum is None else momentum
    count = processes.count() * activations.numel() // activations.shape[1]
    norm.running_mean.lerp_(mean, share)
    norm.running_var.lerp_(variance * (count / (count - 1)), share)
