"""Models that take images as bytes, and scale them themselves: verdicts are about every image of bytes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import verify
from support.command_line import adcert_in_process as adcert
from support.onnx_models import ALL, DISABLED, model, node, run
from verify.errors import ModelProblem, Problem
from verify.model.network import load

F32, UINT8 = np.float32, onnx.TensorProto.UINT8
Pixels = NDArray[np.uint8]


def floats(rng: np.random.Generator) -> bytes:
    """Of pictures of 2 x 2 x 1 pixels, channels last: they are moved, cast, scaled and normalised."""
    nodes = [
        node("Transpose", ["x"], "moved", perm=[0, 3, 1, 2]),
        node("Cast", ["moved"], "cast", to=onnx.TensorProto.FLOAT),
        node("Mul", ["cast", "scale"], "scaled"),
        node("Sub", ["scaled", "mean"], "centred"),
        node("Conv", ["centred", "kernel"], "c"),
        node("Relu", ["c"], "r"),
        node("Flatten", ["r"], "flat"),
        node("MatMul", ["flat", "w"], "y"),
    ]
    weights = {
        "scale": F32(1 / 255),
        "mean": F32(0.45),
        "kernel": 4 * rng.normal(size=(6, 1, 2, 2)).astype(F32),
        "w": 4 * rng.normal(size=(6, 3)).astype(F32),
    }
    return model(nodes, ["n", 2, 2, 1], weights, taking=UINT8)


def quantised(rng: np.random.Generator) -> bytes:
    """The bytes are those of a grid, and so are the weights."""
    nodes = [
        node("DequantizeLinear", ["x", "s", "z"], "h"),
        node("DequantizeLinear", ["w", "ws"], "wd"),
        node("MatMul", ["h", "wd"], "p"),
        node("Relu", ["p"], "r"),
        node("QuantizeLinear", ["r", "t", "u"], "q"),
        node("DequantizeLinear", ["q", "t", "u"], "g"),
        node("DequantizeLinear", ["v", "ws"], "vd"),
        node("MatMul", ["g", "vd"], "y"),
    ]
    weights = {
        "s": F32(0.02),
        "z": np.uint8(128),
        "w": rng.integers(-60, 60, (4, 6)).astype(np.int8),
        "ws": F32(0.02),
        "t": F32(0.02),
        "u": np.uint8(0),
        "v": rng.integers(-60, 60, (6, 3)).astype(np.int8),
    }
    return model(nodes, ["n", 4], weights, taking=UINT8)


def integers(rng: np.random.Generator) -> bytes:
    nodes = [
        node("MatMulInteger", ["x", "w"], "p"),
        node("Cast", ["p"], "h", to=onnx.TensorProto.FLOAT),
        node("Mul", ["h", "s"], "k"),
        node("Relu", ["k"], "r"),
        node("MatMul", ["r", "v"], "y"),
    ]
    weights = {
        "w": rng.integers(-60, 60, (4, 6)).astype(np.int8),
        "s": F32(1e-3),
        "v": rng.normal(size=(6, 3)).astype(F32),
    }
    return model(nodes, ["n", 4], weights, taking=UINT8)


MAKERS: Sequence[Callable[[np.random.Generator], bytes]] = (floats, quantised, integers)


def answers(content: bytes, x: Pixels) -> set[int]:
    """What onnxruntime answers to any of the pictures, however it optimises."""
    return {int(each) for level in (DISABLED, ALL) for each in run(content, x, level=level)[0].argmax(axis=1)}


def neighbours(x: Pixels, eps: int) -> Pixels:
    """All pictures of bytes within eps."""
    ranges = (range(max(0, pixel - eps), min(255, pixel + eps) + 1) for pixel in x.reshape(-1).tolist())
    return np.array(list(itertools.product(*ranges)), np.uint8).reshape(-1, *x.shape)


def pictures(content: bytes, shape: tuple[int, ...], count: int) -> tuple[Pixels, list[int]]:
    """As the model answers them."""
    x = np.random.default_rng(5).integers(0, 256, (count, *shape)).astype(np.uint8)
    x[0].flat[0], x[1].flat[-1] = 0, 255
    return x, [min(answers(content, each[np.newaxis])) for each in x]


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("method", ["ibp", "complete"])
def test_verdicts_are_those_of_all_pictures_within_eps(
    maker: Callable[[np.random.Generator], bytes], method: str, tmp_path: Path
) -> None:
    content = maker(np.random.default_rng(0))
    (tmp_path / "model.onnx").write_bytes(content)
    x, y = pictures(content, load(tmp_path / "model.onnx").input.shape[1:], 12)
    eps, decided = 3, 0
    result = verify.verify(tmp_path / "model.onnx", x, y, eps=eps, method=method, timeout_s=20)
    for verdict, picture, label in zip(result.verdicts, x, y, strict=True):
        near = neighbours(picture, eps)
        if verdict.status == "verified":
            decided += 1
            assert answers(content, near) == {label}
        if verdict.counterexample is not None:
            decided += 1
            found = verdict.counterexample.astype(np.uint8)
            assert (found == verdict.counterexample).all()
            assert (near == found.reshape(picture.shape)).reshape(len(near), -1).all(axis=1).any()
            assert answers(content, found.reshape(1, *picture.shape)) != {label}
    assert decided >= (12 if method == "complete" else 4)


def test_counterexamples_are_pictures_of_bytes(tmp_path: Path) -> None:
    """Between 100 and 101 lies what floats might be: no byte does."""
    nodes = [
        node("Cast", ["x"], "h", to=onnx.TensorProto.FLOAT),
        node("Sub", ["h", "middle"], "d"),
        node("Mul", ["d", "d"], "e"),
        node("MatMul", ["e", "w"], "k"),
        node("Add", ["k", "b"], "y"),
    ]
    weights = {
        "middle": F32(100.5),
        "w": F32([[1, 0]]),
        "b": F32([0, 0.2]),
    }  # the second class between 100.05 and 100.95
    path = tmp_path / "model.onnx"
    path.write_bytes(model(nodes, ["n", 1], weights, taking=UINT8))
    result = verify.verify(path, np.array([[99]], np.uint8), [0], eps=3, method="complete", timeout_s=1)
    assert result.verdicts[0].counterexample is None
    assert result.verdicts[0].status in ("unknown", "timeout")


def test_the_commands_take_bytes(tmp_path: Path) -> None:
    content = floats(np.random.default_rng(0))
    (tmp_path / "model.onnx").write_bytes(content)
    x, y = pictures(content, (2, 2, 1), 12)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    about = tmp_path / "model.onnx", "--data", tmp_path / "data.npz", "--eps", "2"
    files = (
        "--certificates",
        tmp_path / "proofs",
        "--json",
        tmp_path / "result.json",
        "--report",
        tmp_path / "page.html",
    )
    done = adcert("verify", *about, "--method", "complete", *files)
    assert done.returncode == 0, done.stderr
    assert "within [0, 255]" in done.stderr
    proofs = sorted((tmp_path / "proofs").iterdir())
    assert verify.check_certificate(proofs[0]).upper.max() <= 255
    done = adcert("check", tmp_path / "result.json", *proofs)
    assert done.returncode == 0, done.stderr
    wide = tmp_path / "model.onnx", "--data", tmp_path / "data.npz", "--eps", "200"
    done = adcert("attack", *wide, "--out", tmp_path / "found.npz")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "found.npz") as found:
        assert found["x"].dtype == np.uint8
    done = adcert("verify", tmp_path / "model.onnx", "--data", tmp_path / "found.npz", "--eps", "0")
    assert "clean accuracy      0.00 %" in done.stderr
    done = adcert("inspect", tmp_path / "model.onnx", "--runtime")
    assert done.returncode == 0
    assert "not run" not in done.stderr
    assert "No probe found" in done.stderr


def test_a_question_about_no_bytes_costs_no_result(tmp_path: Path) -> None:
    content = floats(np.random.default_rng(0))
    (tmp_path / "model.onnx").write_bytes(content)
    x, y = pictures(content, (2, 2, 1), 4)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    about = "verify", tmp_path / "model.onnx", "--data", tmp_path / "data.npz", "--json", tmp_path / "result.json"
    assert adcert(*about, "--eps", "1").returncode == 0
    kept = (tmp_path / "result.json").read_bytes()
    for wrong in (("--eps", "0.5"), ("--eps", "1", "--curve", "2,0.5"), ("--eps", "1", "--input-range", "0,10")):
        assert adcert(*about, *wrong).returncode == 2
        assert (tmp_path / "result.json").read_bytes() == kept


def test_logits_that_are_integers_are_compared_as_such(tmp_path: Path) -> None:
    """As float32 numbers they would be the same."""
    weight = np.full((1301, 2), 60, np.int8)
    weight[-1] = 0, 1
    proto = onnx.load_model_from_string(
        model([node("MatMulInteger", ["x", "w"], "y")], ["n", 1301], {"w": weight}, taking=UINT8)
    )
    proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT32
    path, x = tmp_path / "model.onnx", np.full((1, 1301), 255, np.uint8)
    x[0, -1] = 1
    path.write_bytes(proto.SerializeToString())
    result = verify.find_counterexamples(path, x, [1], eps=0)
    assert result.verdicts[0].prediction == 1
    assert result.verdicts[0].counterexample is None


def test_inspect_says_what_a_model_takes(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(floats(np.random.default_rng(0)))
    assert "uint8 1 x 2 x 2 x 1" in adcert("inspect", tmp_path / "model.onnx").stderr


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"eps": "1/2"}, "eps is a whole number, not 0.5"),
        ({"eps": 1, "input_range": (0.0, 1.5)}, r"a part of \[0, 255\]"),
        ({"eps": 1, "input_range": (0.0, 256.0)}, r"a part of \[0, 255\]"),
        ({"eps": 1, "images": np.zeros((1, 2, 2, 1), F32)}, "holds numbers of type float32"),
    ],
)
def test_what_is_no_box_of_bytes_is_refused(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(floats(np.random.default_rng(0)))
    with pytest.raises(Problem, match=reason):
        verify.verify(path, **({"images": np.zeros((1, 2, 2, 1), np.uint8), "labels": [0]} | options))


def test_what_is_about_floats_is_refused(tmp_path: Path) -> None:
    path, property = tmp_path / "model.onnx", tmp_path / "property.vnnlib"
    path.write_bytes(integers(np.random.default_rng(0)))
    declared = "".join(f"(declare-const {name} Real)\n" for name in ("X_0", "X_1", "X_2", "X_3", "Y_0", "Y_1", "Y_2"))
    boxes = "".join(f"(assert (>= X_{i} 0.0))(assert (<= X_{i} 1.0))\n" for i in range(4))
    property.write_text(f"{declared}{boxes}(assert (<= Y_0 Y_1))\n")
    with pytest.raises(ModelProblem, match="a property is about models that take float32 numbers"):
        verify.verify_property(path, property)
    with pytest.raises(ModelProblem, match="a graph of bounds is about models that take float32 numbers"):
        verify.compile_bounds(path)
    np.savez(tmp_path / "data.npz", x=np.zeros((40, 4), np.uint8), y=np.zeros(40, int))
    done = adcert("export", path, "--int8", "--data", tmp_path / "data.npz", "--out", tmp_path / "int8.onnx")
    assert done.returncode == 4
    assert "quantisation is about models that take float32 numbers" in done.stderr
