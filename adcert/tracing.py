"""From any `nn.Module` made of supported layers to the steps that a network consists of, through torch.fx.

A batch norm belongs to the convolution or linear layer before it if nothing else reads that layer's result.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from adcert.layers import (
    Add,
    AveragePool,
    Concatenate,
    Convolution,
    Flatten,
    GlobalAveragePool,
    Layer,
    Linear,
    MaxPool,
    Normalize,
    Pair,
    Relu,
    Scale,
)
from adcert.models import Normalization
from adcert.problems import NetworkProblem

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


@dataclass(frozen=True)
class Node:
    """A step before folding: its layer with the module's present weights, its operands, the batch norm behind it.

    operands: numbers of values as in `adcert.layers.Step`. module: what holds the weights, if the layer has any.
    """

    layer: Callable[[], Layer]
    operands: tuple[int, ...]
    module: nn.Conv2d | nn.Linear | None = None
    norm: BatchNorm | None = None


@dataclass(frozen=True)
class Blueprint:
    """What a model computes, step by step, referring to its live modules; the last step is a linear layer."""

    nodes: tuple[Node, ...]

    @property
    def weighted_layers(self) -> list[nn.Conv2d | nn.Linear]:
        """The convolutions and linear layers in the order of execution, each once."""
        return list(dict.fromkeys(node.module for node in self.nodes if node.module is not None))


def trace(model: nn.Module) -> Blueprint:
    """The blueprint of `model`, which takes images (N x C x H x W) and ends in a linear layer.

    Raises NetworkProblem, naming the module or function, where something cannot be bounded.
    """
    try:
        graph = _Tracer().trace(model)
    except NetworkProblem:
        raise
    except Exception as error:  # whatever the model's own code raises when it meets a symbolic value
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NetworkProblem(f"{type(model).__name__} cannot be traced by torch.fx: {reason}") from None
    (output,) = [node for node in graph.nodes if node.op == "output"]
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if not inputs:
        raise NetworkProblem(f"{type(model).__name__} takes no images")
    return _Assembly(dict(model.named_modules()), inputs[0]).blueprint(output.args[0])


class _Tracer(fx.Tracer):
    """Every module that has a rule, and every one of torch's own but containers, is looked at as a whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in MODULES or super().is_leaf_module(m, module_qualified_name)


class _Assembly:
    """Collects nodes from the output backwards: what the output does not depend on is never looked at."""

    def __init__(self, modules: dict[str, nn.Module], images: fx.Node) -> None:
        self._modules = modules
        self._nodes: list[Node] = []
        self._values: dict[fx.Node, int] = {images: 0}
        self._latest = images  # what the last of the nodes computes

    def blueprint(self, output: Any) -> Blueprint:
        if not isinstance(output, fx.Node):
            raise NetworkProblem("the model must return one tensor of logits")
        self._value(output)
        if not self._nodes or not isinstance(self._nodes[-1].module, nn.Linear) or self._nodes[-1].norm:
            raise NetworkProblem("the model must end in a linear layer, whose rows are bounded as margins")
        return Blueprint(tuple(self._nodes))

    def _value(self, node: fx.Node) -> int:
        """The number of the value that `node` computes, once it and all that it depends on are among the nodes."""
        # Without recursion: deep models would exceed Python's limit.
        waiting = [node]
        while waiting:
            current = waiting[-1]
            if current in self._values:
                waiting.pop()
                continue
            part = self._part(current)
            if missing := [operand for operand in part.operands if operand not in self._values]:
                waiting += missing
                continue
            self._add(current, part)
        return self._values[node]

    def _add(self, node: fx.Node, part: _Part) -> None:
        operands = tuple(self._values[operand] for operand in part.operands)
        if part.layer is None:  # an identity
            self._values[node] = operands[0]
            return
        if part.norm is None:
            self._nodes.append(Node(part.layer, operands, part.module))
        elif self._takes_norm(part.operands[0]):
            before = self._nodes[-1]
            self._nodes[-1] = Node(before.layer, before.operands, before.module, part.norm)
        else:
            self._nodes.append(Node(part.layer, operands, None, part.norm))
        self._values[node] = len(self._nodes)
        self._latest = node

    def _takes_norm(self, operand: fx.Node) -> bool:
        """Whether the last of the nodes computes `operand`, for nothing but the batch norm, and can take it in."""
        if not self._nodes or operand is not self._latest or len(operand.users) > 1:
            return False
        return self._nodes[-1].module is not None and self._nodes[-1].norm is None

    def _part(self, node: fx.Node) -> _Part:
        if node.op == "call_module":
            module = self._modules[str(node.target)]
            name = f"module {node.target!r} ({type(module).__name__})"
            if type(module) not in MODULES:
                _refuse(name)
            return _Part.of(MODULES[type(module)](module, _Source(name)), node)
        rules = FUNCTIONS if node.op == "call_function" else METHODS
        name = f"{getattr(node.target, '__name__', node.target)}()"
        if node.op not in ("call_function", "call_method") or node.target not in rules:
            _refuse(name)
        try:
            found = rules[node.target](_Source(name), *node.args, **node.kwargs)
        except TypeError:
            _refuse(f"{name} with these arguments")
        return _Part.of(found, node)


