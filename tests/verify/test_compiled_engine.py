"""Verdicts of the compiled bounds are labelled with their engine, and no others than the rigorous engine's."""

from __future__ import annotations

import json
from pathlib import Path

from support.command_line import ROOT, adcert

STUDENT = ROOT / "exported" / "mnist-0.1-small.onnx"


TEACHER = ROOT / "exported" / "mnist-0.1-small-teacher.onnx"


def result(path: Path, *options: str, model: Path = STUDENT) -> dict[int, tuple[str, str | None, int]]:
    done = adcert("verify", model, "--count", "30", "--json", path, *options)
    assert done.returncode == 0, done.stderr
    samples = json.loads(path.read_text())["samples"]
    return {sample["index"]: (sample["status"], sample["decided_by"], sample["prediction"]) for sample in samples}


def test_verdicts_say_which_engine_gave_them(tmp_path: Path) -> None:
    rigorous = result(tmp_path / "numpy.json")
    compiled = result(tmp_path / "onnx.json", "--engine", "onnx")
    assert {index: (status, prediction) for index, (status, _, prediction) in compiled.items()} == {
        index: (status, prediction) for index, (status, _, prediction) in rigorous.items()
    }
    assert {way for _, way, _ in rigorous.values()} == {"ibp", None}
    assert {way for _, way, _ in compiled.values()} == {"ibp-onnx", None}


def test_what_the_engine_leaves_open_is_looked_at_by_the_rigorous_methods(tmp_path: Path) -> None:
    options = ("--engine", "onnx", "--method", "crown", "--eps", "0.01")
    compiled = result(tmp_path / "onnx.json", *options, model=TEACHER)
    assert {way for _, way, _ in compiled.values()} == {"ibp-onnx", "crown-ibp"}


def test_certificates_confirm_what_the_engine_says(tmp_path: Path) -> None:
    confirmed = result(tmp_path / "onnx.json", "--engine", "onnx", "--certificates", str(tmp_path / "proofs"))
    assert {way for _, way, _ in confirmed.values()} == {"ibp", None}
    files = sorted((tmp_path / "proofs").iterdir())
    assert adcert("check", *files, "--model", STUDENT).returncode == 0


def test_the_engine_knows_only_the_contract_that_it_computes_in() -> None:
    done = adcert("verify", STUDENT, "--engine", "onnx", "--contract", "real")
    assert done.returncode == 2
    assert "float32-any-order" in done.stderr
