"""Verification as a task: from what the user said, and what the model says of itself, to a question and its answer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path

from verify.bounds.methods import searches, ways_of
from verify.boxes import InputRange, eps_text, parse_eps, require_inside
from verify.core.rounding import FLOAT32_ANY_ORDER, contract_named
from verify.errors import ModelProblem, Problem
from verify.files import require_folder
from verify.model.network import Model, Network
from verify.tasks.effort import Effort
from verify.tasks.result import Question, write_result
from verify.tasks.robustness import Status, Verdict
from verify.tasks.samples import Samples, read_data, samples_of
from verify.tasks.verdicts import Examiner
from verify.tasks.workers import by_processes

_SHARE_OF_SAVING = 0.05
"""Of the time of a run, at most, that goes into keeping its result file up to date."""

_DEFAULT_TIMEOUT_S = 20.0


def question_about(
    model_path: str,
    *,
    data: str | None,
    eps: str | None,
    start: int,
    count: int | None,
    method: str | None,
    contract: str,
    timeout_s: float | None = None,
    attack: Effort | None = None,
    engine: str = "numpy",
    valid: InputRange | None = None,
) -> tuple[Network, Question]:
    """The model, and the question about it and a data set or .npz file; valid: as for `question_on`, and raises as that
    does, ModelProblem where the model is not supported, and Problem where nothing names the data.
    """
    model = Model(model_path)
    data = data or model.file.metadata.get("adcert.dataset")
    if not data:
        raise Problem("the model does not name its data set: say which with --data")
    dataset = read_data(data)
    network = model.network(dataset.images.shape[1:])
    question = question_on(
        network,
        model_path,
        samples_of(dataset, network, start=start, count=count),
        eps=eps,
        method=method,
        contract=contract,
        timeout_s=timeout_s,
        attack=attack,
        engine=engine,
        valid=valid,
    )
    return network, question


def question_on(
    network: Network,
    model_path: str,
    samples: Samples,
    *,
    eps: str | None,
    method: str | None,
    contract: str,
    timeout_s: float | None = None,
    attack: Effort | None = None,
    engine: str = "numpy",
    valid: InputRange | None = None,
) -> Question:
    """Fill in what was not said from the model's metadata. valid: the input range, where it is not the model's own.

    Raises Problem where eps is in neither, for what has an unknown name, and where the engine onnx does not know the
    contract.
    """
    if engine == "onnx" and contract != FLOAT32_ANY_ORDER.name:
        raise Problem(f"the engine onnx computes in float32, and so knows the contract {FLOAT32_ANY_ORDER.name} only")
    ways_of(method)
    if timeout_s is not None and not timeout_s > 0:
        raise Problem(f"a time limit of {timeout_s:g} s leaves no time: say how many seconds")
    eps = eps or network.metadata.get("adcert.eps")
    if not eps:
        raise Problem("the model does not name its eps: say which with --eps")
    valid = valid or input_range(network.metadata) or samples.natural_range
    require_inside(samples.inputs, valid)
    question = Question(
        model_path=model_path,
        model_sha256=network.sha256,
        contract=contract_named(contract).name,
        method=method,
        timeout_s=timeout_s or (_DEFAULT_TIMEOUT_S if searches(method) else None),
        eps=parse_eps(eps),
        input_range=valid,
        data=samples,
        attack=attack,
        engine=engine,
    )
    require_radius(question, question.eps)
    return question


def require_radius(question: Question, eps: Fraction) -> None:
    """Raise Problem where boxes of that radius around bytes have ends that are none."""
    if not question.data.of_bytes:
        return
    if eps.denominator != 1:
        raise Problem(f"the model takes bytes (uint8): eps is a whole number, not {eps_text(eps)}")
    if question.input_range is None or not all(end in range(256) for end in question.input_range):
        raise Problem("the model takes bytes (uint8): the input range is a part of [0, 255] with whole ends")


def answer(
    network: Network,
    question: Question,
    verdicts: list[Verdict],
    *,
    result_path: Path | None = None,
    certificates: Path | None = None,
    jobs: int = 1,
    watch: Callable[[Iterator[Verdict]], Iterator[Verdict]] = iter,
) -> None:
    """Append to `verdicts`, which may hold those of an interrupted run, until every sample has one.

    result_path: kept up to date as verdicts come, as far as that takes little time, and whatever ends the run, be it
        Ctrl-C.
    certificates: a folder for one certificate per verified sample, each checked before it is written.
    jobs: processes that look at samples at the same time; one means none but this.
    watch: passes the verdicts through as they are found, for a progress bar. Raises Problem where earlier verdicts lack
    the certificates that are asked for, or these have no folder.
    """
    if not isinstance(jobs, int) or jobs < 1:
        raise Problem(f"{jobs!r} is not a number of processes")
    require_folder(certificates)
    if certificates and any(v.status is Status.VERIFIED and not v.certificate for v in verdicts):
        raise Problem("the interrupted run wrote no certificates: start anew, or leave them out")
    left = question.data.after(len(verdicts))
    if jobs > 1 and len(left) > 1:
        found = by_processes(question, left, certificates, jobs)
    else:
        found = Examiner(network, question, certificates)(left)
    saved, took = time.monotonic(), 0.0
    try:
        for verdict in watch(found):
            verdicts.append(verdict)
            began = time.monotonic()
            if result_path and took <= _SHARE_OF_SAVING * (began - saved):
                write_result(result_path, question, verdicts)
                saved = time.monotonic()
                took = saved - began
    finally:
        if result_path and verdicts:
            write_result(result_path, question, verdicts)


def input_range(metadata: Mapping[str, str]) -> InputRange | None:
    """The valid inputs of a model, where its metadata say; raises ModelProblem where they are malformed."""
    text = metadata.get("adcert.input_range")
    if text is None:
        return None
    try:
        low, high = (float(end) for end in json.loads(text))
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ModelProblem(f"the model's metadata hold a malformed input range: {text[:80]!r}") from error
    if not low < high:
        raise ModelProblem(f"the model's metadata hold an empty input range: {text!r}")
    return low, high
