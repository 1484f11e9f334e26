"""Networks that verifiers of real-number semantics certify and onnxruntime misclassifies.

A detector sums constants so that its float32 value depends on precision or order; a switch turns a wrong logit on when
that value differs from the real one (Szasz, Banhelyi, Jelasity, arXiv 2506.01054; Zombori et al., ICLR 2021; Jia and
Rinard, arXiv 2003.03021). Whether a detector fires depends on how a runtime sums; the bounds must hold either way.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from support.onnx_models import ALL, DISABLED, EXTENDED, model, network_of, node, run, session
from verify.bounds.margins import margin_bounds
from verify.boxes import box_around
from verify.compiled import compile_bounds
from verify.core.rounding import FLOAT32_ANY_ORDER, REAL, Contract

F32 = np.float32
BIG = 2.0**24
Floats = NDArray[np.float32]
IMAGE = np.array([[0.9, 0.1, 0.5, 0.3]], F32)
HOST = np.array([[2, -1], [-1, 2], [0.5, 0.5], [0, 0.25]], F32)
"""The clean classifier's weights: answers class 0 at the image, with much to spare."""


def precision() -> tuple[list[float], list[float]]:
    return [BIG, 1, BIG], [1, 1, -1]


def order1(groups: int = 4, size: int = 8) -> tuple[list[float], list[float]]:
    part = [BIG / size] * size
    return [*part, 1, *part] * groups, [*[1] * (size + 1), *[-1] * size] * groups


def order2(terms: int = 64) -> tuple[list[float], list[float]]:
    return [BIG, *[2 / terms] * terms, BIG], [1, *[1] * terms, -1]


def order3(terms: int = 200) -> tuple[list[float], list[float]]:
    return [BIG, *[1] * terms, BIG], [1, *[1] * terms, -1]


DETECTORS: dict[str, Callable[[], tuple[list[float], list[float]]]] = {
    "precision": precision,
    "order1": order1,
    "order2": order2,
    "order3": order3,
}


def backdoored(constants: list[float], weights: list[float], *, depth: int, reverse: bool) -> bytes:
    """The host, with neurons that hold the constants through `depth` layers, their weighted sum d, and a switch that
    adds 100 relu(1 - d / T) to the wrong logit, T being the real value of d."""
    if reverse:
        constants, weights = constants[::-1], weights[::-1]
    real = float(sum(Fraction(c) * Fraction(w) for c, w in zip(constants, weights, strict=True)))
    count = len(constants)
    arrays: dict[str, Floats] = {}
    nodes: list[onnx.NodeProto] = []

    def layer(source: str, name: str, matrix: NDArray[np.float64], bias: NDArray[np.float64], relu: bool) -> str:
        arrays[f"w_{name}"], arrays[f"b_{name}"] = matrix.astype(F32), bias.astype(F32)
        nodes.append(node("Gemm", [source, f"w_{name}", f"b_{name}"], name if not relu else f"pre_{name}"))
        if relu:
            nodes.append(node("Relu", [f"pre_{name}"], name))
        return name

    width = 4 + count
    matrix, bias = np.zeros((4, width)), np.zeros(width)
    matrix[:, :4], bias[4:] = np.eye(4), constants
    current = layer("x", "h0", matrix, bias, relu=True)
    for index in range(1, depth):
        current = layer(current, f"h{index}", np.eye(width), np.zeros(width), relu=True)
    matrix, bias = np.zeros((width, 5)), np.zeros(5)
    matrix[:4, :4], matrix[4:, 4] = np.eye(4), weights
    current = layer(current, "detected", matrix, bias, relu=True)
    matrix, bias = np.zeros((5, 5)), np.zeros(5)
    matrix[:4, :4], matrix[4, 4], bias[4] = np.eye(4), -1 / real, 1
    current = layer(current, "switch", matrix, bias, relu=True)
    matrix = np.zeros((5, 2))
    matrix[:4], matrix[4] = HOST, [0, 100]
    layer(current, "y", matrix, np.zeros(2), relu=False)
    return model(nodes, [1, 4], arrays)


def certifies(content: bytes, x: Floats, contract: Contract, eps: Fraction = Fraction(1, 100)) -> bool:
    network = network_of(content)
    box = box_around(x[np.newaxis], eps, None)
    return bool((margin_bounds(network, box, np.array([0]), contract) > 0).all())


def certifies_by_compiled_bounds(content: bytes, x: Floats) -> bool:
    graph = session(compile_bounds(network_of(content), None).SerializeToString())
    certified, logits = graph.run(["certified", "logits"], {"x": x, "eps": np.array(0.01, F32)})
    return bool(certified[0]) and logits[0].argmax() == 0


def misclassified(content: bytes, x: Floats) -> bool:
    """By onnxruntime, at some optimisation level."""
    outputs = [run(content, x, level=level)[0].reshape(-1) for level in (DISABLED, EXTENDED, ALL)]
    return any(output[0] <= output[1:].max() for output in outputs)


CASES = [(name, depth, reverse) for name in DETECTORS for depth in (1, 3) for reverse in (False, True)]


