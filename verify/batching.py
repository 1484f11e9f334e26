"""Does a model with an open batch axis treat the samples of a batch independently of each other?

Only then does what is proved for one sample hold in a batch of any size. The model is built for batches of one and of
two; dependence between the two samples is ruled out exactly, by propagating which elements a sample can influence.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from verify.errors import ModelProblem
from verify.functions import Function
from verify.interpreter import Rules, evaluate
from verify.primitives import (
    POINT_RULES,
    Clip,
    Concatenate,
    Constant,
    LeakyRelu,
    Linear,
    MaxPool,
    Product,
    Quotient,
    Reshape,
    Select,
    Softmax,
    Sum,
    Tensor,
)
from verify.rounding import Array

Tensors = tuple[Tensor, ...]


def require_independent_samples(single: tuple[Tensors, Tensors], double: tuple[Tensors, Tensors]) -> None:
    """Raise ModelProblem unless each sample of a batch of two gets what it gets alone.

    single, double: inputs and outputs of the model, built for a batch of one and of two samples.
    """
    inputs, outputs = double
    for mine, other in ((0, 1), (1, 0)):
        marked = {tensor: _mark(tensor, other) for tensor in inputs}
        for output, alone, influenced in zip(
            outputs, single[1], evaluate(outputs, _INFLUENCE_RULES, marked), strict=True
        ):
            if output.shape[:1] != tuple(2 * n for n in alone.shape[:1]) or output.shape[1:] != alone.shape[1:]:
                raise ModelProblem(f"the output {output.name!r} has no batch axis: {alone.shape} and {output.shape}")
            rows = influenced[0].reshape(2, -1)
            if rows[mine].any():
                raise ModelProblem("the model mixes the samples of a batch: give its input a fixed batch size")
    rng = np.random.default_rng(0)
    pair = {tensor: rng.random((1, *tensor.shape)) for tensor in inputs}
    together = _values(outputs, pair)
    for sample in (0, 1):
        alone_at = {tensor: pair[twin][:, sample : sample + 1] for tensor, twin in zip(single[0], inputs, strict=True)}
        for value, batch in zip(_values(single[1], alone_at), together, strict=True):
            if not np.allclose(batch.reshape(2, -1)[sample], value.reshape(-1), rtol=1e-6, equal_nan=True):
                raise ModelProblem("the model computes something else in a larger batch: fix the batch size")


def _values(outputs: Tensors, known: dict[Tensor, Array]) -> list[Array]:
    with np.errstate(all="ignore"):
        return evaluate(outputs, POINT_RULES, known)


def _mark(tensor: Tensor, sample: int) -> Array:
    mark = np.zeros((1, *tensor.shape))
    mark[:, sample] = 1
    return mark


def _through_weights(primitive: Linear, x: Array) -> Array:
    return (primitive.map.absolute(x) > 0).astype(np.float64)


def _unchanged(primitive: Any, x: Array) -> Array:
    return x


def _moved(primitive: Any, *operands: Array) -> Array:
    return np.asarray(primitive.apply(*operands))


def _selected(primitive: Select, x: Array) -> Array:
    return replace(primitive, fill=0.0).apply(x)


def _pooled(primitive: MaxPool, x: Array) -> Array:
    padding = primitive.padding and replace(primitive.padding, fill=0.0)
    return replace(primitive, padding=padding).apply(x)


def _along_the_last_axis(primitive: Any, x: Array) -> Array:
    return np.broadcast_to(x.max(axis=-1, keepdims=True), x.shape)


def _of_either(primitive: Any, a: Array, b: Array) -> Array:
    return np.maximum(a, b)


def _of_nothing(primitive: Constant) -> Array:
    return np.zeros_like(primitive.apply())


_INFLUENCE_RULES: Rules = {
    Constant: _of_nothing,
    Linear: _through_weights,
    **dict.fromkeys((Clip, LeakyRelu, Function), _unchanged),
    **dict.fromkeys((Sum, Product, Quotient), _of_either),
    **dict.fromkeys((Reshape, Concatenate), _moved),
    Select: _selected,
    MaxPool: _pooled,
    Softmax: _along_the_last_axis,
}
