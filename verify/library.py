"""What `import verify` offers: the commands of the verifier as functions on files and arrays."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from verify.bounds.methods import COMPLETE
from verify.boxes import InputRange
from verify.check import check, model_of
from verify.core.rounding import FLOAT32_ANY_ORDER
from verify.datasets import Dataset
from verify.errors import ModelProblem, Problem, Rejected
from verify.files import read_bytes, write_atomically
from verify.judgement import Judge
from verify.model.network import load
from verify.proofs.certificate import Certificate
from verify.proofs.certificate import read as read_certificate
from verify.tasks.decision import Answer
from verify.tasks.effort import Effort
from verify.tasks.property_task import PropertyResult, answer_property
from verify.tasks.result import Question, Summary, result_json
from verify.tasks.robustness import Status, Verdict
from verify.tasks.samples import labelled, read_data, samples_of
from verify.tasks.task import answer, input_range, question_on

if TYPE_CHECKING:
    import onnx

__all__ = [
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

File = str | os.PathLike[str]
"""The path of a file."""

Eps = float | str | Fraction
"""A radius in the units of the model's input. A float stands for the decimal that Python prints: 0.1 is 1/10."""


@dataclass(frozen=True)
class Result:
    """What was found about each of N samples.

    Attributes:
        question: all that the verdicts depend on: model, contract, method, eps, input range, data.
        verdicts: one `Verdict` for each sample, in their order.
    """

    question: Question
    verdicts: tuple[Verdict, ...]
    data: Dataset = field(repr=False)

    @property
    def summary(self) -> Summary:
        """Accuracies in percent, the number of undecided samples, the time in seconds."""
        return Summary.of(self.verdicts, attacked=self.question.attack is not None)

    @property
    def certified(self) -> NDArray[np.bool_]:
        """For each sample, whether it is proved that its label is the answer in its whole box."""
        return np.array([verdict.status is Status.VERIFIED for verdict in self.verdicts])

    def to_json(self) -> bytes:
        """The content of a result file (schema version 1), as `adcert verify --json` writes it."""
        return result_json(self.question, self.verdicts)

    def save(self, path: File) -> None:
        """Write the result file in one step; raises Problem when that fails, and leaves what was there."""
        write_atomically(Path(path), self.to_json())


def verify(
    model: File,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    eps: Eps | None = None,
    method: str | None = "ibp",
    contract: str = FLOAT32_ANY_ORDER.name,
    timeout_s: float | None = None,
    attack: Effort | None = None,
    input_range: InputRange | None = None,
    certificates: File | None = None,
    jobs: int = 1,
) -> Result:
    """Prove, sample by sample, that no perturbation within eps changes the class that a model answers.

    Args:
        model: an ONNX file with one input, of float32 or uint8, and one vector of logits.
        images: N x the shape of the model's input (axes of length one may be missing): float32, or uint8, which is
            scaled to [0, 1] unless the model takes bytes. They tell the length of axes that the model leaves open.
        labels: N integers, each a class of the model.
        eps: the l_inf radius in the units of the model's input, "8/255" or 0.1. Default: what the file says.
        method: "ibp", "crown", "alpha-crown" or "complete": each tries those before it first. The last two need torch.
            None proves nothing.
        contract: what is assumed of the arithmetic that executes the model: "float32-any-order", or "real" for exact
            arithmetic, which says nothing about an execution in float32.
        timeout_s: seconds for each proof. Default: 20 by "alpha-crown" or "complete", which search, else none.
        attack: how hard to look for counterexamples to what is not proved; "complete" always does. Needs torch and
            onnxruntime.
        input_range: the least and the largest valid input. Default: what the file says; else [0, 1] if the images are
            bytes, and no limit if they are float32.
        certificates: a folder for one certificate per verified sample, each checked before it is written.
        jobs: processes that look at samples at the same time; with several, a script has to keep what it does behind
            `if __name__ == "__main__":`, as they import it.

    Raises:
        ModelProblem: the model is invalid or not supported.
        Problem: images, labels or another argument do not fit, or a package is missing.

    A sample is verified if and only if every margin of its label is proved positive for every input in its box,
    in every execution that keeps the contract. Interval bounds are those of Gowal et al. (arXiv 1810.12715), linear
    bounds those of Zhang et al. (arXiv 1811.00866), their optimisation that of Xu et al. (arXiv 2011.13824), branch and
    bound that of Wang et al. (arXiv 2103.06624), all of them widened by the rounding of the deployed network.
    """
    data = labelled("arrays", np.asarray(images), np.asarray(labels))
    network = load(model, data.images.shape[1:])
    question = question_on(
        network,
        os.fspath(model),
        samples_of(data, network),
        eps=None if eps is None else str(eps),
        method=method,
        contract=contract,
        timeout_s=timeout_s,
        attack=attack or (Effort() if method == COMPLETE else None),
        valid=input_range,
    )
    verdicts: list[Verdict] = []
    folder = None if certificates is None else Path(certificates)
    answer(network, question, verdicts, certificates=folder, jobs=jobs)
    return Result(question, tuple(verdicts), data)


