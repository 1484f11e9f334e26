"""`verify --vnnlib`, `attack` and `verify --attack` as a script uses them: verdicts, exit codes, files."""

from __future__ import annotations

import gzip
import json
import os
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from support.command_line import adcert_in_process as adcert
from support.onnx_models import model, node, run

F32 = np.float32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """model.onnx: y = relu(x) - 1/2 on three numbers; data.npz: samples of it as a classifier."""
    constants = {"w": np.eye(3, dtype=F32), "b": np.full(3, -0.5, F32)}
    nodes = [node("Relu", ["x"], "h"), node("Gemm", ["h", "w", "b"], "y")]
    metadata = {"adcert.eps": "1/10", "adcert.dataset": str(tmp_path / "data.npz")}
    (tmp_path / "model.onnx").write_bytes(model(nodes, ["n", 3], constants, metadata=metadata))
    x = np.array([[0.9, 0.1, 0], [0.2, 0.3, 0], [0, 0, 1]], F32)
    np.savez(tmp_path / "data.npz", x=x, y=np.array([0, 1, 0]))
    return tmp_path


def property_of(folder: Path, *assertions: str, low: str = "0", high: str = "0.25") -> Path:
    names = [f"{tensor}_{i}" for tensor in "XY" for i in range(3)]
    box = [f"(assert (>= X_{i} {low}))(assert (<= X_{i} {high}))" for i in range(3)]
    text = "".join(f"(declare-const {name} Real)" for name in names) + "".join(box)
    path = folder / "property.vnnlib.gz"
    path.write_bytes(gzip.compress((text + "".join(f"(assert {each})" for each in assertions)).encode()))
    return path


def test_a_property_that_holds(folder: Path) -> None:
    path = property_of(folder, "(or (>= Y_0 0.3) (and (>= Y_1 0) (<= Y_2 0)) (>= (- Y_0 Y_1) 0.26))")
    proofs, result = folder / "proofs", folder / "result.json"
    done = adcert("verify", folder / "model.onnx", "--vnnlib", path, "--certificates", proofs, "--json", result)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "unsat\n"
    found = json.loads(result.read_text())
    assert found["schema_version"] == 1
    assert (found["verdict"], found["decided_by"], found["counterexample"]) == ("unsat", "ibp", None)
    (certificate,) = proofs.iterdir()
    assert found["certificates"] == [str(certificate)]
    assert certificate.name == "property-00000.json"
    assert adcert("check", certificate).stdout == f"{certificate}: valid\n"
    fields = json.loads(certificate.read_text())
    for alternative in fields["property"]["alternatives"]:
        alternative[0]["bound"] = "10"
    certificate.write_text(json.dumps(fields))
    done = adcert("check", certificate)
    assert done.returncode == 1
    assert "rejected: bounds by ibp do not prove it" in done.stdout


def test_a_property_with_a_counterexample(folder: Path) -> None:
    path = property_of(folder, "(>= (+ Y_0 Y_1) -0.51)", "(<= Y_2 -0.4)")
    done = adcert("verify", folder / "model.onnx", "--vnnlib", path, "--method", "crown", "--json", folder / "r.json")
    assert done.returncode == 1, done.stderr
    first, rest = done.stdout.split("\n", 1)
    assert first == "sat"
    assert rest.startswith("((X_0 ")
    assert rest.endswith("))\n")
    pairs = re.findall(r"\(([XY])_(\d) (\S+?)\)", rest)
    assert [(name, int(index)) for name, index, _ in pairs] == [(name, i) for name in "XY" for i in range(3)]
    x, y = ([Fraction(value) for name, _, value in pairs if name == tensor] for tensor in "XY")
    assert all(0 <= value <= Fraction(1, 4) for value in x)
    (output,) = run((folder / "model.onnx").read_bytes(), np.array([list(map(float, x))], F32))
    assert [Fraction(float(value)) for value in output[0]] == y
    assert y[0] + y[1] >= Fraction("-0.51")
    assert y[2] <= Fraction("-0.4")
    found = json.loads((folder / "r.json").read_text())["counterexample"]
    assert list(map(Fraction, found["point"])) == x
    assert found["x"] == list(map(float, x))


def test_the_counterexample_of_version_2(folder: Path) -> None:
    path = folder / "two.vnnlib"
    box = "".join(f"(assert (>= A[0,{i}] 0.1))(assert (<= A[0,{i}] 0.1))" for i in range(3))
    head = "(vnnlib-version <2.0>)(declare-network f (declare-input A float32 [1,3])(declare-output B Real [3]))"
    path.write_text(f"{head}{box}(assert (<= B[0] 0))")
    done = adcert("verify", folder / "model.onnx", "--vnnlib", path)
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[:5] == ["sat", "A float32 [1,3]", "0.1", "0.1", "0.1"]
    assert done.stdout.splitlines()[5] == "B Real [3]"
    assert len(done.stdout.splitlines()) == 9