@dataclass(frozen=True)
class _Source:
    """What an error message calls the thing at hand."""

    name: str

    def require(self, condition: bool, wish: str) -> None:
        if not condition:
            raise NetworkProblem(f"cannot bound {self.name}: {wish}")


def _refuse(name: str) -> NoReturn:
    known = ", ".join(sorted(kind.__name__ for kind in MODULES))
    raise NetworkProblem(
        f"cannot bound {name}; bounded are {known}, sums, torch.cat, flatten, and the functional forms of these"
    )


@dataclass(frozen=True)
class _Found:
    """layer: None for an identity. operands: None for the single argument of a module."""

    layer: Callable[[], Layer] | None
    module: nn.Conv2d | nn.Linear | None = None
    norm: BatchNorm | None = None
    operands: Sequence[Any] | None = None


@dataclass(frozen=True)
class _Part:
    layer: Callable[[], Layer] | None
    module: nn.Conv2d | nn.Linear | None
    norm: BatchNorm | None
    operands: tuple[fx.Node, ...]

    @staticmethod
    def of(found: _Found, node: fx.Node) -> _Part:
        given = node.args[:1] if found.operands is None else found.operands
        operands = tuple(operand for operand in given if isinstance(operand, fx.Node))
        if not operands or len(operands) < len(given):
            _refuse(f"{node.target} of something that is not computed from the images")
        return _Part(found.layer, found.module, found.norm, operands)


def _pair(value: Any, source: _Source) -> Pair:
    if isinstance(value, int):
        return value, value
    source.require(
        isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(entry, int) for entry in value),
        "its window is not a pair of numbers",
    )
    return value[0], value[1]


def _bias(module: nn.Conv2d | nn.Linear) -> Tensor:
    return module.weight.new_zeros(module.weight.shape[0]) if module.bias is None else module.bias


def _require_trainable(module: nn.Conv2d | nn.Linear, source: _Source) -> None:
    # Hooks compute a weight that is no parameter (weight_norm, pruning) from others, which training would never reach.
    weight = module.weight
    source.require(isinstance(weight, nn.Parameter) and weight.requires_grad, "its weight is not one that is trained")


def _convolution(module: nn.Conv2d, source: _Source) -> _Found:
    _require_trainable(module, source)
    source.require(module.padding_mode == "zeros", "only zero padding is supported")
    source.require(not isinstance(module.padding, str), "its padding must be given in pixels")
    stride, padding = _pair(module.stride, source), _pair(module.padding, source)
    dilation, groups = _pair(module.dilation, source), module.groups

    def layer() -> Convolution:
        return Convolution(module.weight, _bias(module), stride, padding, dilation, groups)

    return _Found(layer, module)


def _linear(module: nn.Linear, source: _Source) -> _Found:
    _require_trainable(module, source)
    return _Found(lambda: Linear(module.weight, _bias(module)), module)


def _batch_norm(module: BatchNorm, source: _Source) -> _Found:
    source.require(module.running_mean is not None, "it keeps no running statistics to be evaluated with")
    source.require(module.affine and module.momentum is not None, "it needs affine parameters and a momentum")

    def identity() -> Scale:
        return Scale(torch.ones_like(module.weight), torch.zeros_like(module.weight))

    return _Found(identity, norm=module)


