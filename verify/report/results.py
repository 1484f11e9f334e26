"""Result files as a report reads them: by their documented keys, whatever else they hold."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from functools import cached_property
from typing import Any, NoReturn

from verify.boxes import eps_text
from verify.errors import Problem
from verify.tasks.result import SCHEMA_VERSION


class ReportProblem(Problem):
    """A file is no result file that a report can be made of."""


class Outcome(StrEnum):
    """What a status means for a reader."""

    CERTIFIED = "certified"
    UNDECIDED = "undecided"
    COUNTEREXAMPLE = "counterexample"
    MISCLASSIFIED = "misclassified"


_OUTCOMES = {
    "verified": Outcome.CERTIFIED,
    "counterexample": Outcome.COUNTEREXAMPLE,
    "misclassified": Outcome.MISCLASSIFIED,
}
"""Every other status (unknown, timeout, ...) is undecided."""


_LARGEST = 1e100
"""No margin of a float32 network is anywhere near, and charts need room for arithmetic."""


@dataclass(frozen=True)
class Sample:
    """One sample's verdict. margin: lower bound of the least margin, None where there is none. counterexample: its
    pixels in the order of the model's input, if the file holds one."""

    index: int
    label: int
    prediction: int
    status: str
    decided_by: str | None
    margin: float | None
    time_s: float
    counterexample: tuple[float, ...] | None

    @property
    def outcome(self) -> Outcome:
        return _OUTCOMES.get(self.status, Outcome.UNDECIDED)


@dataclass(frozen=True)
class Point:
    """Accuracies in percent at one eps; attacked: None if no attack was run. time_s: spent at this eps alone."""

    eps: float
    eps_text: str
    clean: float
    attacked: float | None
    certified: float
    undecided: int
    time_s: float


@dataclass(frozen=True)
class Result:
    """A result file. name: of the file. attacked_accuracy: in percent, None if no attack was run. eps_text: as it was
    asked for, such as 2/255. limits: what else was asked for, in words. of_bytes: whether the model takes
    its inputs as such. versions: of what made the result. elsewhere:
    what was found at other eps."""

    name: str
    content: bytes = field(repr=False)
    model_path: str
    model_sha256: str
    contract: str
    method: str
    norm: str
    eps: float
    eps_text: str
    input_range: tuple[float, float] | None
    data_name: str
    split: str | None
    data_sha256: str | None
    of_bytes: bool
    asked: int
    attacked_accuracy: float | None
    samples: tuple[Sample, ...]
    limits: Mapping[str, str]
    versions: Mapping[str, str]
    elsewhere: tuple[Point, ...]

    @cached_property
    def counts(self) -> Counter[Outcome]:
        """How many samples have each outcome."""
        return Counter(sample.outcome for sample in self.samples)

    @cached_property
    def correct(self) -> int:
        """How many samples are classified correctly as they are."""
        return sum(sample.prediction == sample.label for sample in self.samples)

    @cached_property
    def point(self) -> Point:
        """What was found at its own eps."""
        total = len(self.samples) or 1
        return Point(
            eps=self.eps,
            eps_text=self.eps_text,
            clean=100 * self.correct / total,
            attacked=self.attacked_accuracy,
            certified=100 * self.counts[Outcome.CERTIFIED] / total,
            undecided=self.counts[Outcome.UNDECIDED],
            time_s=sum(sample.time_s for sample in self.samples),
        )

    @property
    def proves(self) -> bool:
        """Whether proofs were tried at all; a pure attack tries none."""
        return self.method != "attack"

    @cached_property
    def sha256(self) -> str:
        """Of the file."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def model_name(self) -> str:
        """The file's name without folders, whatever system it was verified on."""
        return self.model_path.replace("\\", "/").rsplit("/", 1)[-1] or "unnamed model"

    @cached_property
    def subject(self) -> tuple[object, ...]:
        """What results must share to be points of one curve over eps: all but eps and method."""
        indices = tuple(sample.index for sample in self.samples)
        return (
            self.model_sha256,
            self.contract,
            self.norm,
            self.input_range,
            self.data_name,
            self.data_sha256,
            indices,
        )


def read_result(name: str, content: bytes) -> Result:
    """Read a result file's content; raises ReportProblem, which calls it `name`, when it is broken or another kind."""

    def fail(reason: str) -> NoReturn:
        raise ReportProblem(f"{name} is not a result file that a report can be made of: {reason}")

    try:
        file = json.loads(content, parse_constant=lambda constant: fail(f"it holds {constant}, which is not JSON"))
    except (ValueError, RecursionError) as error:
        fail(f"it is not complete, valid JSON ({str(error) or type(error).__name__})")
    if not isinstance(file, dict):
        fail("it is JSON, but no object")
    if "property" in file:
        fail("it is the result of a single property, and a report is about the samples of a data set")
    if file.get("schema_version") != SCHEMA_VERSION:
        fail(f"its schema_version is {_shown(file.get('schema_version'))}, and this program reads {SCHEMA_VERSION}")
    try:
        result = _result(name, content, file)
        contradiction = _contradiction(result, file.get("summary") or {})
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        fail(f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error))
    if contradiction:
        fail(contradiction)
    return result