def test_a_property_that_is_neither_proved_nor_refuted(folder: Path) -> None:
    path = property_of(folder, "(<= (- Y_0 X_0) -0.51)")  # never, but the bounds of this do not see that x cancels
    done = adcert("verify", folder / "model.onnx", "--vnnlib", path, "--json", "-")
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["verdict"] == "unknown"


def test_contradictory_constraints_hold_with_a_word_on_it(folder: Path) -> None:
    path = property_of(folder, "(<= Y_0 0)", low="1", high="0")
    done = adcert("verify", folder / "model.onnx", "--vnnlib", path)
    assert (done.returncode, done.stdout) == (0, "unsat\n")
    assert "whatever the network answers" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="there are no interval timers")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_out_of_time(folder: Path) -> None:
    """Reading the property alone takes longer than half a second, after which a signal that was lost comes again: the
    first may strike in a destructor, or between the opening of a file and the `with` that would close it.
    """
    path = property_of(folder, "(or " + "(and (<= Y_0 0) (>= Y_1 1))" * 200_000 + ")")
    done = adcert("verify", folder / "model.onnx", "--vnnlib", path, "--timeout", "0.001")
    assert (done.returncode, done.stdout) == (3, "timeout\n"), done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--vnnlib", "absent.vnnlib"], 4),
        (["--vnnlib", "other.vnnlib"], 4),
        (["--vnnlib", "unbounded.vnnlib"], 4),
        (["--vnnlib", "other.vnnlib", "--eps", "0.1"], 2),
        (["--vnnlib", "other.vnnlib", "--attack"], 2),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(folder: Path, arguments: list[str], code: int) -> None:
    x = "(declare-const X_0 Real)"
    head = "(vnnlib-version <2.0>)(declare-network f (declare-input X Real [3])(declare-output Y Real []))"
    (folder / "other.vnnlib").write_text(f"{x}(assert (<= X_0 1))(assert (>= X_0 0))")
    (folder / "unbounded.vnnlib").write_text(f"{head}(assert (<= X[1] 1))")
    arguments = [str(folder / each) if "." in each and each[0] in "aoud" else each for each in arguments]
    done = adcert("verify", folder / "model.onnx", *arguments)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "Error: " in done.stderr


def test_attack_reports_the_accuracy_that_is_left(folder: Path) -> None:
    arguments = ["--steps", "20", "--restarts", "4", "--json", "-", "--out", folder / "found.npz"]
    done = adcert("attack", folder / "model.onnx", *arguments)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [sample["status"] for sample in result["samples"]] == ["unknown", "counterexample", "misclassified"]
    assert [sample["decided_by"] for sample in result["samples"]] == [None, "attack", None]
    assert result["summary"]["attacked_accuracy"] == pytest.approx(100 / 3)
    assert result["method"] == "attack"
    assert result["attack"] == {"steps": 20, "restarts": 4, "seed": 0}
    with np.load(folder / "found.npz") as found:
        assert found["index"].tolist() == [1]
        assert found["y"].tolist() == [1]
        assert np.abs(found["x"] - [0.2, 0.3, 0]).max() <= 0.1 + 1e-6
        (logits,) = run((folder / "model.onnx").read_bytes(), found["x"].reshape(1, 3))
    assert logits.argmax() != 1


def test_verification_with_an_attack_on_what_is_not_proved(folder: Path) -> None:
    done = adcert("verify", folder / "model.onnx", "--attack", "--json", folder / "result.json")
    assert done.returncode == 0, done.stderr
    result = json.loads((folder / "result.json").read_text())
    assert [sample["status"] for sample in result["samples"]] == ["verified", "counterexample", "misclassified"]
    assert [sample["decided_by"] for sample in result["samples"]] == ["ibp", "attack", None]
    summary = result["summary"]
    assert summary["certified_accuracy"] == summary["attacked_accuracy"] == pytest.approx(100 / 3)
    assert summary["undecided"] == 0
    again = adcert("verify", folder / "model.onnx", "--attack", "--resume", "--json", folder / "result.json")
    assert again.returncode == 0, again.stderr
    other = adcert("verify", folder / "model.onnx", "--resume", "--json", folder / "result.json")
    assert other.returncode == 2


@pytest.mark.parametrize(
    "text",
    [
        "(declare-const X_0 Real)(declare-const X_2 Real)(declare-const Y_0 Real)"
        "(assert (>= X_0 0))(assert (<= X_0 1))(assert (>= X_2 0))(assert (<= X_2 1))(assert (<= Y_0 0))",
        "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const X_2 Real)(declare-const Y_0 Real)"
        "(assert (>= X_0 0))(assert (<= X_0 1))(assert (>= X_1 0))(assert (<= X_1 1))(assert (<= (+ X_2 Y_0) 0))",
    ],
)
def test_an_input_that_the_model_does_not_have_is_refused_in_a_sentence(folder: Path, text: str) -> None:
    path = folder / "absent.vnnlib"
    path.write_text(text)
    done = adcert("verify", folder / "model.onnx", "--vnnlib", path)
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
