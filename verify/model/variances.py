"""Variances, which runtimes compute in other ways than a network has them.

Layer normalisation divides the deviations x - m from the mean m of n values by the root of their variance v, the mean
of (x - m)^2. Whether it is an operator or written out, a runtime computes v in two passes, as it stands, or in one, as
mean(x^2) - m^2, which is off by no more than

    n + 3 roundings of mean(x^2), and 2 n + 4 of m^2 <= mean(x^2).

`Variance` has room for twice as many. (Updates by one value after the other, Welford's way, are outside the contract:
they sum up nothing, so that neither v nor m is bounded by the roundings of a sum.)
"""

from __future__ import annotations

import numpy as np

from verify.core.functions import SQUARE
from verify.core.linear_maps import Diagonal, Reduction, Scaled
from verify.core.primitives import Linear, Reshape, Select, Sum, Tensor, Variance, rewritten
from verify.errors import ModelProblem

_OF_A_MEAN = 8
"""Roundings of a mean besides those of its terms; a factor that the model computes brings more."""

_NEARLY_ONE = 2.0**-10
"""How far a factor that the model computes may be from what runtimes make of it."""


def with_variances(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The network that bounds every way. Raises ModelProblem for what looks like a variance and is not quite one."""
    return rewritten(outputs, _in_any_way)


def _in_any_way(tensor: Tensor) -> Tensor:
    if not (reduction(tensor) and any(map(_is_deviation, _squared(bare(tensor.operands[0]))))):
        return tensor
    x = _values(tensor)
    if x is None:
        raise ModelProblem(f"node {tensor.name!r}: a variance that is not one of layer normalisation is not supported")
    primitive = tensor.primitive
    assert isinstance(primitive, Linear)
    return Tensor(Variance(primitive.map, 6 * primitive.map.terms + 16), (tensor, x), tensor.shape, tensor.name)


def _values(variance: Tensor) -> Tensor | None:
    """The values from whose mean the deviations are squared and summed, over the same axes."""
    (squares,) = variance.operands
    (deviation,) = _squared(squares) or (variance,)
    if not (isinstance(deviation.primitive, Sum) and deviation.primitive.sign < 0):
        return None
    x, repeated = deviation.operands
    mean, over = _unmoved(repeated), reduction(variance)
    found = reduction(mean)
    if not (over and found and over.axes == found.axes and mean.operands == (x,) and _averages(mean)):
        return None
    elements = np.arange(int(np.prod(mean.shape))).reshape(mean.shape)
    kept = tuple(1 if axis in over.axes else size for axis, size in enumerate(x.shape))
    wanted = np.broadcast_to(elements.reshape(kept), x.shape)
    return x if np.array_equal(_moved(repeated, mean, elements), wanted) else None


def _averages(tensor: Tensor) -> bool:
    """Whether it is the mean of what it sums up, nothing else."""
    primitive = tensor.primitive
    assert isinstance(primitive, Linear)
    ones = primitive.map(np.ones((1, *tensor.operands[0].shape)))
    plain = not primitive.bias.any() and primitive.roundings <= primitive.map.terms + _OF_A_MEAN
    return plain and bool((np.abs(ones - 1.0) < 1e-12).all())


def _moved(tensor: Tensor, source: Tensor, elements: np.ndarray) -> np.ndarray:
    """Where the elements of a source that are only moved on the way to the tensor end up."""
    steps = []
    while tensor is not source:
        steps.append(tensor.primitive)
        (tensor,) = tensor.operands
    for primitive in reversed(steps):
        assert isinstance(primitive, Reshape | Select)
        elements = primitive.apply(elements[np.newaxis])[0]
    return elements


def _squared(tensor: Tensor) -> tuple[Tensor, ...]:
    """The operand of a square, or nothing."""
    return tensor.operands if tensor.primitive is SQUARE else ()


def _is_deviation(tensor: Tensor) -> bool:
    """Whether it is a difference of two values, one of them a sum or mean."""
    tensor = bare(tensor)
    return isinstance(tensor.primitive, Sum) and any(reduction(bare(operand)) for operand in tensor.operands)


def reduction(tensor: Tensor) -> Reduction | None:
    """What a tensor that is a sum or a mean over axes, maybe with a constant added, sums."""
    if not isinstance(tensor.primitive, Linear):
        return None
    map = tensor.primitive.map
    while isinstance(map, Scaled):
        map = map.map
    return map if isinstance(map, Reduction) else None


def bare(tensor: Tensor) -> Tensor:
    """What a tensor is before its elements were moved, or multiplied by what may be one: runtimes drop the latter, and
    then see through it."""
    while isinstance(tensor.primitive, Reshape | Select) or changes_nothing(tensor):
        (tensor,) = tensor.operands
    return tensor


def changes_nothing(tensor: Tensor) -> bool:
    """Whether it multiplies by what may be one, or adds zero."""
    primitive = tensor.primitive
    if not (isinstance(primitive, Linear) and isinstance(primitive.map, Diagonal)):
        return False
    return not primitive.bias.any() and bool((np.abs(primitive.map.scale - 1.0) < _NEARLY_ONE).all())


def _unmoved(tensor: Tensor) -> Tensor:
    while isinstance(tensor.primitive, Reshape | Select):
        (tensor,) = tensor.operands
    return tensor
