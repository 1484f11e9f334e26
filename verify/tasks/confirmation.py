"""What a result file says was proved, confirmed by the certificates that it names: nothing in it is believed.

A certificate says something about a box. Whoever has the model and the data, or the property, can tell what has to be
proved: that of each sample which counts as certified the label is answered everywhere within eps, inside the input
range; or that each case of the property is impossible. Only then do certificates bear out an accuracy or a verdict.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from verify import datasets
from verify.boxes import InputRange, box_around, eps_text
from verify.check import check
from verify.core.rounding import Array, contract_named
from verify.errors import Problem, Rejected
from verify.model.network import Model, Network
from verify.proofs.certificate import Class, Unreachable, read
from verify.tasks.decision import cases_for
from verify.tasks.result import SCHEMA_VERSION
from verify.tasks.samples import read_data, samples_of
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


@dataclass(frozen=True)
class Confirmation:
    """What is true of the network if all obligations, which are made one at a time, are proved under the contract.

    certified_accuracy: in %, then; None of a property.
    """

    statement: str
    network: Network
    contract: str
    obligations: Iterator[Obligation]
    certified_accuracy: float | None = None


@dataclass(frozen=True)
class ResultFile:
    """A result file, as an object with the keys of its documentation. folder: where it is, and first of all what it
    names is looked for."""

    name: str
    folder: Path
    fields: Mapping[str, Any]

    @property
    def is_about_a_property(self) -> bool:
        return "property" in self.fields

    @property
    def model(self) -> Path | None:
        """The file, if it is found."""
        about = self.fields.get("model")
        path = about.get("path") if isinstance(about, dict) else None
        return located(path, self.folder) if isinstance(path, str) else None

    def confirmation(self, model: Model, *, data: str | None, property: Path | None) -> Confirmation:
        """What has to be proved, and what is true then. data, property: what the result is about, if that is not looked
        for by the name that the result has for it.

        Raises Rejected where the result is about another model, other data or another property, or not all that it
        should be about; and Problem where it is malformed, or something that it is about is missing or does not fit.
        """
        try:
            if _typed(_typed(self.fields, "model", dict), "sha256", str) != model.file.sha256:
                raise Rejected("it is about another model: the SHA-256 differs")
            return (
                self._of_property(model.network(), property)
                if self.is_about_a_property
                else self._of_samples(model, data)
            )
        except (KeyError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
            reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
            raise Problem(f"{self.name} is not a result file: {reason}") from error

    def _of_samples(self, model: Model, source: str | None) -> Confirmation:
        about, samples = _typed(self.fields, "data", dict), _typed(self.fields, "samples", list)
        contract, norm = contract_named(_typed(self.fields, "contract", str)), _typed(self.fields, "norm", str)
        eps, valid = _eps(self.fields), _range(self.fields)
        if norm != "linf":
            raise Rejected(f"it is about perturbations in the norm {norm!r}, which is unknown")
        source = source or self._data(_typed(about, "name", str))
        data = read_data(source)
        if data.sha256 != _typed(about, "sha256", str):
            raise Rejected(f"it is about other data than {source}: the SHA-256 differs")
        indices, labels = ([_typed(sample, key, int) for sample in samples] for key in ("index", "label"))
        if not samples:
            raise Rejected("it is about no sample")
        first, count = indices[0], len(samples)
        if indices != list(range(first, first + count)):
            raise Rejected("it leaves samples out")
        if not 0 <= first < first + count <= len(data.labels):
            raise Rejected("the data do not have its samples")
        if labels != data.labels[first : first + count].tolist():
            raise Rejected("its labels are not those of the data")
        network = model.network(data.images.shape[1:])
        inputs = samples_of(data, network, start=first, count=count).inputs
        certificates = {
            place: None if sample.get("certificate") is None else _typed(sample, "certificate", str)
            for place, sample in enumerate(samples)
            if _typed(sample, "status", str) == "verified"
        }

        def obligations() -> Iterator[Obligation]:
            for place, certificate in certificates.items():
                box = box_around(inputs[place : place + 1], eps, valid)
                claim = Class(labels[place])
                yield Obligation(f"sample {first + place}", certificate, claim, box.lower[0], box.upper[0])

        share = math.floor(10_000 * len(certificates) / count) / 100
        of = f"samples {first} to {first + count - 1} of {source}" + (f" ({data.split})" if data.split else "")
        inside = f" within {list(valid)}" if valid else ""
        statement = (
            f"{len(certificates)} of {count} ({share:.2f} %), {of}, are certified at eps {eps_text(eps)}{inside}"
        )
        certified = 100 * len(certificates) / count
        return Confirmation(f"{statement}, {contract.scope}", network, contract.name, obligations(), certified)

    def _of_property(self, network: Network, path: Path | None) -> Confirmation:
        about, certificates = _typed(self.fields, "property", dict), _typed(self.fields, "certificates", list)
        contract, verdict = contract_named(_typed(self.fields, "contract", str)), _typed(self.fields, "verdict", str)
        path = path or located(_typed(about, "path", str), self.folder)
        if path is None:
            raise Problem(f"the property of {self.name} is neither beside it nor here: say where it is with --vnnlib")
        property = read_property(path)
        if property.sha256 != _typed(about, "sha256", str):
            raise Rejected(f"it is about another property than {path}: the SHA-256 differs")
        if verdict != "unsat":
            raise Rejected(f"its verdict is {verdict!r}, of which there is no proof")
        cases = cases_for(network, property)
        if len(cases) != len(certificates):
            raise Rejected(f"it names {len(certificates)} certificates, but the property falls into {len(cases)} cases")
        if not all(isinstance(certificate, str) for certificate in certificates):
            raise TypeError("a certificate is no path")
        found = []
        for number, (case, certificate) in enumerate(zip(cases, certificates, strict=True)):
            lower, upper = (end.reshape(network.input.shape) for end in (case.lower, case.upper))
            claim = Unreachable(tuple(case.alternatives))
            found.append(Obligation(f"case {number}", certificate, claim, lower, upper))
        statement = f"{path} holds" + ("" if cases else ", for no input fulfils its own constraints")
        return Confirmation(f"{statement}, {contract.scope}", network, contract.name, iter(found))

    def _data(self, name: str) -> str:
        """Where data of that name are."""
        if name in datasets.names():
            return name
        path = located(name, self.folder) if name.endswith(".npz") else None
        if path is None:
            raise Problem(f"the data of {self.name}, {name!r}, are neither beside it nor here: say where with --data")
        return str(path)


def result_file(path: Path, content: bytes) -> ResultFile:
    """From the content of the file at that path; raises Problem, in a sentence, unless it is a result file."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(fields := dict(pairs)) < len(pairs):
            raise ValueError("it has a key twice")
        return fields

    try:
        fields = json.loads(content, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise Problem(f"{path} is not a result file: it is not complete, valid JSON ({error})") from error
    if not isinstance(fields, dict) or type(fields.get("schema_version")) is not int:
        raise Problem(f"{path} is not a result file: it has no schema_version")
    if fields["schema_version"] != SCHEMA_VERSION:
        version = fields["schema_version"]
        raise Problem(f"{path} has the schema_version {version}, and this program reads {SCHEMA_VERSION}")
    return ResultFile(str(path), path.parent, fields)


def require_proof(obligation: Obligation, of: Confirmation, folder: Path) -> None:
    """Return if the certificate of an obligation of the confirmation, found from the folder of the result, proves it;
    raise Rejected, with the reason, if not."""
    if obligation.certificate is None:
        raise Rejected("the result names no certificate of it")
    path = located(obligation.certificate, folder)
    if path is None:
        raise Rejected(f"there is no certificate {obligation.certificate!r}")
    certificate = read(path)
    if certificate.contract != of.contract:
        raise Rejected(f"its certificate is under the contract {certificate.contract!r}, not {of.contract!r}")
    if certificate.claim != obligation.claim:
        raise Rejected("its certificate proves something else")
    if certificate.lower.shape != obligation.lower.shape:
        raise Rejected("its certificate is about inputs of another shape")
    if not ((certificate.lower <= obligation.lower) & (certificate.upper >= obligation.upper)).all():
        raise Rejected("its certificate is about another box")
    check(certificate, of.network)


def located(path: str, folder: Path) -> Path | None:
    """A file that a result in the folder names: there, under as much of its path as there is, one folder above, here,
    or where it was when the result was written."""
    steps = path.replace("\\", "/").split("/")
    tails = ["/".join(steps[first:]) for first in range(len(steps))]
    inside = [base / tail for base in (folder, Path()) for tail in tails if tail and not tail.startswith("/")]
    for place in [*inside, folder.parent / tails[-1], Path(path)]:
        try:
            if place.is_file():
                return place
        except (OSError, ValueError):  # a name that cannot be one
            continue
    return None


def _typed(source: Any, key: str, kind: type) -> Any:
    if not isinstance(source, dict):
        raise TypeError(f"what should have {key} is no object")
    value = source[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{key} is no {kind.__name__}")
    return value


def _eps(fields: Mapping[str, Any]) -> Fraction:
    exact = _typed(fields, "eps_exact", str)
    if not re.fullmatch(r"\d{1,99}(/0*[1-9]\d{0,98})?", exact, re.ASCII):
        raise ValueError("eps_exact is no fraction")
    return Fraction(exact)


def _range(fields: Mapping[str, Any]) -> InputRange | None:
    if fields.get("input_range") is None:
        return None
    low, high = _typed(fields, "input_range", list)
    ends = [float(end) for end in (low, high) if isinstance(end, int | float) and not isinstance(end, bool)]
    if len(ends) != 2 or not -math.inf < ends[0] < ends[1] < math.inf:
        raise ValueError("input_range is no pair of rising numbers")
    return ends[0], ends[1]
