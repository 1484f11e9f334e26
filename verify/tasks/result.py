"""The result of verifying a classifier on many samples, and its JSON form (schema version 1)."""

from __future__ import annotations

import io
import json
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from verify.boxes import InputRange
from verify.core.primitives import Tensor
from verify.errors import Problem
from verify.files import write_atomically
from verify.tasks.effort import Effort
from verify.tasks.robustness import Status, Verdict
from verify.tasks.samples import Samples
from verify.version import __version__

SCHEMA_VERSION = 1
_FALSE = (Status.MISCLASSIFIED, Status.COUNTEREXAMPLE)


@dataclass(frozen=True)
class Question:
    """What was asked: everything that a verdict depends on. method: None where no proof is asked for. eps: in the units
    of the model's input. timeout_s: for a sample, None where there is no limit. attack: on what is not proved,
    if on anything. engine: what looks at intervals first, numpy or onnx."""

    model_path: str
    model_sha256: str
    contract: str
    method: str | None
    timeout_s: float | None
    eps: Fraction
    input_range: InputRange | None
    data: Samples
    attack: Effort | None = None
    engine: str = "numpy"

    def as_json(self) -> dict[str, Any]:
        data = self.data
        return {
            "model": {"path": self.model_path, "sha256": self.model_sha256},
            "contract": self.contract,
            "method": self.method or "attack",
            "timeout_s": self.timeout_s,
            "attack": asdict(self.attack) if self.attack else None,
            "engine": self.engine,
            "norm": "linf",
            "eps": float(self.eps),
            "eps_exact": str(self.eps),
            "input_range": self.input_range,
            "data": {
                "name": data.name,
                "split": data.split,
                "start": data.start,
                "count": len(data),
                "sha256": data.sha256,
                "dtype": "uint8" if data.of_bytes else "float32",
            },
        }


@dataclass(frozen=True)
class Summary:
    """Accuracies in percent of the samples that have a verdict. attacked_accuracy: of those that are classified
    correctly and for which no counterexample was found, None if none was searched for. undecided: how many samples have
    none of the others."""

    samples: int
    clean_accuracy: float
    attacked_accuracy: float | None
    certified_accuracy: float
    undecided: int
    time_s: float

    def as_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "samples"}

    @staticmethod
    def of(verdicts: Sequence[Verdict], *, attacked: bool = False) -> Summary:
        def percent(hits: int) -> float:
            return 100.0 * hits / len(verdicts) if verdicts else 0.0

        return Summary(
            samples=len(verdicts),
            clean_accuracy=percent(sum(v.prediction == v.label for v in verdicts)),
            attacked_accuracy=percent(sum(v.status not in _FALSE for v in verdicts)) if attacked else None,
            certified_accuracy=percent(sum(v.status is Status.VERIFIED for v in verdicts)),
            undecided=sum(v.status in (Status.UNKNOWN, Status.TIMEOUT) for v in verdicts),
            time_s=sum(v.time_s for v in verdicts),
        )


@dataclass(frozen=True)
class Point:
    """What was found at another radius than the question's, in the units of the model's input. summary.time_s: spent at
    this radius alone."""

    eps: Fraction
    summary: Summary

    def as_json(self) -> dict[str, Any]:
        return {"eps": float(self.eps), "eps_exact": str(self.eps), **self.summary.as_json()}


def result_json(question: Question, verdicts: Sequence[Verdict], curve: Sequence[Point] = ()) -> bytes:
    """The result file's content; attacked_accuracy is null if no attack was asked for. curve: by rising eps."""
    summary = Summary.of(verdicts, attacked=question.attack is not None)
    content = {
        "schema_version": SCHEMA_VERSION,
        **question.as_json(),
        "summary": summary.as_json(),
        **({"curve": [point.as_json() for point in curve]} if curve else {}),
        "samples": [_sample_json(verdict) for verdict in verdicts],
        "versions": versions(),
    }
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def write_result(path: Path, question: Question, verdicts: Sequence[Verdict], curve: Sequence[Point] = ()) -> None:
    """Write the result file in one step; raises Problem when that fails."""
    write_atomically(path, result_json(question, verdicts, curve))


def counterexamples(verdicts: Sequence[Verdict], taken: Tensor) -> bytes:
    """An .npz file with those that were found: index (of the sample), x (N x shape of the input, of the type that the
    model takes) and y (its label)."""
    found = [verdict for verdict in verdicts if verdict.counterexample is not None]
    content = io.BytesIO()
    np.savez(
        content,
        index=np.array([verdict.index for verdict in found], np.int64),
        x=np.array([verdict.counterexample for verdict in found], taken.dtype).reshape(len(found), *taken.shape),
        y=np.array([verdict.label for verdict in found], np.int64),
    )
    return content.getvalue()


def read_verdicts(path: Path, question: Question) -> list[Verdict]:
    """The verdicts of an earlier, interrupted run on the same question; raises Problem if it was another question."""
    try:
        content = json.loads(path.read_bytes())
        asked = {key: content[key] for key in question.as_json()}
        asked["model"] = asked["model"] | {"path": question.model_path}  # the same file may have moved
        if (content["schema_version"], content["versions"]["adcert"]) != (SCHEMA_VERSION, __version__):
            raise ValueError("another version of adcert wrote it")
        verdicts = [_verdict(sample) for sample in content["samples"]]
        start, count = question.data.start, len(question.data)
        if [verdict.index for verdict in verdicts] != list(range(start, start + min(count, len(verdicts)))):
            raise ValueError("its samples are not the first ones of the data")
        if [verdict.label for verdict in verdicts] != question.data.labels[: len(verdicts)].tolist():
            raise ValueError("its labels are not those of the data")
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise Problem(f"{path} is not a result file that can be continued ({error})") from error
    expected = json.loads(json.dumps(question.as_json()))
    if different := [key for key, value in expected.items() if asked[key] != value]:
        raise Problem(f"{path} cannot be continued: its {' and '.join(different)} differ from what is asked now")
    return verdicts


def versions() -> dict[str, str | None]:
    """Of adcert and of what a result may depend on; null for what is not installed."""

    def of(*names: str) -> str | None:
        for name in names:
            try:
                return metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        return None

    return {
        "adcert": __version__,
        "python": platform.python_version(),
        "numpy": of("numpy"),
        "onnx": of("onnx"),
        "onnxruntime": of("onnxruntime", "onnxruntime-gpu"),
        "torch": of("torch"),
    }


def _sample_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "index": verdict.index,
        "label": verdict.label,
        "prediction": verdict.prediction,
        "status": verdict.status.value,
        "decided_by": verdict.decided_by,
        "margin_lower": verdict.margin_lower if math.isfinite(verdict.margin_lower) else None,
        "time_s": verdict.time_s,
        "certificate": verdict.certificate,
        **({} if verdict.counterexample is None else {"counterexample": verdict.counterexample.reshape(-1).tolist()}),
    }


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _verdict(sample: dict[str, Any]) -> Verdict:
    margin = sample["margin_lower"]
    return Verdict(
        index=sample["index"],
        label=sample["label"],
        prediction=sample["prediction"],
        status=Status(sample["status"]),
        decided_by=sample["decided_by"],
        margin_lower=math.nan if margin is None else _number(margin),
        time_s=_number(sample["time_s"]),
        certificate=sample["certificate"],
        counterexample=np.array(sample["counterexample"], np.float32) if "counterexample" in sample else None,
    )