def _result(name: str, content: bytes, file: dict[str, Any]) -> Result:
    model, data = _typed(file, "model", dict), _typed(file, "data", dict)
    samples = tuple(_sample(sample) for sample in _typed(file, "samples", list))
    eps = _number(file, "eps")
    versions = file.get("versions")
    summary = file.get("summary") or {}
    if not isinstance(summary, dict):
        raise TypeError("its summary is no object")
    return Result(
        name=name,
        content=content,
        model_path=_typed(model, "path", str),
        model_sha256=_typed(model, "sha256", str),
        contract=_typed(file, "contract", str),
        method=_typed(file, "method", str),
        norm=_typed(file, "norm", str),
        eps=eps,
        eps_text=_eps_text(eps, _optional(file, "eps_exact", str)),
        input_range=_range(file.get("input_range")),
        data_name=_typed(data, "name", str),
        split=_optional(data, "split", str),
        data_sha256=_optional(data, "sha256", str),
        of_bytes=_optional(data, "dtype", str) == "uint8",
        asked=_optional(data, "count", int) or len(samples),
        attacked_accuracy=_optional_number(summary, "attacked_accuracy"),
        samples=samples,
        limits=_limits(file),
        versions={str(key): str(value) for key, value in versions.items() if value}
        if isinstance(versions, dict)
        else {},
        elsewhere=tuple(_point(point) for point in _optional(file, "curve", list) or ()),
    )


def _point(point: object) -> Point:
    if not isinstance(point, dict):
        raise TypeError("a point of its curve is no object")
    eps = _number(point, "eps")
    accuracies = {key: _optional_number(point, f"{key}_accuracy") for key in ("clean", "attacked", "certified")}
    if eps < 0 or not all(value is None or 0 <= value <= 100 for value in accuracies.values()):
        raise ValueError("a point of its curve is no radius with accuracies in percent")
    return Point(
        eps=eps,
        eps_text=_eps_text(eps, _optional(point, "eps_exact", str)),
        clean=_number(point, "clean_accuracy"),
        attacked=accuracies["attacked"],
        certified=_number(point, "certified_accuracy"),
        undecided=_typed(point, "undecided", int),
        time_s=_optional_number(point, "time_s") or 0.0,
    )


def _limits(file: Mapping[str, Any]) -> dict[str, str]:
    timeout_s, attack = _optional_number(file, "timeout_s"), file.get("attack")
    limits = {} if timeout_s is None else {"time limit": f"{timeout_s:g} s per sample"}
    if isinstance(attack, dict):
        limits["attack"] = ", ".join(f"{key} {value}" for key, value in attack.items())
    return limits


def _sample(sample: object) -> Sample:
    if not isinstance(sample, dict):
        raise TypeError("a sample is no object")
    return Sample(
        index=_typed(sample, "index", int),
        label=_typed(sample, "label", int),
        prediction=_typed(sample, "prediction", int),
        status=_typed(sample, "status", str),
        decided_by=_optional(sample, "decided_by", str),
        margin=_optional_number(sample, "margin_lower"),
        time_s=_optional_number(sample, "time_s") or 0.0,
        counterexample=_pixels(sample.get("counterexample")),
    )


def _contradiction(result: Result, summary: Mapping[str, Any]) -> str | None:
    """A report shows what the samples say; a summary that says otherwise means that the file was tampered with."""
    if len({sample.index for sample in result.samples}) < len(result.samples):
        return "a sample occurs twice"
    if result.eps < 0:
        return "its eps is negative"
    total = len(result.samples) or 1
    accuracies = {"clean_accuracy": result.correct, "certified_accuracy": result.counts[Outcome.CERTIFIED]}
    for key, hits in accuracies.items():
        if key in summary and not abs(_number_or_nan(summary[key]) - 100 * hits / total) < 1e-6:
            return f"its {key} is not what its samples say, {100 * hits / total:.4f} %"
    return None


def _typed(source: Mapping[str, Any], key: str, kind: type) -> Any:
    value = source[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{key} is {_shown(value)}, no {kind.__name__}")
    return value


def _optional(source: Mapping[str, Any], key: str, kind: type) -> Any:
    return None if source.get(key) is None else _typed(source, key, kind)


def _number(source: Mapping[str, Any], key: str) -> float:
    value = _number_or_nan(source[key])
    if not abs(value) <= _LARGEST:
        raise TypeError(f"{key} is {_shown(source[key])}, no number up to {_LARGEST:g}")
    return value


def _optional_number(source: Mapping[str, Any], key: str) -> float | None:
    return None if source.get(key) is None else _number(source, key)


def _number_or_nan(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _eps_text(eps: float, exact: str | None) -> str:
    """As a decimal, unless the fraction that was asked for is none."""
    if exact is None:
        return f"{eps:.9g}"
    if not re.fullmatch(r"\d{1,99}(/\d{1,99})?", exact) or float(Fraction(exact)) != eps:
        raise ValueError(f"eps_exact is {_shown(exact)}, not eps, {eps:.9g}, as a fraction")
    return eps_text(Fraction(exact))


def _range(value: object) -> tuple[float, float] | None:
    if value is None:
        return None
    ends = [_number_or_nan(end) for end in value] if isinstance(value, list) else []
    if len(ends) != 2 or not -math.inf < ends[0] < ends[1] < math.inf:
        raise TypeError(f"input_range is {_shown(value)}, no pair of rising numbers")
    return ends[0], ends[1]


def _pixels(value: object) -> tuple[float, ...] | None:
    """An input as a list, nested or not, or as the member x of an object; None where it is anything else."""
    if isinstance(value, dict):
        value = value.get("x")
    if not isinstance(value, list):
        return None
    rows: Sequence[object] = value
    while rows and all(isinstance(row, list) for row in rows):
        rows = [entry for row in rows if isinstance(row, list) for entry in row]
    flat = [_number_or_nan(entry) for entry in rows]
    return tuple(flat) if flat and all(map(math.isfinite, flat)) else None


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
