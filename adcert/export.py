"""Export of a finished run to one ONNX file: normalisation and folded batch norm inside, its origin in the metadata.

The graph is written node by node from the folded network, so that nothing of this machine gets into it and the same
run always gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from adcert import recipe as recipes
from adcert import sources
from adcert.folding import fold_running
from adcert.layers import (
    Add,
    AveragePool,
    Concatenate,
    Convolution,
    Flatten,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Network,
    Normalize,
    Pair,
    Relu,
    Scale,
)
from adcert.problems import ExportProblem
from adcert.run import Trained
from adcert.runtime import COMPARED_IMAGES, comparison_images, logits
from adcert.session import trained_model
from adcert.tracing import trace
from verify.files import write_atomically
from verify.version import __version__

OPSET = 18
IR_VERSION = 10  # read by every onnxruntime from 1.18 on; what onnx writes by default is newer than most runtimes
TOLERANCE = 1e-4  # of the largest logit: float32 sums of different order stay far below, a wrong bias does not


@dataclass(frozen=True)
class Comparison:
    """The exported file in onnxruntime against the trained network in torch, over `images` images."""

    images: int
    max_difference: float
    equal_argmax: int


def export(trained: Trained, path: Path) -> Comparison:
    """Write `trained` to `path` as ONNX; raises as `compared_model` does, and leaves `path` as it was then."""
    model, comparison = compared_model(trained)
    write_atomically(path, model.SerializeToString(deterministic=True))
    return comparison


def compared_model(trained: Trained) -> tuple[onnx.ModelProto, Comparison]:
    """`trained` as ONNX with its metadata, once onnxruntime agrees with torch on its logits.

    Raises ExportProblem if they differ by more than `TOLERANCE` of the largest logit.
    """
    model = onnx_model(trained)
    comparison = compare(model, trained, _images(trained))
    helper.set_model_props(model, {**_metadata(trained), **_comparison_metadata(comparison)})
    onnx.checker.check_model(model, full_check=True)
    return model, comparison


def onnx_model(trained: Trained) -> onnx.ModelProto:
    """The evaluated network: from "image" (batch x C x H x W, in [0, 1]) to "logits" (batch x classes)."""
    benchmark = trained.benchmark
    # Folded in float64 and rounded once.
    nodes, initializers = _graph(fold_running(trace(trained_model(trained).double())))
    graph = helper.make_graph(
        nodes,
        "adcert",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *benchmark.shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", benchmark.classes])],
        initializers,
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="adcert",
        producer_version=__version__,
    )


def _images(trained: Trained) -> NDArray[np.float32]:
    """What the exported model is compared on: random images for the user's own data, which may have gone by now."""
    dataset = trained.recipe.dataset
    if sources.is_own(dataset):
        return np.random.default_rng(0).random((COMPARED_IMAGES, *trained.benchmark.shape), np.float32)
    return comparison_images(dataset)


def compare(model: onnx.ModelProto, trained: Trained, images: NDArray[np.float32]) -> Comparison:
    """Run `model` in onnxruntime and the network, not folded, in torch; raises ExportProblem if they differ."""
    exported = logits(model.SerializeToString(), [images]).reshape(len(images), -1)
    with torch.no_grad():
        expected = trained_model(trained)(torch.from_numpy(images)).numpy()
    difference = float(np.abs(exported - expected).max())
    allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if not difference <= allowed:
        raise ExportProblem(
            f"the ONNX model differs from the trained network by {difference:.3g} in a logit, where {allowed:.3g} is "
            "allowed: nothing was written"
        )
    return Comparison(len(images), difference, int((exported.argmax(1) == expected.argmax(1)).sum()))


Emitted = tuple[str, dict[str, torch.Tensor], dict[str, Any]]  # operator, weights after the operands, attributes


def _convolution(layer: Convolution) -> Emitted:
    # Attributes at their defaults are left out.
    groups = {} if layer.groups == 1 else {"group": layer.groups}
    dilations = {} if layer.dilation == (1, 1) else {"dilations": list(layer.dilation)}
    window = _window(_pair(layer.weight.shape[2:]), layer.stride, layer.padding)
    return "Conv", {"weight": layer.weight, "bias": layer.bias}, {**window, **groups, **dilations}