def _max_pool(source: _Source, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> MaxPool:
    source.require(not ceil_mode and dilation in (1, (1, 1)), "ceil_mode and dilation are not supported")
    window = _pair(kernel, source)
    return MaxPool(window, window if stride is None else _pair(stride, source), _pair(padding, source))


def _average_pool(
    source: _Source, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, count_padding: bool, divisor: int | None
) -> AveragePool:
    source.require(not ceil_mode and divisor is None, "ceil_mode and divisor_override are not supported")
    window = _pair(kernel, source)
    strides = window if stride is None else _pair(stride, source)
    return AveragePool(window, strides, _pair(padding, source), count_padding)


def _global_pool(source: _Source, size: Any) -> GlobalAveragePool:
    source.require(size in (1, (1, 1), [1, 1]), "only an output of one pixel is supported")
    return GlobalAveragePool()


def _flattened(source: _Source, start: int, end: int) -> Flatten:
    source.require(start == 1 and end == -1, "only everything but the batch can be flattened")
    return Flatten()


def _always(layer: Layer) -> _Found:
    return _Found(lambda: layer)


MODULES: dict[type[nn.Module], Callable[[Any, _Source], _Found]] = {
    nn.Conv2d: _convolution,
    nn.Linear: _linear,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.ReLU: lambda module, source: _always(Relu()),
    nn.Flatten: lambda module, source: _always(_flattened(source, module.start_dim, module.end_dim)),
    nn.Identity: lambda module, source: _Found(None),
    nn.MaxPool2d: lambda m, source: _always(
        _max_pool(source, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode)
    ),
    nn.AvgPool2d: lambda m, source: _always(
        _average_pool(source, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, m.divisor_override)
    ),
    nn.AdaptiveAvgPool2d: lambda module, source: _always(_global_pool(source, module.output_size)),
    Normalization: lambda module, source: _Found(lambda: Normalize(module.mean, module.std)),
}


def _relu(source: _Source, x: Any, inplace: bool = False) -> _Found:
    return _Found(Relu, operands=[x])


def _add(source: _Source, x: Any, y: Any) -> _Found:
    return _Found(Add, operands=[x, y])


def _cat(source: _Source, parts: Any, dim: int = 0) -> _Found:
    source.require(dim == 1, "only channels (dim=1) can be put side by side")
    return _Found(Concatenate, operands=list(parts))


def _flatten(source: _Source, x: Any, start_dim: int = 0, end_dim: int = -1) -> _Found:
    layer = _flattened(source, start_dim, end_dim)
    return _Found(lambda: layer, operands=[x])


def _view(source: _Source, x: Any, *shape: Any) -> _Found:
    """x.view(x.size(0), -1)"""
    source.require(
        len(shape) == 2 and isinstance(shape[0], fx.Node) and shape[1] == -1,
        "only the form view(x.size(0), -1), which flattens, is supported",
    )
    return _Found(Flatten, operands=[x])


def _functional_max_pool(
    source: _Source, x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, **rest: Any
) -> _Found:
    layer = _max_pool(source, kernel_size, stride, padding, dilation, rest.get("ceil_mode", False))
    return _Found(lambda: layer, operands=[x])


def _functional_average_pool(
    source: _Source,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> _Found:
    layer = _average_pool(source, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return _Found(lambda: layer, operands=[x])


def _functional_global_pool(source: _Source, x: Any, output_size: Any) -> _Found:
    layer = _global_pool(source, output_size)
    return _Found(lambda: layer, operands=[x])


FUNCTIONS: dict[Any, Callable[..., _Found]] = {
    **dict.fromkeys((F.relu, torch.relu), _relu),
    **dict.fromkeys((operator.add, operator.iadd, torch.add), _add),
    torch.cat: _cat,
    torch.flatten: _flatten,
    F.max_pool2d: _functional_max_pool,
    torch.max_pool2d: _functional_max_pool,
    F.avg_pool2d: _functional_average_pool,
    F.adaptive_avg_pool2d: _functional_global_pool,
}

METHODS: dict[Any, Callable[..., _Found]] = {
    **dict.fromkeys(("relu", "relu_"), _relu),
    **dict.fromkeys(("add", "add_"), _add),
    **dict.fromkeys(("view", "reshape"), _view),
    "flatten": _flatten,
}
