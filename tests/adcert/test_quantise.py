"""Quantised export: one deterministic file that the verifier accepts and the runtime agrees with, or none at all."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from adcert import quantise, runtime
from adcert.problems import ExportProblem
from support.command_line import adcert_in_process as adcert
from support.onnx_models import model, node
from verify.errors import ModelProblem
from verify.model.network import load

ROOT = Path(__file__).parent.parent.parent
STUDENT = ROOT / "exported" / "mnist-0.1-small.onnx"


def metadata(path: Path) -> dict[str, str]:
    return {entry.key.removeprefix("adcert."): entry.value for entry in onnx.load(path).metadata_props}


@pytest.mark.parametrize(("form", "operator"), [("qdq", "Conv"), ("qoperator", "QLinearConv")])
def test_both_forms_are_verifiable_and_answer_as_the_float_file(form: str, operator: str, tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    agreement = quantise.export_int8(STUDENT.read_bytes(), form, path)
    assert agreement.images == 100  # half of the small data set
    assert agreement.equal_argmax >= 97
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["int8.onnx"]
    assert load(path).output.shape == (1, 10)
    assert operator in [node.op_type for node in onnx.load(path).graph.node]
    values, of_float = metadata(path), metadata(STUDENT)
    for name in ("dataset", "eps", "norm", "input_range", "objective", "recipe", "teacher_sha256", "seed"):
        assert values[name] == of_float[name]
    assert values["float_sha256"] == hashlib.sha256(STUDENT.read_bytes()).hexdigest()
    assert values["quantised"].startswith(form)
    assert int(values["equal_argmax"]) == agreement.equal_argmax
    assert float(values["clean_accuracy"]) >= float(values["certified_accuracy"]) > 80
    content = path.read_bytes()
    assert not any(local in content for local in (str(tmp_path).encode(), str(ROOT).encode(), b"/tmp", b".py"))


def test_the_command_quantises_a_file_and_writes_the_same_bytes_each_time(tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(STUDENT.read_bytes())
    command = [sys.executable, str(ROOT / "cli.py"), "export", str(source), "--int8"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "of 100 images" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not done.stdout
    quantise.export_int8(STUDENT.read_bytes(), "qdq", tmp_path / "again.onnx")
    assert (tmp_path / "model-int8.onnx").read_bytes() == (tmp_path / "again.onnx").read_bytes()


def test_what_cannot_be_quantised_is_said_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    anonymous = onnx.load(STUDENT)
    del anonymous.metadata_props[:]
    with pytest.raises(ExportProblem, match="does not name its data set"):
        quantise.export_int8(anonymous.SerializeToString(), "qdq", path)
    with pytest.raises(ExportProblem, match="quantised already"):
        quantise.export_int8((ROOT / "exported" / "mnist-0.1-small-int8.onnx").read_bytes(), "qdq", path)
    with pytest.raises(ModelProblem, match="not an ONNX file"):
        quantise.export_int8(b"not a model", "qdq", path)
    assert not path.exists()


@pytest.mark.parametrize("batch", [["n", 3, 4, 4], [1, 3, 4, 4]])
def test_any_model_is_quantised_with_data_of_its_own(batch: list[str | int], tmp_path: Path) -> None:
    """Somebody else's, of one input at a time or many."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(5, 3, 3, 3)).astype(np.float32), "b": rng.normal(size=5).astype(np.float32)}
    nodes = [
        node("Conv", ["x", "w", "b"], "h"),
        node("Relu", ["h"], "r"),
        node("GlobalAveragePool", ["r"], "p"),
        node("Flatten", ["p"], "y"),
    ]
    path = tmp_path / "model.onnx"
    path.write_bytes(model(nodes, batch, weights))
    x = rng.random((200, 3, 4, 4), np.float32)
    feeds = [x] if batch[0] == "n" else list(x[:, np.newaxis])
    y = runtime.logits(path.read_bytes(), feeds).reshape(200, 5).argmax(axis=1)
    np.savez(tmp_path / "mine.npz", x=x, y=y)
    done = adcert("export", path, "--int8", "--data", tmp_path / "mine.npz")
    assert done.returncode == 0, done.stderr
    quantised = tmp_path / "model-int8.onnx"
    values = metadata(quantised)
    assert values["quantised"].endswith("on the first 100 images of mine.npz")
    assert float(values["clean_accuracy"]) > 90
    assert "certified_accuracy" not in values  # of what eps?
    done = adcert("verify", quantised, "--data", tmp_path / "mine.npz", "--eps", "0.001", "--json", "-")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["summary"]["certified_accuracy"] > 50


def test_data_that_do_not_suit_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", x=np.zeros((9, 5), np.float32), y=np.zeros(9, np.int64))
    np.savez(tmp_path / "one.npz", x=np.zeros((1, 1, 28, 28), np.float32), y=np.zeros(1, np.int64))
    images, labels = np.zeros((9, 1, 28, 28), np.float32), np.zeros(9, np.int64)
    np.savez(tmp_path / "below.npz", x=images, y=labels - 1)
    np.savez(tmp_path / "above.npz", x=images, y=labels + 10)
    np.savez(tmp_path / "nan.npz", x=images + np.float32(np.nan), y=labels)
    reasons = {
        "other": "takes inputs of shape",
        "one": "a single sample",
        "absent": "cannot read",
        "below": "outside the model's 10 classes",
        "above": "outside the model's 10 classes",
        "nan": "holds numbers that are not finite",
    }
    for data, sentence in reasons.items():
        done = adcert("export", STUDENT, "--int8", "--out", tmp_path / "q.onnx", "--data", tmp_path / f"{data}.npz")
        assert done.returncode == 2, done.stderr
        assert sentence in done.stderr
        assert not (tmp_path / "q.onnx").exists()
    done = adcert("export", STUDENT, "--int8", "--out", tmp_path / "q.onnx", "--data", "mnits")
    assert done.returncode == 2
    assert "mnits" in done.stderr


def test_a_format_without_int8_is_a_usage_error(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "cli.py"), "export", str(STUDENT), "--format", "qdq"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--int8" in done.stderr


@pytest.mark.parametrize(
    ("change", "says"), [(lambda logits: -logits, "agrees with"), (lambda logits: 1.01 * logits, "does not allow")]
)
def test_a_runtime_that_disagrees_leaves_no_file(
    change: object, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = runtime.logits

    def changed(model: bytes, images: runtime.Images, level: int = runtime.LEVELS[-1]) -> np.ndarray:
        logits = original(model, images, level)
        return logits if level == runtime.LEVELS[-1] else change(logits)  # type: ignore[operator]

    monkeypatch.setattr(runtime, "logits", changed)
    with pytest.raises(ExportProblem, match=rf"{says}.*nothing was written"):
        quantise.export_int8(STUDENT.read_bytes(), "qdq", tmp_path / "int8.onnx")
    assert not (tmp_path / "int8.onnx").exists()
