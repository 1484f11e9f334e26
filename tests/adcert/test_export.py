"""The exported file: parity, determinism, self-containment, metadata, and no file at all on a mismatch."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from adcert import export as exporting
from adcert import recipe as recipes
from adcert import run as runs
from adcert import session
from adcert.benchmark import BENCHMARKS
from adcert.evaluate import Accuracies
from adcert.problems import ExportProblem
from adcert.train import build_model
from verify.version import __version__

ROOT = Path(__file__).parent.parent.parent


def make_run(folder: Path, recipe_file: Path, *overrides: str) -> Path:
    """A run folder with a finished model whose batch norms have statistics of their own; nothing is trained."""
    run = session.start(folder, recipes.load(str(recipe_file), ["objective=mtl-ibp", *overrides]), None)
    benchmark = BENCHMARKS[run.recipe.dataset]
    model = build_model(run.recipe, benchmark)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for _ in range(3):
            model(torch.rand(16, *benchmark.shape))
    run.finish(model, benchmark, Accuracies(98.4, 97.25, 92.0), "ab" * 32)
    return folder


def run_onnx(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: images})
    return np.asarray(logits)


@pytest.fixture
def exported(tmp_path: Path, recipe_file: Path) -> Path:
    path = tmp_path / "model.onnx"
    exporting.export(runs.load_trained(make_run(tmp_path / "run", recipe_file)), path)
    return path


@pytest.mark.parametrize("model", ["cnn-small", "cnn-7"])
def test_onnxruntime_answers_as_torch_for_any_batch_size(model: str, tmp_path: Path, recipe_file: Path) -> None:
    trained = runs.load_trained(make_run(tmp_path / "run", recipe_file, f"model={model}"))
    comparison = exporting.export(trained, tmp_path / "model.onnx")
    assert comparison.images == 200  # all that the small data set has
    assert comparison.max_difference < 1e-4
    assert comparison.equal_argmax == 200
    for count in (1, 5):
        images = np.random.default_rng(0).random((count, 1, 28, 28), np.float32)
        with torch.no_grad():
            expected = session.trained_model(trained)(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(run_onnx(tmp_path / "model.onnx", images), expected, rtol=1e-4, atol=1e-4)


def test_it_is_one_plain_file(exported: Path) -> None:
    assert sorted(path.suffix for path in exported.parent.iterdir() if path.is_file()) == [".onnx", ".toml"]
    model = onnx.load(exported)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    operators = [node.op_type for node in model.graph.node]
    assert operators == ["Sub", "Div", "Conv", "Relu", "Conv", "Relu", "Flatten", "Gemm", "Relu", "Gemm"]
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    assert dimensions[0].dim_param == "batch"
    assert [dimension.dim_value for dimension in dimensions[1:]] == [1, 28, 28]


def test_nothing_of_this_machine_is_in_it(exported: Path) -> None:
    content = exported.read_bytes()
    for local in (str(ROOT), str(exported.parent), sys.prefix, "site-packages", ".py"):
        assert local.encode() not in content


def test_metadata(exported: Path) -> None:
    entries = {entry.key: entry.value for entry in onnx.load(exported).metadata_props}
    assert all(name.startswith("adcert.") for name in entries)
    values = {name.removeprefix("adcert."): value for name, value in entries.items()}
    assert values["dataset"] == "mnist"
    assert values["eps"] == "1/10"
    assert values["norm"] == "linf"
    assert json.loads(values["input_range"]) == [0, 1]
    assert values["objective"] == "mtl-ibp"
    assert json.loads(values["recipe"])["teacher"]["objective"] == "pgd"
    assert values["teacher_sha256"] == "ab" * 32
    assert (values["clean_accuracy"], values["certified_accuracy"]) == ("98.40", "92.00")
    assert "interval bound propagation" in values["certified_by"]
    assert "held-out" in values["certified_by"]
    assert (values["version"], values["seed"]) == (__version__, "0")
    assert values["equal_argmax"] == "200"
    assert float(values["max_difference"]) < 1e-4


def test_two_processes_write_the_same_bytes(tmp_path: Path, recipe_file: Path) -> None:
    run = make_run(tmp_path / "run", recipe_file)
    hashes = set()
    for name in ("first.onnx", "second.onnx"):
        command = [sys.executable, str(ROOT / "cli.py"), "export", str(run), "--out", str(tmp_path / name)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "agree on 200 of 200 images" in done.stderr
        hashes.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(hashes) == 1


def test_a_mismatch_leaves_no_file(tmp_path: Path, recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = runs.load_trained(make_run(tmp_path / "run", recipe_file))
    original = exporting.onnx_model

    def wrong_bias(given: runs.Trained) -> onnx.ModelProto:
        model = original(given)
        bias = model.graph.initializer[-1]
        values = onnx.numpy_helper.to_array(bias) + np.float32(0.01)
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        return model

    monkeypatch.setattr(exporting, "onnx_model", wrong_bias)
    with pytest.raises(ExportProblem, match=r"differs from the trained network by .* nothing was written"):
        exporting.export(trained, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_a_logit_that_is_not_a_number_is_a_mismatch(tmp_path: Path, recipe_file: Path) -> None:
    trained = runs.load_trained(make_run(tmp_path / "run", recipe_file))
    last_bias = list(trained.weights)[-1]
    trained.weights[last_bias][0] = torch.nan
    with pytest.raises(ExportProblem):
        exporting.export(trained, tmp_path / "model.onnx")
