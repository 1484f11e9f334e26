"""What a result file says was proved, confirmed by the certificates that it names: nothing in it is believed.

A certificate says something about a box. Whoever has the model and the data, or the property, can tell what has to be
proved: that of each sample which counts as certified the label is answered everywhere within eps, inside the input
range; or that each case of the property is impossible. Only then do certificates bear out an accuracy or a verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from verify.boxes import box_around
from verify.check import check
from verify.core.rounding import Array, contract_named
from verify.datasets import Dataset
from verify.errors import Problem, Rejected
from verify.judgement import Judgement
from verify.model.network import Network
from verify.proofs.certificate import Class, Unreachable, read
from verify.tasks.decision import cases_for
from verify.tasks.recorded import Library, Outcome, RecordedProperty, Result, located, parse
from verify.tasks.samples import samples_of
from verify.tasks.vnnlib import Property
from verify.tasks.vnnlib import read as read_property


@dataclass(frozen=True)
class Obligation:
    """What has to be proved about one box (ends of the shape of the model's input), and the certificate, by its path,
    that is said to prove it. subject: what this is about, in words."""

    subject: str
    certificate: str | None
    claim: Class | Unreachable
    lower: Array
    upper: Array


def confirmed(
    path: Path, content: bytes, model: Path | None, data: str | None, network_in: Callable[[Path], Network]
) -> Iterator[Judgement]:
    """Judgements on each proof that a result file needs, and last on the result. model, data: as for a `Judge`.
    network_in: reads a model."""
    result = parse(path.name, content)
    file = model or located(result.model_path, path.parent)
    if file is None:
        raise Problem(f"the model {result.model_path} is neither beside {path} nor here: say where it is with --model")
    network, count, failed = network_in(file), 0, 0
    try:
        for obligation in obligations(result, network, path.parent, data):
            reason = None
            try:
                require_proof(obligation, result.contract, network, path.parent)
            except Rejected as rejected:
                reason = str(rejected)
            yield Judgement(f"{path}: {obligation.subject}", reason)
            count += 1
            failed += reason is not None
        if failed:
            raise Rejected(f"{failed} of the {count} proofs that it needs are not valid")
        yield Judgement(str(path), None, f"{file}: {statement(result)}")
    except Rejected as rejected:
        yield Judgement(str(path), str(rejected))


def obligations(
    result: Result | RecordedProperty, network: Network, folder: Path, data: str | None
) -> Iterator[Obligation]:
    """What has to be proved for the result, which is in the folder, to be true. data: where its samples are from, if
    its own name for that does not suffice.

    Raises Rejected where the result is not about the model, its data or its property, and Problem where these are
    missing or do not fit.
    """
    if isinstance(result, Result):
        yield from certified_samples(result, network, Library(data, [folder, Path()]).data_of(result))
        return
    property = located(result.property_path, folder)
    if property is None:
        raise Problem(f"the property {result.property_path} is neither beside the result nor where it was")
    yield from impossible_cases(result, network, read_property(property))


def statement(result: Result | RecordedProperty) -> str:
    """What is true of the model if all its obligations are proved."""
    scope = contract_named(result.contract).scope
    if isinstance(result, RecordedProperty):
        return f"the property holds, {scope}"
    first, last = result.samples[0].index, result.samples[-1].index
    certified = result.counts[Outcome.CERTIFIED]
    inside = f" within {list(result.input_range)}" if result.input_range else ""
    of = f"samples {first} to {last} of {result.data_name}" + (f" ({result.split})" if result.split else "")
    return (
        f"{result.point.certified:.2f} % ({certified}) of {of} are certified at eps {result.eps_text}{inside}, {scope}"
    )


def certified_samples(result: Result, network: Network, data: Dataset) -> Iterator[Obligation]:
    """Of each sample that a result calls verified: its label is answered everywhere in the box that belongs to it.

    Raises Rejected where the result is not about this model and these data, or leaves samples out; Problem where data
    and model do not fit.
    """
    _require_model(result, network)
    if data.sha256 != result.data_sha256:
        raise Rejected("it is about other data: the SHA-256 differs")
    if result.norm != "linf":
        raise Rejected(f"it is about perturbations in the norm {result.norm!r}, which is unknown")
    if not result.samples:
        raise Rejected("it is about no sample")
    first, count = result.samples[0].index, len(result.samples)
    if [sample.index for sample in result.samples] != list(range(first, first + count)):
        raise Rejected("it leaves samples out")
    if not 0 <= first < first + count <= len(data.labels):
        raise Rejected("the data do not have its samples")
    if [sample.label for sample in result.samples] != data.labels[first : first + count].tolist():
        raise Rejected("its labels are not those of the data")
    samples = samples_of(data, network.input.shape, start=first, count=count)
    for x, sample in zip(samples.inputs, result.samples, strict=True):
        if sample.outcome is Outcome.CERTIFIED:
            box = box_around(x[np.newaxis], Fraction(result.eps_text), result.input_range)
            subject = f"sample {sample.index}"
            yield Obligation(subject, sample.certificate, Class(sample.label), box.lower[0], box.upper[0])


def impossible_cases(result: RecordedProperty, network: Network, property: Property) -> Iterator[Obligation]:
    """Of each case of a property that a result calls unsat: it is impossible.

    Raises Rejected where the result is not about this model and this property, or of another verdict; ModelProblem
    where property and model do not fit.
    """
    _require_model(result, network)
    if property.sha256 != result.property_sha256:
        raise Rejected("it is about another property: the SHA-256 differs")
    if result.verdict != "unsat":
        raise Rejected(f"its verdict is {result.verdict}, of which there is no proof")
    cases = cases_for(network, property)
    if len(cases) != len(result.certificates):
        count = len(result.certificates)
        raise Rejected(f"it names {count} certificates, but the property falls into {len(cases)} cases")
    for number, (case, certificate) in enumerate(zip(cases, result.certificates, strict=True)):
        lower, upper = (end.reshape(network.input.shape) for end in (case.lower, case.upper))
        yield Obligation(f"case {number}", certificate, Unreachable(tuple(case.alternatives)), lower, upper)


def require_proof(obligation: Obligation, contract: str, network: Network, folder: Path) -> None:
    """Return if the obligation's certificate, found from the folder of the result, proves it under the contract; raise
    Rejected, with the reason, if not."""
    if obligation.certificate is None:
        raise Rejected("the result names no certificate of it")
    path = located(obligation.certificate, folder)
    if path is None:
        raise Rejected(f"there is no certificate {obligation.certificate}")
    certificate = read(path)
    if certificate.contract != contract_named(contract).name:
        raise Rejected(f"its certificate is under the contract {certificate.contract!r}, not {contract!r}")
    if certificate.claim != obligation.claim:
        raise Rejected("its certificate proves something else")
    if certificate.lower.shape != obligation.lower.shape:
        raise Rejected("its certificate is about inputs of another shape")
    if not ((certificate.lower <= obligation.lower) & (certificate.upper >= obligation.upper)).all():
        raise Rejected("its certificate is about another box")
    check(certificate, network)


def _require_model(result: Result | RecordedProperty, network: Network) -> None:
    if result.model_sha256 != network.sha256:
        raise Rejected("it is about another model: the SHA-256 differs")