def _window(kernel: Pair, stride: Pair, padding: Pair) -> dict[str, Any]:
    return {"kernel_shape": list(kernel), "strides": list(stride), "pads": [*padding, *padding]}


def _pair(sizes: torch.Size) -> Pair:
    height, width = sizes
    return height, width


def _scale(layer: Scale) -> Emitted:
    """A batch norm whose statistics are folded into its own scale and bias."""
    zeros, ones = torch.zeros_like(layer.weight), torch.ones_like(layer.weight)
    operands = {"scale": layer.weight, "bias": layer.bias, "mean": zeros, "variance": ones}
    return "BatchNormalization", operands, {"epsilon": 0.0}


def _average_pool(layer: AveragePool) -> Emitted:
    counting = {"count_include_pad": int(layer.count_padding)}
    return "AveragePool", {}, {**_window(layer.kernel, layer.stride, layer.padding), **counting}


EMIT: dict[type, Callable[[Any], list[Emitted]]] = {
    Convolution: lambda layer: [_convolution(layer)],
    Linear: lambda layer: [("Gemm", {"weight": layer.weight, "bias": layer.bias}, {"transB": 1})],
    Scale: lambda layer: [_scale(layer)],
    Normalize: lambda layer: [("Sub", {"mean": layer.mean}, {}), ("Div", {"std": layer.std}, {})],
    Relu: lambda layer: [("Relu", {}, {})],
    Flatten: lambda layer: [("Flatten", {}, {"axis": 1})],
    Add: lambda layer: [("Add", {}, {})],
    Concatenate: lambda layer: [("Concat", {}, {"axis": 1})],
    MaxPool: lambda layer: [("MaxPool", {}, _window(layer.kernel, layer.stride, layer.padding))],
    AveragePool: lambda layer: [_average_pool(layer)],
    GlobalAveragePool: lambda layer: [("GlobalAveragePool", {}, {})],
}


def _graph(network: Network) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes from "image" to "logits" in the order of the network's steps, and their weights in float32."""
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []
    values = ["image"]
    for step in network.steps:
        current = [values[operand] for operand in step.operands]
        for operator, weights, attributes in EMIT[type(step.layer)](step.layer):
            name = f"{operator.lower()}_{len(nodes)}"
            names = [f"{name}.{weight}" for weight in weights]
            nodes.append(helper.make_node(operator, [*current, *names], [name], name=name, **attributes))
            for operand, tensor in zip(names, weights.values(), strict=True):
                initializers.append(numpy_helper.from_array(tensor.to(torch.float32).numpy(), operand))
            current = [name]
        values += current
    nodes[-1].output[0] = "logits"
    return nodes, initializers


def _metadata(trained: Trained) -> dict[str, str]:
    """What a reader of the file, and `verify`, want to know; accuracies in percent."""
    recipe = trained.recipe
    # The user's own file is what was trained on: not what `verify` should look at unless told.
    dataset = {} if sources.is_own(recipe.dataset) else {"dataset": recipe.dataset}
    values = {
        **dataset,
        "eps": recipe.eps.text,
        "norm": "linf",
        "input_range": "[0, 1]",
        "objective": recipe.objective,
        "recipe": recipes.to_json(recipe),
        "teacher_sha256": trained.teacher_sha256 or "",
        "clean_accuracy": f"{trained.held_out.clean:.2f}",
        "certified_accuracy": f"{trained.held_out.ibp:.2f}",
        "certified_by": (
            f"float32 interval bound propagation at eps {recipe.eps.text}, not rigorous, "
            f"on the {recipe.held_out} held-out last images of the training split"
        ),
        "version": __version__,
        "seed": str(recipe.seed),
    }
    return {f"adcert.{name}": value for name, value in values.items()}


def _comparison_metadata(comparison: Comparison) -> dict[str, str]:
    return {
        "adcert.compared_with": f"onnxruntime on {comparison.images} images",
        "adcert.max_difference": f"{comparison.max_difference:.3g}",
        "adcert.equal_argmax": str(comparison.equal_argmax),
    }
