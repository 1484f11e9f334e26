"""What do bounds cost, against plain inference of the same file?

Runs plain onnxruntime, the bounds compiled to ONNX, and the rigorous float64 bounds in turn, in one process on one
machine, and prints the ratios of their median times: `python benchmarks/throughput.py [--repeat N]`. The networks have
random weights, which cost the same as trained ones. The compiled graph also yields the plain logits; "without them" is
its time less that of one plain run.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from verify.bounds.evaluation import bounds
from verify.compiled import compile_bounds
from verify.core.intervals import Interval
from verify.core.rounding import FLOAT32_ANY_ORDER
from verify.model.network import build
from verify.model.onnx_file import parse

Layer = tuple[str, int, int]
"""Kind ("conv" or "dense"), outputs, stride."""

NETWORKS: dict[str, tuple[tuple[int, int, int], int, list[Layer]]] = {
    "cnn-7 (CIFAR-10)": (
        (3, 32, 32),
        3,
        [("conv", 64, 1), ("conv", 64, 1), ("conv", 128, 2), ("conv", 128, 1), ("conv", 128, 1), ("dense", 512, 0)],
    ),
    "small CNN (MNIST)": ((1, 28, 28), 4, [("conv", 16, 2), ("conv", 32, 2), ("dense", 100, 0)]),
}


def network(shape: tuple[int, int, int], kernel: int, layers: list[Layer]) -> bytes:
    """Convolutions, each with a ReLU, then dense layers, as an ONNX file with an open batch axis."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    name, (channels, size, _) = "x", shape
    features = None

    def tensor(*extents: int) -> str:
        value = rng.normal(size=extents) / np.sqrt(np.prod(extents[1:]) or 1)
        weights.append(numpy_helper.from_array(value.astype(np.float32), f"w{len(weights)}"))
        return weights[-1].name

    for index, (kind, outputs, stride) in enumerate([*layers, ("dense", 10, 0)]):
        result = f"h{index}"
        if kind == "conv":
            operands = [name, tensor(outputs, channels, kernel, kernel), tensor(outputs)]
            nodes.append(helper.make_node("Conv", operands, [result], strides=[stride] * 2, pads=[1] * 4))
            channels, size = outputs, (size + 2 - kernel) // stride + 1
        else:
            if features is None:
                nodes.append(helper.make_node("Flatten", [name], ["flat"]))
                name, features = "flat", channels * size * size
            operands = [name, tensor(outputs, features), tensor(outputs)]
            nodes.append(helper.make_node("Gemm", operands, [result], transB=1))
            features = outputs
        if index < len(layers):
            nodes.append(helper.make_node("Relu", [result], [f"r{index}"]))
            result = f"r{index}"
        name = result
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])
    y = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 10])
    graph = helper.make_graph(nodes, "benchmark", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def interleaved(functions: Sequence[Callable[[], object]], repeat: int) -> list[float]:
    """Median times in seconds of functions that run in turn."""
    times: list[list[float]] = [[] for _ in functions]
    for round_ in range(repeat + 2):
        for function, found in zip(functions, times, strict=True):
            began = time.perf_counter()
            function()
            if round_ >= 2:  # the first two rounds warm caches up
                found.append(time.perf_counter() - began)
    return [statistics.median(found) for found in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=15)
    repeat = parser.parse_args().repeat
    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}, "
        f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}"
    )
    print(f"{'network':20} {'batch':>5} {'plain ms':>9} {'compiled':>9} {'without logits':>15} {'rigorous':>9}")
    for title, (shape, kernel, layers) in NETWORKS.items():
        content = network(shape, kernel, layers)
        parsed = build(parse(content, title))
        compiled = compile_bounds(parsed, (0.0, 1.0)).SerializeToString()
        plain, graph = (
            onnxruntime.InferenceSession(c, providers=["CPUExecutionProvider"]) for c in (content, compiled)
        )
        for batch in (1, 64):
            x = np.random.default_rng(1).random((batch, *shape)).astype(np.float32)
            point = x.astype(np.float64)[:, np.newaxis]
            box = Interval(point - 2 / 255, point + 2 / 255)
            inputs = {"x": x, "eps": np.array(2 / 255, np.float32)}
            runs = [
                partial(plain.run, None, {"x": x}),
                partial(graph.run, None, inputs),
                partial(bounds, parsed, box, FLOAT32_ANY_ORDER),
            ]
            alone, with_graph, rigorous = interleaved(runs, repeat)
            print(
                f"{title:20} {batch:5} {1e3 * alone:9.2f} {with_graph / alone:9.2f} {with_graph / alone - 1:15.2f} "
                f"{rigorous / alone:9.1f}"
            )


if __name__ == "__main__":
    main()
