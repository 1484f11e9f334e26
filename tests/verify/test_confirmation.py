"""`check RESULT`: certificates about the very samples, or cases, bear out an accuracy or a verdict; or they do not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.command_line import adcert_in_process as adcert
from support.onnx_models import model, node

F32 = np.float32


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What somebody publishes: model.onnx, which answers the larger of two numbers; data.npz; result.json, in which
    samples 1 to 3 of 4 are verified, unknown and verified; case.vnnlib, which falls into two cases, and case.json."""
    folder = tmp_path_factory.mktemp("published")
    metadata = {"adcert.input_range": "[0, 1]"}
    weights = {"w": np.eye(2, dtype=F32)}
    (folder / "model.onnx").write_bytes(model([node("Gemm", ["x", "w"], "y")], ["n", 2], weights, metadata=metadata))
    x = np.array([[0.7, 0.1], [0.95, 0.05], [0.55, 0.45], [0.2, 0.8]], F32)
    np.savez(folder / "data.npz", x=x, y=np.array([0, 0, 0, 1]))
    question = "--data", folder / "data.npz", "--eps", "1/10", "--start", "1"
    verified = "verify", folder / "model.onnx", "--certificates", folder / "proofs", "--json"
    assert adcert(*verified, folder / "result.json", *question).returncode == 0
    box = "(and (>= X_0 {0}) (<= X_0 {0}) (>= X_1 0) (<= X_1 0.1))"
    declared = "".join(f"(declare-const {tensor}_{i} Real)" for tensor in "XY" for i in range(2))
    cases = f"(assert (or {box.format(0.5)} {box.format(0.6)})) (assert (<= Y_0 Y_1))"
    (folder / "case.vnnlib").write_text(declared + cases)
    assert adcert(*verified, folder / "case.json", "--vnnlib", folder / "case.vnnlib").returncode == 0
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy, as somebody else has it, who has nothing at the paths that the results name."""
    received = Path(shutil.copytree(original, tmp_path / "received"))
    for result in received.glob("*.json"):
        result.write_text(result.read_text().replace(str(original), "somewhere/else"))
    return received


def change(file: Path, alter: Callable[[Any], None]) -> None:
    content = json.loads(file.read_text())
    alter(content)
    file.write_text(json.dumps(content))


def test_an_accuracy_is_borne_out(folder: Path) -> None:
    done = adcert("check", folder / "result.json")
    assert done.returncode == 0, done.stdout
    subjects = [f"{folder / 'result.json'}: sample {index}" for index in (1, 3)]
    assert done.stdout.splitlines() == [f"{subject}: valid" for subject in [*subjects, folder / "result.json"]]
    assert f"{folder / 'model.onnx'}: 66.67 % (2) of samples 1 to 3 of data.npz are certified at eps" in done.stderr
    assert "at eps 0.1 within [0.0, 1.0], as executed in float32" in done.stderr


def test_a_verdict_is_borne_out(folder: Path) -> None:
    done = adcert("check", folder / "case.json")
    assert done.returncode == 0, done.stdout
    subjects = [f"{folder / 'case.json'}: case {number}" for number in (0, 1)]
    assert done.stdout.splitlines() == [f"{subject}: valid" for subject in [*subjects, folder / "case.json"]]
    assert f"{folder / 'model.onnx'}: the property holds, as executed in float32" in done.stderr


def _swap(result: dict[str, Any]) -> None:
    first, _, last = result["samples"]
    first["certificate"], last["certificate"] = last["certificate"], first["certificate"]


def _promote(result: dict[str, Any]) -> None:
    result["samples"][1] |= {"status": "verified", "certificate": result["samples"][0]["certificate"]}
    del result["summary"]


def _drop(result: dict[str, Any]) -> None:
    del result["samples"][1], result["summary"]


def _relabel(result: dict[str, Any]) -> None:
    result["samples"][2] |= {"label": 0}
    del result["summary"]


def _move(result: dict[str, Any]) -> None:
    for sample in result["samples"]:
        sample["index"] += 1


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (
            lambda result: result.update(eps=0.2, eps_exact="1/5"),
            "sample 1: rejected: its certificate is about another",
        ),
        (lambda result: result.update(input_range=[-1, 1]), "sample 1: rejected: its certificate is about another box"),
        (lambda result: result.update(contract="real"), "sample 1: rejected: its certificate is under the contract"),
        (lambda result: result["samples"][0].update(certificate=None), "sample 1: rejected: the result names no"),
        (lambda result: result["samples"][0].update(certificate="x/y.json"), "sample 1: rejected: there is no certif"),
        (_swap, "sample 1: rejected: its certificate proves something else"),
        (_promote, "sample 2: rejected: its certificate is about another box"),
        (_drop, "result.json: rejected: it leaves samples out"),
        (_relabel, "result.json: rejected: its labels are not those of the data"),
        (_move, "result.json: rejected: the data do not have its samples"),
        (lambda result: result.update(samples=[], summary={}), "result.json: rejected: it is about no sample"),
        (lambda result: result["model"].update(sha256="0"), "result.json: rejected: it is about another model"),
        (lambda result: result.update(norm="l2"), "result.json: rejected: it is about perturbations in the norm 'l2'"),
    ],
)
def test_a_result_that_was_changed_is_rejected(folder: Path, alter: Callable[[Any], None], reason: str) -> None:
    change(folder / "result.json", alter)
    done = adcert("check", folder / "result.json")
    assert done.returncode == 1, done.stderr
    assert reason in done.stdout
    assert done.stdout.splitlines()[-1].startswith(f"{folder / 'result.json'}: rejected: ")
    assert "are certified" not in done.stderr


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (lambda result: result["certificates"].reverse(), "case 0: rejected: its certificate is about another box"),
        (lambda result: result["certificates"].pop(), "it names 1 certificates, but the property falls into 2 cases"),
        (lambda result: result.update(verdict="sat"), "its verdict is sat, of which there is no proof"),
        (lambda result: result["property"].update(sha256="0"), "it is about another property"),
    ],
)
def test_a_verdict_that_was_changed_is_rejected(folder: Path, alter: Callable[[Any], None], reason: str) -> None:
    change(folder / "case.json", alter)
    done = adcert("check", folder / "case.json")
    assert done.returncode == 1, done.stderr
    assert reason in done.stdout
    assert "holds" not in done.stderr


def test_a_certificate_that_proves_nothing_spoils_the_result(folder: Path) -> None:
    certificate = folder / "proofs" / "data-00001.json"
    change(certificate, lambda fields: fields["proof"].update(kind="hope"))
    done = adcert("check", folder / "result.json")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"{folder / 'result.json'}: sample 1: rejected: its proof is of the unknown kind 'hope'",
        f"{folder / 'result.json'}: sample 3: valid",
        f"{folder / 'result.json'}: rejected: 1 of the 2 proofs that it needs are not valid",
    ]


def test_other_data_are_refused(folder: Path) -> None:
    np.savez(folder / "data.npz", x=np.zeros((4, 2), F32), y=np.array([0, 0, 0, 1]))
    done = adcert("check", folder / "result.json")
    assert done.returncode == 2
    assert "is not the data of the result: its SHA-256 is another" in done.stderr


def test_another_property_is_rejected(folder: Path) -> None:
    file = folder / "case.vnnlib"
    file.write_text(file.read_text().replace("0.6", "0.7"))
    done = adcert("check", folder / "case.json")
    assert done.returncode == 1
    assert "it is about another property: the SHA-256 differs" in done.stdout


def test_a_certificate_about_inputs_of_another_shape_is_rejected(folder: Path) -> None:
    certificate = folder / "proofs" / "data-00001.json"
    change(certificate, lambda fields: fields["box"].update(shape=[2, 1, 1]))
    assert (
        "sample 1: rejected: its certificate is about inputs of another shape"
        in adcert("check", folder / "result.json").stdout
    )


@pytest.mark.parametrize(
    ("result", "missing", "sentence"),
    [
        ("result.json", "model.onnx", "is neither beside"),
        ("result.json", "data.npz", "data.npz is not on this machine"),
        ("case.json", "case.vnnlib", "is neither beside the result nor where it was"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(folder: Path, result: str, missing: str, sentence: str) -> None:
    (folder / missing).rename(folder.parent / missing)
    done = adcert("check", folder / result)
    assert done.returncode == 2
    assert sentence in done.stderr
    if missing != "case.vnnlib":
        option = {"model.onnx": "--model", "data.npz": "--data"}[missing]
        assert adcert("check", folder / result, option, folder.parent / missing).returncode == 0


def test_a_broken_result_is_refused(folder: Path) -> None:
    content = (folder / "result.json").read_bytes()
    (folder / "result.json").write_bytes(content[:-20])
    done = adcert("check", folder / "result.json")
    assert done.returncode == 2
    assert "result.json is not a result file that can be read: it is not complete, valid JSON" in done.stderr
