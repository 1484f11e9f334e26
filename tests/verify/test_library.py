"""`import verify` as a program uses it."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import verify
import verify.library
from support.command_line import ROOT
from support.command_line import adcert_in_process as adcert
from support.onnx_models import model, node

X = np.array([[0.9, 0.1], [0.2, 0.8], [0.55, 0.45], [0.1, 0.9]], np.float32)
Y = np.array([0, 1, 0, 0])


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """Answers the larger of two numbers: certain where they differ by more than twice eps."""
    path = tmp_path / "model.onnx"
    weights = {"w": np.eye(2, dtype=np.float32)}
    path.write_bytes(model([node("Gemm", ["x", "w"], "y")], ["n", 2], weights))
    return path


def test_the_names_are_these() -> None:
    assert verify.__all__ == [
        "Answer",
        "Certificate",
        "Confirmed",
        "Effort",
        "ModelProblem",
        "Problem",
        "PropertyResult",
        "Rejected",
        "Result",
        "Status",
        "Summary",
        "Verdict",
        "check_certificate",
        "check_result",
        "compile_bounds",
        "find_counterexamples",
        "load_data",
        "verify",
        "verify_property",
        "write_report",
    ]
    assert verify.library.__all__ == verify.__all__
    assert set(verify.__all__) <= set(dir(verify))
    assert all(getattr(verify, name).__doc__ for name in verify.__all__)
    with pytest.raises(AttributeError, match="no attribute 'prove'"):
        _ = verify.prove


def test_a_name_of_the_library_is_no_module() -> None:
    """Importing a module would take the name's place."""
    modules = {path.stem for path in Path(verify.__file__).parent.iterdir()}
    assert not modules & set(verify.__all__)


