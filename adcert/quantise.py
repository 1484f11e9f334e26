"""Static quantisation of an exported model to eight bits, by onnxruntime's own tool.

Activations and weights are uint8, one scale each: sums of their products are exact on every processor, whereas int8
weights of full range saturate beside uint8 activations on x86 without VNNI.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from adcert import runtime
from adcert.problems import ExportProblem
from verify import datasets
from verify.bounds.evaluation import bounds, values
from verify.bounds.margins import margin_bounds
from verify.boxes import box_around, parse_eps
from verify.core.intervals import Interval
from verify.core.rounding import FLOAT32_ANY_ORDER
from verify.files import write_atomically
from verify.model import onnx_file
from verify.model.network import Network, build
from verify.version import __version__

FORMATS = {"qdq": "QDQ", "qoperator": "QOperator"}
"""Float32 operators between DequantizeLinear and QuantizeLinear, which a runtime may execute on integers; or operators
on integers."""

LEAST_AGREEMENT = 0.95
"""Of the images, on how many the quantised model must answer what the float model does."""


@dataclass(frozen=True)
class Agreement:
    """The quantised file against the float one, in onnxruntime, over `images` images.

    equal_argmax: the smallest number of equal answers at any optimisation level. max_difference: between two levels, in
    a logit of the quantised file.
    """

    images: int
    equal_argmax: int
    max_difference: float


def export_int8(source: bytes, form: str, path: Path) -> Agreement:
    """Quantise an exported float model and write it to `path`, once onnxruntime answers nearly what the float model
    does, and at every optimisation level what the verifier says it can.

    source: the content of the float file. form: one of FORMATS. Raises ExportProblem, and ModelProblem where either
    model cannot be verified, and leaves `path` as it was then.
    """
    file = onnx_file.parse(source, "the float model")
    dataset = file.metadata.get("adcert.dataset", "")
    if dataset not in datasets.names() or "adcert.eps" not in file.metadata:
        raise ExportProblem("the model does not name its data set and eps, as those that adcert exports do")
    if any(node.op_type == "QuantizeLinear" for node in file.nodes):
        raise ExportProblem("the model is quantised already")
    model = _quantised(source, form, runtime.calibration_images(dataset))
    content = model.SerializeToString()
    network = build(onnx_file.parse(content, "the quantised model"))
    agreement = compare(content, network, source, runtime.comparison_images(dataset))
    own = {
        **_accuracies(network, parse_eps(file.metadata["adcert.eps"]), dataset),
        "quantised": f"{form}: uint8 activations and weights, one scale each, onnxruntime's MinMax calibration on the "
        f"first {runtime.CALIBRATION_IMAGES} images of the training split",
        "float_sha256": file.sha256,
        "compared_with": f"the float file, in onnxruntime on {agreement.images} images",
        "equal_argmax": str(agreement.equal_argmax),
        "max_difference": f"{agreement.max_difference:.3g} between onnxruntime's optimisation levels",
        "version": __version__,
    }
    kept = {key: value for key, value in file.metadata.items() if key.startswith("adcert.")}
    helper.set_model_props(model, {**kept, **{f"adcert.{name}": value for name, value in own.items()}})
    onnx.checker.check_model(model)
    write_atomically(path, model.SerializeToString(deterministic=True))
    return agreement


def compare(content: bytes, network: Network, source: bytes, images: runtime.Images) -> Agreement:
    """Run the quantised file and the float one in onnxruntime; raises ExportProblem if the answers differ too often, or
    if the quantised file yields a logit that the verifier excludes, which would be a defect of either.

    network: the verifier's reading of the quantised file.
    """
    expected = runtime.logits(source, images).argmax(axis=1)
    found = [runtime.logits(content, images, level) for level in runtime.LEVELS]
    equal = min(int((each.argmax(axis=1) == expected).sum()) for each in found)
    if equal < LEAST_AGREEMENT * len(images):
        raise ExportProblem(
            f"the quantised model agrees with the float one on {equal} of {len(images)} images: nothing was written"
        )
    point = images.reshape(-1, *network.input.shape).astype(np.float64)
    ((lower, upper),) = bounds(network, Interval(point, point), FLOAT32_ANY_ORDER)
    for each in found:
        if not ((lower.reshape(each.shape) <= each) & (each <= upper.reshape(each.shape))).all():
            raise ExportProblem(
                "onnxruntime computes logits that the quantised model does not allow: nothing was written"
            )
    difference = max(float(np.abs(each - found[0]).max()) for each in found)
    return Agreement(len(images), equal, difference)


def _quantised(source: bytes, form: str, images: runtime.Images) -> onnx.ModelProto:
    from onnxruntime import quantization

    given = onnx.load_model_from_string(source)
    name = given.graph.input[0].name

    class Batches(quantization.CalibrationDataReader):  # type: ignore[misc]
        """The images, a hundred at a time."""

        def __init__(self) -> None:
            self.batches = iter({name: images[start : start + 100]} for start in range(0, len(images), 100))

        def get_next(self) -> dict[str, runtime.Images] | None:
            return next(self.batches, None)

    with tempfile.TemporaryDirectory() as folder, _quiet():
        before, after = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        before.write_bytes(source)
        quantization.quantize_static(
            before,
            after,
            Batches(),
            quant_format=quantization.QuantFormat[FORMATS[form]],
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QUInt8,
        )
        model = onnx.load(after)
    model.ir_version = given.ir_version
    model.producer_name, model.producer_version = "adcert", __version__
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tool's advice to preprocess models, of which exported ones have no need."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _accuracies(network: Network, eps: Fraction, dataset: str) -> dict[str, str]:
    """Clean and certified accuracy on the images that both models were compared on."""
    images, labels = runtime.comparison_images(dataset), runtime.comparison_labels(dataset)
    points = images.reshape(-1, *network.input.shape)
    margins = margin_bounds(network, box_around(points, eps, (0.0, 1.0)), labels, FLOAT32_ANY_ORDER)
    (logits,) = values(network, points.astype(np.float64))
    clean = logits.reshape(len(labels), -1).argmax(axis=1) == labels
    certified = (margins > 0).all(axis=1)
    return {
        "clean_accuracy": f"{100 * clean.mean():.2f}",
        "certified_accuracy": f"{100 * certified.mean():.2f}",
        "certified_by": f"interval bounds of the file as executed, at eps {eps}, on the last {len(labels)} images of "
        "the training split",
    }
