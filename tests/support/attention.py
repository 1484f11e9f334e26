"""Networks that multiply values which depend on the input: three tokens of four numbers."""

from __future__ import annotations

import numpy as np
import onnx

from support.onnx_models import model, node


def attention(rng: np.random.Generator, before: float, after: float) -> bytes:
    """A residual block of self-attention over three tokens of four numbers, with scales around its first product."""
    weights = {name: rng.normal(size=(4, 4)).astype(np.float32) for name in ("q", "k", "v")}
    nodes: list[onnx.NodeProto] = [
        *(node("MatMul", ["x", name], f"{name}0") for name in weights),
        node("Mul", ["q0", "before"], "q1"),
        node("Transpose", ["k0"], "k1", perm=[0, 2, 1]),
        node("MatMul", ["q1", "k1"], "s0"),
        node("Mul", ["s0", "after"], "s1"),
        node("Softmax", ["s1"], "p", axis=-1),
        node("MatMul", ["p", "v0"], "a"),
        node("Add", ["x", "a"], "r"),
        node("Flatten", ["r"], "y", axis=1),
    ]
    return model(nodes, ["n", 3, 4], weights | {"before": np.float32(before), "after": np.float32(after)})


def heads(rng: np.random.Generator) -> bytes:
    """Two heads of attention over three tokens that share their keys and values; gated by the mean of the tokens."""
    weights = {"q": rng.normal(size=(4, 8)), "k": rng.normal(size=(4, 4)), "v": rng.normal(size=(4, 4))}
    nodes = [
        *(node("MatMul", ["x", name], f"{name}0") for name in weights),
        *(node("Reshape", ["q0", "two"], "q1"), node("Transpose", ["q1"], "q2", perm=[0, 2, 1, 3])),
        *(node("Unsqueeze", ["k0", "first"], "k1"), node("Transpose", ["k1"], "k2", perm=[0, 1, 3, 2])),
        node("MatMul", ["q2", "k2"], "s"),
        *(node("Softmax", ["s"], "p", axis=-1), node("Unsqueeze", ["v0", "first"], "v1")),
        node("MatMul", ["p", "v1"], "a"),
        *(node("ReduceMean", ["a", "tokens"], "m", keepdims=1), node("Mul", ["a", "m"], "g")),
        *(node("Reshape", ["g", "flat"], "y"),),
    ]
    numbers = {"two": [-1, 3, 2, 4], "first": [1], "tokens": [2], "flat": [-1, 24]}
    constants = {name: values.astype(np.float32) for name, values in weights.items()}
    return model(nodes, ["n", 3, 4], constants | {name: np.array(values) for name, values in numbers.items()}, opset=18)


def gated_by_its_mean() -> bytes:
    """Tokens as the rows of a matrix, each multiplied by their mean; one sample at a time."""
    nodes = [
        node("Reshape", ["x", "rows"], "r"),
        node("ReduceMean", ["r", "over"], "m", keepdims=1),
        *(node("Mul", ["m", "r"], "g"), node("Reshape", ["g", "flat"], "y")),
    ]
    numbers = {"rows": [3, 4], "over": [0], "flat": [1, 12]}
    return model(nodes, [1, 3, 4], {name: np.array(values) for name, values in numbers.items()}, opset=18)
