"""Small fully connected ReLU networks whose pre-activations can be looked at."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from support.onnx_models import ALL, DISABLED, model, network_of, node, session
from verify.boxes import box_around
from verify.core.intervals import Interval
from verify.model.network import Network
from verify.proofs.certificate import Certificate, Class
from verify.proofs.proof_fields import Proof

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ReluNetwork:
    """weights: from the input on; with ReLUs between them."""

    weights: list[Floats]
    biases: list[Floats]

    @staticmethod
    def random(rng: np.random.Generator, widths: list[int], scale: float = 1.5) -> ReluNetwork:
        """With integer weights, in halves, where the scale is 0, so that zeros and ties are common."""

        def draw(*shape: int) -> Floats:
            if not scale:
                return (rng.integers(-2, 3, shape) / 2).astype(np.float32)
            return (scale * rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)

        pairs = list(pairwise(widths))
        return ReluNetwork([draw(*pair) for pair in pairs], [draw(width) for _, width in pairs])

    @property
    def hidden(self) -> int:
        return len(self.weights) - 1

    def onnx(self, *, inside: bool = False) -> bytes:
        """inside: with the pre-activations p0, p1, ... as further outputs."""
        nodes, current, constants = [], "x", {}
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            constants[f"w{index}"], constants[f"b{index}"] = weight, bias
            name = f"p{index}" if index < self.hidden else "y"
            nodes.append(node("Gemm", [current, f"w{index}", f"b{index}"], name))
            if index < self.hidden:
                nodes.append(node("Relu", [name], f"r{index}"))
                current = f"r{index}"
        outputs = ["y", *(f"p{index}" for index in range(self.hidden) if inside)]
        return model(nodes, ["n", len(self.weights[0])], constants, outputs=outputs)

    def network(self) -> Network:
        return network_of(self.onnx())

    def run(self, x: Floats, level: Any) -> tuple[Floats, Floats]:
        """Outputs, and the pre-activations of all neurons side by side, as onnxruntime computes them."""
        y, *inside = session(self.onnx(inside=True), level=level).run(None, {"x": x})
        return y, np.concatenate(inside, axis=1)


class Executions(NamedTuple):
    """Of a random network at points of a box: outputs and pre-activations, as onnxruntime computes them, twice."""

    rng: np.random.Generator
    network: Network
    box: Interval
    runs: list[tuple[Floats, Floats]]


def random_executions(seed: int) -> Executions:
    """At random points, corners and centres of faces."""
    rng = np.random.default_rng(seed)
    scale = (0.0, 1.0, 3.0)[seed % 3]
    made = ReluNetwork.random(rng, [int(width) for width in rng.integers(2, 7, int(rng.integers(3, 6)))], scale)
    network = made.network()
    centre = (np.round(4 * rng.random(network.input.shape)) / 4).astype(np.float32)
    box = box_around(centre[np.newaxis], Fraction(int(rng.integers(0, 3)), 4), None)
    lower, upper = (end[0].astype(np.float32) for end in box)
    share = rng.random((300, network.input.shape[1]))
    share[100:] = np.round(share[100:] * 2) / 2
    points = np.clip((lower + share * (upper - lower)).astype(np.float32), lower, upper)
    return Executions(rng, network, box, [made.run(points, level) for level in (DISABLED, ALL)])


def class_certificate(network: Network, label: int, box: Interval, proof: Proof) -> Certificate:
    """That the label wins all over the box, which has a single lane."""
    lower, upper = (end[0].astype(np.float32) for end in box)
    return Certificate(network.sha256, "m.onnx", "float32-any-order", Class(label), lower, upper, proof)