def test_verdicts_are_those_of_the_command(classifier: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    told = tmp_path / "told.json"
    done = adcert("verify", classifier, "--data", tmp_path / "data.npz", "--eps", "0.1", "--attack", "--json", told)
    assert done.returncode == 0, done.stderr
    result = verify.verify(classifier, X, Y, eps=0.1, attack=verify.Effort())
    result.save(tmp_path / "own.json")
    files = [json.loads((tmp_path / name).read_text()) for name in ("told.json", "own.json")]
    for file in files:
        assert file["data"].pop("name") in ("data.npz", "arrays")
        file["summary"].pop("time_s")
        for sample in file["samples"]:
            sample.pop("time_s")
    assert files[0] == files[1]
    statuses = [verdict.status for verdict in result.verdicts]
    assert statuses == ["verified", "verified", "counterexample", "misclassified"]
    assert result.certified.tolist() == [True, True, False, False]
    assert (result.summary.certified_accuracy, result.summary.attacked_accuracy) == (50.0, 50.0)


@pytest.mark.parametrize("eps", [0.1, "0.1", "1/10", Fraction(1, 10), np.float32(0.1)])
def test_eps_is_what_it_prints_as(classifier: Path, eps: verify.library.Eps) -> None:
    assert verify.verify(classifier, X, Y, eps=eps).question.eps == Fraction(1, 10)


def test_bytes_are_scaled_and_lists_are_arrays(classifier: Path) -> None:
    result = verify.verify(str(classifier), np.array([[255, 0], [127, 128]], np.uint8), [0, 1], eps="0.01")
    assert [verdict.status for verdict in result.verdicts] == ["verified", "unknown"]
    assert result.question.input_range == (0.0, 1.0)
    assert verify.verify(classifier, X, Y, eps=0.1).question.input_range is None
    assert verify.verify(classifier, X, Y, eps=0.1, input_range=(0, 2)).question.input_range == (0, 2)


def test_counterexamples_are_inputs_that_are_answered_otherwise(classifier: Path) -> None:
    result = verify.find_counterexamples(classifier, X, Y, eps=0.1)
    found = {verdict.index: verdict.counterexample for verdict in result.verdicts if verdict.counterexample is not None}
    assert list(found) == [2]
    x = found[2]
    assert x.dtype == np.float32
    assert x.shape == (1, 2)  # of the model's input, for one sample
    assert np.abs(x.astype(float) - X[2]).max() <= 0.1 + np.spacing(np.float32(1))  # boxes are rounded outward
    assert x[0, 1] >= x[0, 0]


def test_certificates_are_checked_anew(classifier: Path, tmp_path: Path) -> None:
    result = verify.verify(classifier, X, Y, eps=0.1, certificates=tmp_path / "proofs")
    path = result.verdicts[0].certificate
    assert path is not None
    certificate = verify.check_certificate(path)
    assert certificate.lower.shape == (1, 2)
    assert certificate.claim == verify.check_certificate(path, classifier).claim
    classifier.write_bytes(model([node("Gemm", ["x", "w"], "y")], ["n", 2], {"w": -np.eye(2, dtype=np.float32)}))
    with pytest.raises(verify.Rejected, match="another model"):
        verify.check_certificate(path)


def test_a_file_is_no_folder_of_certificates(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(verify.Problem, match="is a file, not a folder"):
        verify.verify(classifier, X, Y, eps=0.1, certificates=classifier)
    with pytest.raises(verify.Problem, match="is a file, not a folder"):
        verify.verify_property(classifier, tmp_path / "property.vnnlib", certificates=classifier)


@pytest.mark.parametrize("jobs", [0, -1, 2.5, "2"])
def test_processes_are_counted(classifier: Path, jobs: Any) -> None:
    with pytest.raises(verify.Problem, match="is not a number of processes"):
        verify.verify(classifier, X, Y, eps=0.1, jobs=jobs)


def test_a_property_has_an_answer(classifier: Path, tmp_path: Path) -> None:
    names = "".join(f"(declare-const {name} Real)" for name in ("X_0", "X_1", "Y_0", "Y_1"))
    box = "(assert (>= X_0 0.5))(assert (<= X_0 1))(assert (>= X_1 0))(assert (<= X_1 0.25))"
    path = tmp_path / "property.vnnlib"
    path.write_text(f"{names}{box}(assert (<= Y_0 Y_1))")
    assert verify.verify_property(classifier, path).decision.answer is verify.Answer.UNSAT
    path.write_text(f"{names}{box}(assert (<= Y_0 0.6))")
    decision = verify.verify_property(classifier, path).decision
    assert decision.answer is verify.Answer.SAT
    assert decision.witness is not None
    assert decision.witness.y[0] <= 0.6
    with pytest.raises(verify.Problem, match="unknown method 'magic'"):
        verify.verify_property(classifier, path, method="magic")


def test_compiled_bounds_are_a_valid_graph(classifier: Path) -> None:
    graph = verify.compile_bounds(classifier)
    onnx.checker.check_model(graph)
    assert [value.name for value in graph.graph.input] == ["x", "eps"]


def test_a_report_shows_the_arrays_and_compares(tmp_path: Path) -> None:
    path = ROOT / "exported" / "mnist-0.1-small.onnx"
    images, labels = verify.load_data("mnist")
    assert (images.shape, images.dtype, labels.shape) == ((10_000, 1, 28, 28), np.uint8, (10_000,))
    narrow, wide = (verify.verify(path, images[:6], labels[:6], eps=eps) for eps in (0.1, 0.2))
    wide.save(tmp_path / "wide.json")
    verify.write_report(tmp_path / "one.html", narrow)
    verify.write_report(tmp_path / "two.html", [narrow, tmp_path / "wide.json"], data="mnist")
    one, two = ((tmp_path / name).read_text() for name in ("one.html", "two.html"))
    assert one.count("<img") == 6
    assert two.count("<img") == 12
    assert "2 robustness results compared" in two
    assert "Accuracy against eps" in two


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"images": X.astype(np.float64)}, "x must be float32 or uint8"),
        ({"labels": [0.5] * 4}, "y integers"),
        ({"labels": [0]}, "are not N samples with N labels"),
        ({"labels": [0, 1, 2, 0]}, "outside the model's 2 classes"),
        ({"images": X[:, :1]}, r"takes inputs of shape \(1, 2\)"),
        ({"images": X * np.float32(np.nan)}, "not finite"),
        ({"input_range": (0.2, 1)}, "leave the range"),
        ({"eps": None}, "does not name its eps"),
        ({"eps": -0.1}, "must not be negative"),
        ({"eps": float("nan")}, "must be a decimal"),
        ({"method": "magic"}, "unknown method 'magic'"),
        ({"method": "attack"}, "unknown method 'attack'"),
        ({"method": "complete", "timeout_s": -5}, "a time limit of -5 s leaves no time"),
        ({"contract": "any"}, "unknown contract 'any'"),
    ],
)
def test_mistakes_are_problems(classifier: Path, changes: dict[str, object], sentence: str) -> None:
    arguments = {"images": X, "labels": Y, "eps": 0.1, **changes}
    with pytest.raises(verify.Problem, match=sentence):
        verify.verify(classifier, **arguments)


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no")
    with pytest.raises(verify.ModelProblem):
        verify.verify(tmp_path / "model.onnx", X, Y, eps=0.1)


def test_importing_is_light_and_interval_bounds_load_no_torch() -> None:
    program = (
        "import sys, verify, adcert\n"
        "assert not {'numpy', 'onnx', 'torch'} & set(sys.modules)\n"
        "images, labels = verify.load_data('mnist')\n"
        "verify.verify('exported/mnist-0.1-small.onnx', images[:2], labels[:2])\n"
        "assert not {'torch', 'onnxruntime', 'rich'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