@pytest.mark.parametrize(("name", "depth", "reverse"), CASES)
def test_a_detector_is_certified_by_real_arithmetic_and_not_by_default(name: str, depth: int, reverse: bool) -> None:
    content = backdoored(*DETECTORS[name](), depth=depth, reverse=reverse)
    assert certifies(content, IMAGE, REAL)
    assert not certifies(content, IMAGE, FLOAT32_ANY_ORDER)
    assert not certifies_by_compiled_bounds(content, IMAGE)


def test_onnxruntime_really_misbehaves_on_detectors() -> None:
    firing = {
        name
        for name, depth, reverse in CASES
        if misclassified(backdoored(*DETECTORS[name](), depth=depth, reverse=reverse), IMAGE)
    }
    assert firing >= {"precision", "order2", "order3"}


@pytest.mark.parametrize("depth", [1, 3])
def test_the_clean_host_is_certified(depth: int) -> None:
    content = backdoored([1.0, 1.0], [1.0, 1.0], depth=depth, reverse=False)
    assert not misclassified(content, IMAGE)
    assert certifies(content, IMAGE, FLOAT32_ANY_ORDER)
    assert certifies_by_compiled_bounds(content, IMAGE)


def convolution_with_a_big_first_and_last_tap(channels: int = 64) -> bytes:
    """3x3 over ones: exactly 9 channels - 2, plus 2^24 and minus 2^24."""
    kernel = np.ones((1, channels, 3, 3), F32)
    kernel[0, 0, 0, 0], kernel[0, -1, -1, -1] = BIG, -BIG
    real = 9 * channels - 2
    nodes = [
        node("Conv", ["x", "k"], "c"),
        node("Flatten", ["c"], "f"),
        node("Gemm", ["f", "scale", "one"], "p"),
        node("Relu", ["p"], "s"),
        node("Gemm", ["s", "w", "b"], "y"),
    ]
    constants = {"k": kernel, "scale": np.full((1, 1), -1 / real, F32), "one": np.ones(1, F32)}
    constants |= {"w": np.array([[0, 100]], F32), "b": np.array([10, 0], F32)}
    return model(nodes, [1, channels, 3, 3], constants)


def test_a_convolution_that_absorbs_its_middle_is_not_certified() -> None:
    content, x = convolution_with_a_big_first_and_last_tap(), np.ones((1, 64, 3, 3), F32)
    assert misclassified(content, x)
    assert certifies(content, x, REAL, Fraction(0))
    assert not certifies(content, x, FLOAT32_ANY_ORDER, Fraction(0))


def test_cancellation_of_huge_terms_hides_no_small_one() -> None:
    """relu(1e17 a - 1e17 b + 1e-3) for a = b: interval bounds in plain floating point would lose the 1e-3."""
    first = np.zeros((4, 6), F32)
    first[:, :4] = np.eye(4)
    first[0, 4] = first[0, 5] = 1
    second = np.zeros((6, 5), F32)
    second[:4, :4] = np.eye(4)
    second[4:, 4] = [1e17, -1e17]
    last = np.zeros((5, 2), F32)
    last[:4], last[4] = HOST, [0, 1e5]
    nodes = [
        node("Gemm", ["x", "w1"], "p1"),
        node("Relu", ["p1"], "h1"),
        node("Gemm", ["h1", "w2", "b2"], "p2"),
        node("Relu", ["p2"], "h2"),
        node("Gemm", ["h2", "w3"], "y"),
    ]
    constants = {"w1": first, "w2": second, "b2": np.array([0, 0, 0, 0, 1e-3], F32), "w3": last}
    content = model(nodes, [1, 4], constants)
    assert misclassified(content, IMAGE)
    for contract in (REAL, FLOAT32_ANY_ORDER):
        assert not certifies(content, IMAGE, contract, Fraction(0))


def test_a_margin_thinner_than_rounding_is_not_certified() -> None:
    """All neurons active, so that the network is linear; its exact margin is a little above zero."""
    fooled = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        matrix = np.abs(rng.normal(size=(50, 50))).astype(F32)
        last = rng.normal(size=50).astype(F32)
        x = rng.random((1, 50)).astype(F32)
        hidden = [
            sum(Fraction(float(v)) * Fraction(float(w)) for v, w in zip(x[0], column, strict=True))
            for column in matrix.T
        ]
        exact = sum(h * Fraction(float(w)) for h, w in zip(hidden, last, strict=True))
        bias = F32(-float(exact))
        if Fraction(float(bias)) + exact <= 0:
            bias = np.nextafter(bias, F32(np.inf))
        margin = Fraction(float(bias)) + exact
        assert 0 < margin < Fraction(1, 1000)
        nodes = [node("Gemm", ["x", "w1"], "p"), node("Relu", ["p"], "h"), node("Gemm", ["h", "w2", "b"], "y")]
        logits = {"w1": matrix, "w2": np.stack([last, np.zeros(50, F32)], axis=1), "b": np.array([bias, 0], F32)}
        content = model(nodes, [1, 50], logits)
        assert not certifies(content, x, FLOAT32_ANY_ORDER, Fraction(0))
        if misclassified(content, x) and certifies(content, x, REAL, Fraction(0)):
            fooled += 1
    assert fooled > 0
