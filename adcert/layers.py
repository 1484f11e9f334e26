"""Networks without batch norm as data: steps in order, each a layer applied to the results of earlier ones.

Attacks, adversarial passes and bounds all run on these; `adcert.folding` makes them from a model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from adcert.problems import NetworkProblem

Pair = tuple[int, int]


@dataclass(frozen=True)
class Convolution:
    """weight: out x in / groups x kh x kw; bias: out."""

    weight: Tensor
    bias: Tensor
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The same convolution with another weight and bias."""
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


@dataclass(frozen=True)
class Linear:
    """weight: out x in; bias: out."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Scale:
    """weight * x + bias, channel by channel; weight, bias: C. A batch norm that no affine layer could take in."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Normalize:
    """(x - mean) / std; mean, std: C x 1 x 1."""

    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class Relu:
    """in_place: whether it overwrites its operand, which saves a tensor of activations."""

    in_place: bool = False


@dataclass(frozen=True)
class Flatten:
    pass


@dataclass(frozen=True)
class Add:
    """The sum of two results of the same shape."""


@dataclass(frozen=True)
class Concatenate:
    """Results side by side along the channels."""


@dataclass(frozen=True)
class MaxPool:
    kernel: Pair
    stride: Pair
    padding: Pair

    def apply(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, self.kernel, self.stride, self.padding)


@dataclass(frozen=True)
class AveragePool:
    """count_padding: whether the padding counts among the elements that are averaged."""

    kernel: Pair
    stride: Pair
    padding: Pair
    count_padding: bool

    def apply(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.kernel, self.stride, self.padding, count_include_pad=self.count_padding)


@dataclass(frozen=True)
class GlobalAveragePool:
    """The mean of each channel, N x C x 1 x 1."""


Affine = Convolution | Linear | Scale
Layer = Affine | Normalize | Relu | Flatten | Add | Concatenate | MaxPool | AveragePool | GlobalAveragePool

APPLY: dict[type, Callable[..., Tensor]] = {
    Convolution: lambda layer, x: layer.apply(x, layer.weight, layer.bias),
    Linear: lambda layer, x: F.linear(x, layer.weight, layer.bias),
    Scale: lambda layer, x: torch.addcmul(per_channel(layer.bias, x), x, per_channel(layer.weight, x)),
    Normalize: lambda layer, x: (x - layer.mean) / layer.std,
    Relu: lambda layer, x: F.relu(x, inplace=layer.in_place),
    Flatten: lambda layer, x: x.flatten(1),
    Add: lambda layer, x, y: x + y,
    Concatenate: lambda layer, *parts: torch.cat(parts, dim=1),
    MaxPool: lambda layer, x: layer.apply(x),
    AveragePool: lambda layer, x: layer.apply(x),
    GlobalAveragePool: lambda layer, x: x.mean((2, 3), keepdim=True),
}


def apply(layer: Layer, *operands: Tensor) -> Tensor:
    """The layer's result for a batch of points."""
    return APPLY[type(layer)](layer, *operands)


def per_channel(values: Tensor, activations: Tensor) -> Tensor:
    """`values` (C) in a shape that meets the channels of `activations` (N x C or N x C x H x W)."""
    return values.reshape(-1, *[1] * (activations.dim() - 2))


@dataclass(frozen=True)
class Step:
    """A layer, and the numbers of the values that it takes: 0 is the input, i + 1 the result of step i."""

    layer: Layer
    operands: tuple[int, ...]


Value = TypeVar("Value")


@dataclass(frozen=True)
class Network:
    """A feed-forward network. The result of its last step is its own."""

    steps: tuple[Step, ...]

    @staticmethod
    def chain(*layers: Layer) -> Network:
        """Each layer takes the result of the one before."""
        return Network(tuple(Step(layer, (index,)) for index, layer in enumerate(layers)))

    def results(self, entering: Value, rule: Callable[..., Value]) -> Iterator[Value]:
        """The result of each step in order, by `rule(layer, *operands)`; dropped here once no later step needs it.

        A later step may overwrite it (`overwriting`).
        """
        values = {0: entering}
        for index, step in enumerate(self.steps):
            values[index + 1] = rule(step.layer, *(values[operand] for operand in step.operands))
            for operand in set(step.operands):
                if self._last_use[operand] == index:
                    del values[operand]
            yield values[index + 1]

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N x C x H x W, in [0, 1]) to logits (N x classes)."""
        return self.result(images, apply)

    def result(self, entering: Value, rule: Callable[..., Value]) -> Value:
        """The last of `results`."""
        return reduce(lambda earlier, later: later, self.results(entering, rule), entering)

    @cached_property
    def _last_use(self) -> dict[int, int]:
        return {operand: index for index, step in enumerate(self.steps) for operand in step.operands}

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(step.layer for step in self.steps)

    @property
    def last(self) -> Linear:
        """The linear layer that gives the logits."""
        layer = self.steps[-1].layer
        assert isinstance(layer, Linear)
        return layer

    @property
    def body(self) -> Network:
        """Everything before the last layer: images to features (N x F)."""
        return Network(self.steps[:-1])

    def split(self, weighted_layers: int) -> tuple[Network, Network]:
        """The network cut into two, `weighted_layers` convolutions and linear layers in the second part.

        Raises NetworkProblem if there are not more of them, or if some path bypasses the cut.
        """
        weighted = [index for index, layer in enumerate(self.layers) if isinstance(layer, Convolution | Linear)]
        if not 0 < weighted_layers < len(weighted):
            raise NetworkProblem(f"cannot attack {weighted_layers} of the {len(weighted)} weighted layers of the model")
        cut = weighted[-weighted_layers]
        tail = self.steps[cut:]
        if any(operand < cut for step in tail for operand in step.operands):
            raise NetworkProblem(f"a branch of the model bypasses the point before its last {weighted_layers} layers")
        shifted = tuple(replace(step, operands=tuple(operand - cut for operand in step.operands)) for step in tail)
        return Network(self.steps[:cut]), Network(shifted)

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> Network:
        """The same network with every weight replaced."""

        def changed(layer: Any) -> Any:
            tensors = {name: change(value) for name, value in vars(layer).items() if isinstance(value, Tensor)}
            return replace(layer, **tensors)

        return Network(tuple(replace(step, layer=changed(step.layer)) for step in self.steps))

    def overwriting(self) -> Network:
        """The same network, ReLUs overwriting the results of affine layers that nothing else reads."""
        uses = Counter(operand for step in self.steps for operand in step.operands)

        def overwrites(step: Step) -> bool:
            (operand, *_) = step.operands
            fresh = operand > 0 and isinstance(self.steps[operand - 1].layer, Affine)
            return isinstance(step.layer, Relu) and fresh and uses[operand] == 1

        return Network(tuple(replace(s, layer=Relu(in_place=True)) if overwrites(s) else s for s in self.steps))

    def detached(self) -> Network:
        """The same network with weights that collect no gradient: what an attack runs on."""
        return self.map_tensors(Tensor.detach)