def find_counterexamples(
    model: File,
    images: ArrayLike,
    labels: ArrayLike,
    *,
    eps: Eps | None = None,
    effort: Effort | None = None,
    input_range: InputRange | None = None,
) -> Result:
    """Search for inputs within eps of samples to which onnxruntime answers another class; prove nothing.

    effort: steps, restarts and seed of projected gradient descent (Madry et al., arXiv 1706.06083); `Effort()` if it is
    left out. For the other arguments, and what is raised, see `verify`. Where one is found the verdict's status is
    `Status.COUNTEREXAMPLE`, and its `counterexample` the input, of the shape of the model's. Needs torch and
    onnxruntime.
    """
    effort = effort or Effort()
    return verify(model, images, labels, eps=eps, method=None, attack=effort, input_range=input_range)


def verify_property(
    model: File,
    property: File,
    *,
    method: str = "ibp",
    contract: str = FLOAT32_ANY_ORDER.name,
    timeout_s: float | None = None,
    certificates: File | None = None,
) -> PropertyResult:
    """Decide a property of a model: whether any input has outputs that fulfil it.

    Args:
        model: an ONNX file with one float32 input and one float32 output.
        property: a VNN-LIB file, version 1.0 or 2.0, compressed by gzip or not.
        method, contract: as for `verify`.
        timeout_s: seconds for all of it, reading the files included; only in the main thread of a process, and not on
            Windows. Default: none.
        certificates: a folder for one certificate per case of a property that holds.

    Raises:
        ModelProblem: model or property is invalid or not supported, or they do not fit each other.

    The answer is `result.decision.answer`; for `Answer.SAT`, `result.decision.witness` is the counterexample, which
    onnxruntime has reproduced. What a user should know besides is a UserWarning.
    """
    return answer_property(
        Path(model),
        Path(property),
        method=method,
        contract=contract,
        timeout_s=timeout_s,
        certificates=None if certificates is None else Path(certificates),
        warn=lambda sentence: warnings.warn(sentence, stacklevel=2),
    )


def check_certificate(certificate: File, model: File | None = None) -> Certificate:
    """Establish anew, from the two files alone, what a certificate says; return it once it is proved.

    model: if left out, the file that the certificate names, beside it, one folder above, or in the current one. Raises
    Rejected, with the reason, if the certificate proves nothing, and ModelProblem if the model cannot be read.
    """
    path = Path(certificate)
    statement = read_certificate(path)
    check(statement, load(model_of(statement, path) if model is None else model, statement.lower.shape[1:]))
    return statement


@dataclass(frozen=True)
class Confirmed:
    """What a result file says, as established anew. certified_accuracy: in %; None of a property."""

    statement: str
    certified_accuracy: float | None


def check_result(
    result: File, model: File | None = None, *, data: str | None = None, property: File | None = None
) -> Confirmed:
    """Establish anew what the result file of `verify --json --certificates` says, from its certificates, the model, and
    the data or property; return that once each is proved that it needs.

    model, data, property: if left out, those that the result names, beside it, one folder above, or in the current one:
    whoever made the result chose the names. Raises Rejected, with the reason, if something is not proved, and Problem
    where something is missing or cannot be read.
    """
    path = Path(result)
    judge = Judge(None if model is None else Path(model), data, None if property is None else Path(property))
    for judgement in judge.of_result(path, read_bytes(path)):
        if judgement.rejected:
            raise Rejected(f"{judgement.subject}: {judgement.rejected}")
    assert judgement.statement
    return Confirmed(judgement.statement, judgement.certified_accuracy)


def compile_bounds(model: File, *, shape: Sequence[int] | None = None) -> onnx.ModelProto:
    """The interval bounds of a classifier as an ONNX graph, for serving: `onnx.save(compile_bounds(...), path)`.

    Inputs: "x", of the model's input's shape, float32; "eps", a scalar in the same units. Outputs: "logits"; "lower"
    and "upper", their bounds over the box; "margins" of the predicted class over the others; "certified", whether all
    of them are positive. They hold in any runtime that keeps the contract float32-any-order. shape: of one input,
    without batch, where the model leaves axes of it open. Raises ModelProblem for a network whose bounds cannot be
    compiled.
    """
    from verify import compiled

    network = load(model, None if shape is None else tuple(shape))
    return compiled.compile_bounds(network, input_range(network.metadata))


def load_data(source: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Images and labels of a test split ("mnist", "fashion-mnist", "cifar10") or of an .npz file with arrays x and y.

    Images: uint8, N x channels x height x width; from a file as they are, uint8 or float32 of any shape. Labels: N.
    MNIST ships with adcert; the others are looked for in the folder that ADCERT_DATA names and downloaded, with their
    hashes checked, when they are nowhere. Raises Problem for data that are unknown, missing or corrupt.
    """
    data = read_data(source)
    return data.images, data.labels


def write_report(path: File, results: Result | File | Sequence[Result | File], *, data: str | None = None) -> None:
    """Write one self-contained HTML page about a result, or about several side by side.

    results: each what `verify` returned, or the path of a result file. data: where pictures are from (the name of a
    data set, or an .npz file) if a result file's own name for it does not suffice. Results of one model on the same
    samples at several eps make a curve. Raises Problem for a file that is no result, or when writing fails.
    """
    from verify import report

    several = [results] if isinstance(results, Result | str | os.PathLike) else results
    read = [
        report.read_result(f"result-{number}.json", result.to_json())
        if isinstance(result, Result)
        else report.read_file(Path(result))
        for number, result in enumerate(several, start=1)
    ]
    report.write_report(
        Path(path),
        read,
        data=data,
        folders=[Path(result).parent for result in several if not isinstance(result, Result)],
        given=[result.data for result in several if isinstance(result, Result)],
    )
