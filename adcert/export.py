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
from adcert.data import BENCHMARKS
from adcert.folding import Convolution, Flatten, Linear, Network, Normalize, Relu, fold_running
from adcert.problems import ExportProblem
from adcert.run import Trained
from adcert.runtime import comparison_images, logits
from adcert.session import trained_model
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
    comparison = compare(model, trained, comparison_images(trained.recipe.dataset))
    helper.set_model_props(model, {**_metadata(trained), **_comparison_metadata(comparison)})
    onnx.checker.check_model(model, full_check=True)
    return model, comparison


def onnx_model(trained: Trained) -> onnx.ModelProto:
    """The evaluated network: from "image" (batch x C x H x W, in [0, 1]) to "logits" (batch x classes)."""
    benchmark = BENCHMARKS[trained.recipe.dataset]
    # Folded in float64 and rounded once.
    nodes, initializers = _graph(fold_running(trained_model(trained).double()))
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


def compare(model: onnx.ModelProto, trained: Trained, images: NDArray[np.float32]) -> Comparison:
    """Run `model` in onnxruntime and the network, not folded, in torch; raises ExportProblem if they differ."""
    exported = logits(model.SerializeToString(), images)
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


Emitted = tuple[str, dict[str, torch.Tensor], dict[str, Any]]  # operator, operands after the first, attributes


def _convolution(layer: Convolution) -> Emitted:
    attributes = {
        "kernel_shape": list(layer.weight.shape[2:]),
        "strides": list(layer.stride),
        "pads": [*layer.padding, *layer.padding],
    }
    return "Conv", {"weight": layer.weight, "bias": layer.bias}, attributes


def _linear(layer: Linear) -> Emitted:
    return "Gemm", {"weight": layer.weight, "bias": layer.bias}, {"transB": 1}


EMIT: dict[type, Callable[[Any], list[Emitted]]] = {
    Convolution: lambda layer: [_convolution(layer)],
    Linear: lambda layer: [_linear(layer)],
    Normalize: lambda layer: [("Sub", {"mean": layer.mean}, {}), ("Div", {"std": layer.std}, {})],
    Relu: lambda layer: [("Relu", {}, {})],
    Flatten: lambda layer: [("Flatten", {}, {"axis": 1})],
}


def _graph(network: Network) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """A chain of nodes from "image" to "logits", and their weights in float32."""
    emitted = [entry for layer in network.layers for entry in EMIT[type(layer)](layer)]
    nodes, initializers = [], []
    current = "image"
    for index, (operator, operands, attributes) in enumerate(emitted):
        name = f"{operator.lower()}_{index}"
        names = [f"{name}.{operand}" for operand in operands]
        output = "logits" if index == len(emitted) - 1 else name
        nodes.append(helper.make_node(operator, [current, *names], [output], name=name, **attributes))
        for operand, tensor in zip(names, operands.values(), strict=True):
            initializers.append(numpy_helper.from_array(tensor.to(torch.float32).numpy(), operand))
        current = output
    return nodes, initializers


def _metadata(trained: Trained) -> dict[str, str]:
    """What a reader of the file, and `verify`, want to know; accuracies in percent."""
    recipe = trained.recipe
    values = {
        "dataset": recipe.dataset,
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
