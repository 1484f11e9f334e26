"""Verification as a task: from what the user said, and what the model says of itself, to a question and its answer."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from verify.bounds.methods import searches, ways_of
from verify.boxes import InputRange, box_around, parse_eps
from verify.check import check
from verify.compiled.engine import CompiledEngine
from verify.core.rounding import FLOAT32_ANY_ORDER, contract_named
from verify.errors import ModelProblem, Problem, Rejected
from verify.model.network import Network
from verify.proofs.certificate import Certificate, Class
from verify.proofs.certificate import write as write_certificate
from verify.tasks.effort import Effort
from verify.tasks.result import Question, write_result
from verify.tasks.robustness import MisclassificationSearch, Status, Verdict, verify_classifier
from verify.tasks.runtime import Runtime
from verify.tasks.samples import Samples, load_samples

_SHARE_OF_SAVING = 0.05
"""Of the time of a run, at most, that goes into keeping its result file up to date."""

_DEFAULT_TIMEOUT_S = 20.0


def question_about(
    network: Network,
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
) -> Question:
    """The question about a data set or .npz file; valid: as for `question_on`, and raises as that does, and Problem
    where nothing names the data.
    """
    data = data or network.metadata.get("adcert.dataset")
    if not data:
        raise Problem("the model does not name its data set: say which with --data")
    return question_on(
        network,
        model_path,
        load_samples(data, network.input.shape, start=start, count=count),
        eps=eps,
        method=method,
        contract=contract,
        timeout_s=timeout_s,
        attack=attack,
        engine=engine,
        valid=valid,
    )


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
    return Question(
        model_path=model_path,
        model_sha256=network.sha256,
        contract=contract_named(contract).name,
        method=method,
        timeout_s=timeout_s or _DEFAULT_TIMEOUT_S if searches(method) else None,
        eps=parse_eps(eps),
        input_range=valid or input_range(network.metadata) or samples.natural_range,
        data=samples,
        attack=attack,
        engine=engine,
    )


def answer(
    network: Network,
    question: Question,
    verdicts: list[Verdict],
    *,
    result_path: Path | None = None,
    certificates: Path | None = None,
    watch: Callable[[Iterator[Verdict]], Iterator[Verdict]] = iter,
) -> None:
    """Append to `verdicts`, which may hold those of an interrupted run, until every sample has one.

    result_path: kept up to date as verdicts come, as far as that takes little time, and whatever ends the run, be it
        Ctrl-C.
    certificates: a folder for one certificate per verified sample, each checked before it is written.
    watch: passes the verdicts through as they are found, for a progress bar. Raises Problem where earlier verdicts lack
    the certificates that are asked for.
    """
    if certificates and any(v.status is Status.VERIFIED and not v.certificate for v in verdicts):
        raise Problem("the interrupted run wrote no certificates: start anew, or leave them out")
    found = verify_classifier(
        network,
        question.data.after(len(verdicts)),
        eps=question.eps,
        input_range=question.input_range,
        contract=contract_named(question.contract),
        method=question.method,
        timeout_s=question.timeout_s or math.inf,
        attack=_search(network, question),
        engine=CompiledEngine(network, question.eps, question.input_range) if question.engine == "onnx" else None,
    )
    saved, took = time.monotonic(), 0.0
    try:
        for verdict in watch(found):
            if certificates and verdict.status is Status.VERIFIED:
                verdict = _certified(network, question, verdict, certificates)
            verdicts.append(replace(verdict, proof=None))  # it may be large, and is on file if anywhere
            began = time.monotonic()
            if result_path and took <= _SHARE_OF_SAVING * (began - saved):
                write_result(result_path, question, verdicts)
                saved = time.monotonic()
                took = saved - began
    finally:
        if result_path:
            write_result(result_path, question, verdicts)


def _search(network: Network, question: Question) -> MisclassificationSearch | None:
    """The attack that was asked for; raises Problem where it is impossible."""
    if question.attack is None:
        return None
    try:
        from verify.tasks.attack import misclassification_search
    except ImportError as error:
        raise Problem("attacks need torch, which is not installed") from error
    return misclassification_search(network, Runtime.of(question.model_path, network), question.attack)


def _certified(network: Network, question: Question, verdict: Verdict, folder: Path) -> Verdict:
    """The verdict with its certificate written; `unknown` in the rare case that the checker, which computes one sample
    at a time and so rounds differently, does not confirm it."""
    assert verdict.proof is not None
    data = question.data
    x = data.inputs[verdict.index - data.start][np.newaxis]
    box = box_around(x, question.eps, question.input_range)
    certificate = Certificate(
        model_sha256=network.sha256,
        model_file=Path(question.model_path).name,
        contract=question.contract,
        claim=Class(verdict.label),
        lower=box.lower[0].astype(np.float32),
        upper=box.upper[0].astype(np.float32),
        proof=verdict.proof,
    )
    try:
        check(certificate, network)
    except Rejected:
        return replace(verdict, status=Status.UNKNOWN, decided_by=None)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{Path(data.name).stem}-{verdict.index:05}.json"
    write_certificate(path, certificate)
    confirmed_by = CompiledEngine.proof if verdict.decided_by == CompiledEngine.way else verdict.decided_by
    return replace(verdict, certificate=str(path), decided_by=confirmed_by)


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
