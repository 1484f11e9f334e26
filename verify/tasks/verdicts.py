"""What is found about the samples of a question, with a certificate of what is verified."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from verify.boxes import box_around
from verify.check import check
from verify.compiled.engine import CompiledEngine
from verify.core.rounding import contract_named
from verify.errors import Problem, Rejected
from verify.model.network import Network
from verify.proofs.certificate import Certificate, Class
from verify.proofs.certificate import write as write_certificate
from verify.tasks.result import Question
from verify.tasks.robustness import MisclassificationSearch, Status, Verdict, verify_classifier
from verify.tasks.runtime import Runtime
from verify.tasks.samples import Samples


class Examiner:
    """Finds what a question asks, of some of its samples at a time."""

    def __init__(self, network: Network, question: Question, certificates: Path | None, *, threads: int = 0) -> None:
        """certificates: a folder for one per verified sample, each checked before it is written. threads: of the engine
        onnx, 0 for one per core. Raises Problem where an engine or an attack that was asked for is impossible."""
        self._network, self._question, self._certificates = network, question, certificates
        self._attack = _search(network, question)
        self._engine: CompiledEngine | None = None
        if question.engine == "onnx":
            self._engine = CompiledEngine(network, question.eps, question.input_range, threads=threads)

    def __call__(self, samples: Samples) -> Iterator[Verdict]:
        """Verdicts on the samples, one after the other, without their proofs, which may be large."""
        network, question = self._network, self._question
        found = verify_classifier(
            network,
            samples,
            eps=question.eps,
            input_range=question.input_range,
            contract=contract_named(question.contract),
            method=question.method,
            timeout_s=question.timeout_s or math.inf,
            attack=self._attack,
            engine=self._engine,
        )
        for verdict in found:
            if self._certificates and verdict.status is Status.VERIFIED:
                inputs = samples.inputs[verdict.index - samples.start]
                verdict = _certified(network, question, verdict, inputs, self._certificates)
            yield replace(verdict, proof=None)


def _search(network: Network, question: Question) -> MisclassificationSearch | None:
    """The attack that was asked for; raises Problem where it is impossible."""
    if question.attack is None:
        return None
    try:
        from verify.tasks.attack import misclassification_search
    except ImportError as error:
        raise Problem("attacks need torch, which is not installed") from error
    return misclassification_search(network, Runtime.of(question.model_path, network), question.attack)


def _certified(network: Network, question: Question, verdict: Verdict, x: NDArray[np.float32], folder: Path) -> Verdict:
    """The verdict with its certificate written; `unknown` in the rare case that the checker, which computes one sample
    at a time and so rounds differently, does not confirm it."""
    assert verdict.proof is not None
    box = box_around(x[np.newaxis], question.eps, question.input_range)
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
    path = folder / f"{Path(question.data.name).stem}-{verdict.index:05}.json"
    write_certificate(path, certificate)
    confirmed_by = CompiledEngine.proof if verdict.decided_by == CompiledEngine.way else verdict.decided_by
    return replace(verdict, certificate=str(path), decided_by=confirmed_by)
