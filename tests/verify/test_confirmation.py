"""`check RESULT`: certificates about the very samples, or cases, bear out an accuracy or a verdict; or they do not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import verify
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
    about = (
        f"{folder / 'model.onnx'}: 2 of 3 (66.66 %), samples 1 to 3 of {folder / 'data.npz'}, are certified at eps 0.1"
    )
    assert f"{about} within [0.0, 1.0], as executed in float32" in done.stderr


def test_a_verdict_is_borne_out(folder: Path) -> None:
    done = adcert("check", folder / "case.json")
    assert done.returncode == 0, done.stdout
    subjects = [f"{folder / 'case.json'}: case {number}" for number in (0, 1)]
    assert done.stdout.splitlines() == [f"{subject}: valid" for subject in [*subjects, folder / "case.json"]]
    assert f"{folder / 'model.onnx'}: {folder / 'case.vnnlib'} holds, as executed in float32" in done.stderr


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
        (lambda result: result.update(verdict="sat"), "its verdict is 'sat', of which there is no proof"),
        (lambda result: result["property"].update(sha256="0"), "it is about another property than "),
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


def test_other_data_are_rejected(folder: Path) -> None:
    other = folder.parent / "other.npz"
    np.savez(other, x=np.zeros((4, 2), F32), y=np.array([0, 0, 0, 1]))
    for source in (other, "mnist"):  # what is said counts, whatever lies beside the result
        done = adcert("check", folder / "result.json", "--data", source)
        assert done.returncode == 1
        assert f"rejected: it is about other data than {source}: the SHA-256 differs" in done.stdout
    other.replace(folder / "data.npz")
    assert "it is about other data than" in adcert("check", folder / "result.json").stdout


def test_another_property_is_rejected(folder: Path) -> None:
    file = folder / "case.vnnlib"
    other = folder.parent / "other.vnnlib"
    other.write_text(file.read_text().replace("0.6", "0.7"))
    done = adcert("check", folder / "case.json", "--vnnlib", other)
    assert done.returncode == 1
    assert f"rejected: it is about another property than {other}: the SHA-256 differs" in done.stdout
    assert adcert("check", folder / "case.json", "--vnnlib", file).returncode == 0


def test_a_property_that_no_input_fulfils_is_said_to_be_one(folder: Path) -> None:
    file, result = folder / "case.vnnlib", folder / "empty.json"
    file.write_text(f"{file.read_text()} (assert (>= X_0 2))")
    verified = "verify", folder / "model.onnx", "--vnnlib", file, "--certificates", folder / "empty", "--json", result
    assert adcert(*verified).returncode == 0
    done = adcert("check", result)
    assert done.returncode == 0
    assert f"{file} holds, for no input fulfils its own constraints, as executed" in done.stderr


@pytest.mark.parametrize(
    ("result", "missing", "option"),
    [
        ("result.json", "model.onnx", "--model"),
        ("result.json", "data.npz", "--data"),
        ("case.json", "case.vnnlib", "--vnnlib"),
    ],
)
def test_what_is_missing_is_asked_for(folder: Path, result: str, missing: str, option: str) -> None:
    away = folder.parent / "away"
    away.mkdir()
    (folder / missing).rename(away / missing)
    done = adcert("check", folder / result)
    assert done.returncode == 2
    assert re.search(f"neither beside it nor here: say where (it is )?with {option}", done.stderr)
    assert adcert("check", folder / result, option, away / missing).returncode == 0


def test_names_cannot_forge_lines(folder: Path) -> None:
    (folder / "model.onnx").rename(folder / "model\nall.onnx")
    change(folder / "result.json", lambda result: result["model"].update(path="model\nall.onnx"))
    done = adcert("check", folder / "result.json")
    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == 2
    assert "model\\nall.onnx: 2 of 3" in done.stderr
    change(
        folder / "result.json", lambda result: result["samples"][0].update(certificate="x\nresult.json: valid\ud800")
    )
    done = adcert("check", folder / "result.json")
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 3


def test_the_order_of_keys_does_not_matter(folder: Path) -> None:
    content = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(content, sort_keys=True))
    assert adcert("check", folder / "result.json").returncode == 0


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (lambda text: text[:-20], "not complete, valid JSON"),
        (lambda text: text.replace('"eps"', '"contract"'), "it has a key twice"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 2'), "and this program reads 1"),
        (lambda text: text.replace('"1/10"', '"1/0"'), "eps_exact is no fraction"),
        (lambda text: text.replace('"label": 0', '"label": true'), "label is no int"),
        (lambda text: text.replace('"norm"', '"normal"'), "norm is missing"),
        (lambda text: text.replace('"model": {', '"modell": {'), "say where it is with --model"),
        (lambda text: text.replace('"path": "', '"path": 3, "road": "'), "say where it is with --model"),
        (lambda text: text.replace('"samples": [', '"samples": [3, '), "no object"),
        (lambda text: text.replace('"input_range": [', '"input_range": [0, '), "too many values"),
        (lambda text: text.replace("float32-any-order", "any"), "unknown contract 'any'"),
        (lambda text: text.replace('"samples": [', '"samples": [' + 5000 * "["), "not complete, valid JSON"),
    ],
)
def test_a_malformed_result_is_refused_in_a_sentence(folder: Path, alter: Callable[[str], str], reason: str) -> None:
    file = folder / "result.json"
    file.write_text(alter(file.read_text()))
    done = adcert("check", file)
    assert done.returncode == 2, done.stdout
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_build_can_insist_on_an_accuracy(folder: Path) -> None:
    assert adcert("check", folder / "result.json", "--fail-under", "66.6").returncode == 0
    done = adcert("check", folder / "result.json", "--fail-under", "67")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "Error: 66.6667 % certified is less than --fail-under 67"
    done = adcert("check", folder / "case.json", "--fail-under", "50")
    assert done.returncode == 2
    assert "--fail-under is about results" in done.stderr


def test_a_file_that_cannot_be_read_does_not_hide_the_others(folder: Path) -> None:
    done = adcert("check", folder / "nowhere.json", folder / "result.json")
    assert done.returncode == 2
    assert done.stdout.splitlines()[-1] == f"{folder / 'result.json'}: valid"
    assert "Error: cannot read" in done.stderr
    assert "2 of 3 (66.66 %)" in done.stderr
    change(folder / "result.json", _swap)
    assert adcert("check", folder / "nowhere.json", folder / "result.json").returncode == 1


def test_a_program_can_ask_for_the_same(folder: Path) -> None:
    confirmed = verify.check_result(folder / "result.json", folder / "model.onnx", data=str(folder / "data.npz"))
    assert confirmed.certified_accuracy == pytest.approx(200 / 3)
    assert "2 of 3 (66.66 %)" in confirmed.statement
    confirmed = verify.check_result(folder / "case.json", property=folder / "case.vnnlib")
    assert confirmed.certified_accuracy is None
    assert "case.vnnlib holds, as executed in float32" in confirmed.statement
    with pytest.raises(verify.Problem, match="not a result file"):
        verify.check_result(next((folder / "proofs").iterdir()))
    change(folder / "result.json", _swap)
    with pytest.raises(verify.Rejected, match="sample 1: "):
        verify.check_result(folder / "result.json")
