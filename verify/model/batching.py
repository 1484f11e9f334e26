"""Does a model with an open batch axis treat the samples of a batch independently of each other?

Only then does what is proved for one sample hold in a batch. The model is built for batches of one, two and three, and
dependence between the samples is ruled out exactly, by propagating which elements a sample can influence. That larger
batches differ can only be arranged on purpose: proofs are about executions on one sample.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from verify.core.functions import Function
from verify.core.interpreter import Rules, evaluate
from verify.core.primitives import (
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
    Round,
    Select,
    Sign,
    Softmax,
    Sum,
    Tensor,
    Variance,
)
from verify.core.rounding import Array
from verify.errors import ModelProblem

Tensors = tuple[Tensor, ...]


def require_independent_samples(single: tuple[Tensors, Tensors], several: tuple[Tensors, Tensors], count: int) -> None:
    """Raise ModelProblem unless each sample of a batch gets what it gets alone.

    single, several: inputs and outputs of the model, built for a batch of one and of `count` samples.
    """
    inputs, outputs = several
    for output, alone in zip(outputs, single[1], strict=True):
        if not alone.shape or output.shape != (count * alone.shape[0], *alone.shape[1:]):
            raise ModelProblem(f"the output {output.name!r} has no batch axis: {alone.shape} and {output.shape}")
    for sample in range(count):
        marked = {tensor: _mark(tensor, sample) for tensor in inputs}
        for influenced in evaluate(outputs, _INFLUENCE_RULES, marked):
            rows = influenced[0].reshape(count, -1)
            if np.delete(rows, sample, axis=0).any():
                raise ModelProblem("the model mixes the samples of a batch: give its input a fixed batch size")
    rng = np.random.default_rng(0)
    for scale in (1.0, 10.0):
        batch = {tensor: scale * (rng.random((1, *tensor.shape)) - 0.25) for tensor in inputs}
        together = _values(outputs, batch)
        for sample in range(count):
            alone_at = {
                tensor: batch[twin][:, sample : sample + 1] for tensor, twin in zip(single[0], inputs, strict=True)
            }
            for value, whole in zip(_values(single[1], alone_at), together, strict=True):
                mine = whole.reshape(count, -1)[sample]
                largest = np.abs(mine[np.isfinite(mine)]).max(initial=0.0)
                if not np.allclose(mine, value.reshape(-1), rtol=1e-6, atol=1e-9 * largest, equal_nan=True):
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
    **dict.fromkeys((Clip, LeakyRelu, Function, Round, Sign), _unchanged),
    **dict.fromkeys((Sum, Product, Quotient, Variance), _of_either),
    **dict.fromkeys((Reshape, Concatenate), _moved),
    Select: _selected,
    MaxPool: _pooled,
    Softmax: _along_the_last_axis,
}
