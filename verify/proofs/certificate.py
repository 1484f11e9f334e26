"""Certificates: what was proved about one box of inputs, with all that is needed to prove it again.

A certificate is a JSON object:

    format          "adcert certificate"
    format_version  1
    verifier        the version that wrote it, for information
    contract        what is assumed of the arithmetic that executes the model
    model           {"sha256": of the file's bytes, "file": its name, for information}
    property        {"kind": "class", "label": t}: the logit t is the largest, strictly; or
                    {"kind": "unreachable", "alternatives": [[constraint, ...], ...]}: the outputs fulfil none of the
                    alternatives, each of them a conjunction of constraints
                    {"inputs": [[i, c], ...], "outputs": [[j, c], ...], "bound": "p/q", "strict": false}: the sum of
                    c x_i and c y_j, with whole numbers c and flat indices, is at most p/q (or less, if strict)
    box             {"shape": of the model's input, "lower": ..., "upper": ...}: the elementwise ends, inclusive, as
                    float32, little-endian, in C order, deflated (zlib) and then in base64
    proof           {"kind": ...}: which bounds prove it: "ibp" (intervals), "crown-ibp" (linear bounds over intervals)
                    or "crown" (linear bounds throughout), which need no more than the model and the box; or
                    "split-trees", a `SplitProof`, or "input-splits", an `InputSplits` about an unreachable property,
                    with the attributes of these and of what they consist of. Each array is {"shape", "data"}, deflated
                    and in base64 like the box: numbers of nodes, neurons, parts and functionals as int32, slopes and
                    weights of constraints as uint8, other numbers as float32. What is not there has no attribute.

It says: for every input in the box, of float32, or of uint8 for a model that takes bytes, every execution of the model
that keeps the contract has the property.
"""

from __future__ import annotations

import binascii
import json
import math
import re
import zlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.core.intervals import Interval
from verify.core.rounding import CONTRACTS
from verify.errors import Rejected
from verify.files import read_bytes, write_atomically
from verify.proofs.arrays import LARGEST, packed, require_bytes, unpacked
from verify.proofs.proof_fields import Proof, fields_of_proof, proof_of
from verify.proofs.properties import Conjunction, Constraint, Terms
from verify.version import __version__

_FORMAT, _VERSION, _MOST_AXES = "adcert certificate", 1, 32
_RATIONAL = re.compile(r"-?\d{1,4000}(/\d{1,4000})?", re.ASCII)


@dataclass(frozen=True)
class Class:
    """The logit `label` is the largest, strictly."""

    label: int


@dataclass(frozen=True)
class Unreachable:
    """The outputs fulfil none of these conjunctions."""

    alternatives: tuple[Conjunction, ...]


@dataclass(frozen=True)
class Certificate:
    """The statement and its proof. lower, upper: float32, of the shape of the model's input."""

    model_sha256: str
    model_file: str
    contract: str
    claim: Class | Unreachable
    lower: NDArray[np.float32]
    upper: NDArray[np.float32]
    proof: Proof

    @property
    def box(self) -> Interval:
        """The box as an interval with one lane."""
        return Interval(*(end[np.newaxis].astype(np.float64) for end in (self.lower, self.upper)))

    @property
    def statement(self) -> str:
        """What it claims, but for the numbers of its label, its property and its box."""
        radius = float((self.upper.astype(np.float64) - self.lower).max(initial=0.0)) / 2
        what = "the answer is the label" if isinstance(self.claim, Class) else "the property's case is impossible"
        scope = CONTRACTS[self.contract].scope if self.contract in CONTRACTS else f"under {self.contract}"
        return f"{what} in a box of radius {radius:.6g}, {scope}"


def write(path: Path, certificate: Certificate) -> None:
    """Write a certificate in one step; raises Problem when that fails."""
    write_atomically(path, encode(certificate))


def encode(certificate: Certificate) -> bytes:
    """The file's content; equal certificates have equal bytes."""
    content = {
        "format": _FORMAT,
        "format_version": _VERSION,
        "verifier": __version__,
        "contract": certificate.contract,
        "model": {"sha256": certificate.model_sha256, "file": certificate.model_file},
        "property": _property_json(certificate.claim),
        "box": {
            "shape": list(certificate.lower.shape),
            "lower": packed(certificate.lower, "<f4"),
            "upper": packed(certificate.upper, "<f4"),
        },
        "proof": fields_of_proof(certificate.proof),
    }
    return (json.dumps(content, indent=1) + "\n").encode()


def read(path: Path) -> Certificate:
    """Read a certificate; raises FileProblem when there is no such file, and Rejected when it is malformed."""
    return decode(read_bytes(path))


def decode(content: bytes) -> Certificate:
    """The certificate in a file's content; raises Rejected, with one sentence, when it is malformed."""
    try:
        fields = json.loads(content)
        version = fields["format_version"]
        if fields["format"] != _FORMAT or type(version) is not int or version != _VERSION:
            raise Rejected(f"it is not a certificate of format version {_VERSION}")
        shape = tuple(fields["box"]["shape"])
        possible = len(shape) <= _MOST_AXES and all(type(size) is int and 0 < size <= LARGEST for size in shape)
        if not possible or math.prod(shape) > LARGEST:
            raise Rejected("the shape of its box is malformed")
        require_bytes(2 * 4 * math.prod(shape))
        claim = _claim(fields["property"])
        texts = fields["model"]["sha256"], fields["model"]["file"], fields["contract"]
        if not all(isinstance(text, str) for text in texts):
            raise Rejected("it is malformed")
        lower, upper = (
            unpacked(fields["box"][end], "<f4", math.prod(shape)).reshape(shape) for end in ("lower", "upper")
        )
        proof = proof_of(fields["proof"])
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError, zlib.error, binascii.Error) as error:
        raise Rejected("it is malformed") from error
    sha256, file, contract = texts
    return Certificate(sha256, file, contract, claim, lower, upper, proof)


def _property_json(claim: Class | Unreachable) -> dict[str, Any]:
    if isinstance(claim, Class):
        return {"kind": "class", "label": claim.label}
    return {"kind": "unreachable", "alternatives": [[_constraint_json(c) for c in each] for each in claim.alternatives]}


def _constraint_json(constraint: Constraint) -> dict[str, Any]:
    inputs, outputs = ([[i, int(c)] for i, c in terms] for terms in (constraint.inputs, constraint.outputs))
    return {"inputs": inputs, "outputs": outputs, "bound": str(constraint.bound), "strict": constraint.strict}


def _claim(fields: Any) -> Class | Unreachable:
    if fields["kind"] not in ("class", "unreachable"):
        raise Rejected("its property is of an unknown kind")
    return _class(fields) if fields["kind"] == "class" else _unreachable(fields)


def _class(fields: Any) -> Class:
    if type(fields["label"]) is not int:
        raise Rejected("its label is not a whole number")
    return Class(fields["label"])


def _unreachable(fields: Any) -> Unreachable:
    alternatives = tuple(tuple(map(_constraint, conjunction)) for conjunction in fields["alternatives"])
    if not alternatives:
        raise Rejected("it names nothing that would be unreachable")
    return Unreachable(alternatives)


def _constraint(fields: Any) -> Constraint:
    """Nothing but what `_constraint_json` writes; numbers that take long to compute with are not among that."""
    bound, strict = fields["bound"], fields["strict"]
    if type(strict) is not bool or not isinstance(bound, str) or not _RATIONAL.fullmatch(bound):
        raise Rejected("a constraint of its property is malformed")
    return Constraint(_terms(fields["inputs"]), _terms(fields["outputs"]), Fraction(bound), strict)


def _terms(fields: Any) -> Terms:
    numbers = [number for term in fields for number in term]
    if any(len(term) != 2 for term in fields) or any(type(number) is not int for number in numbers):
        raise Rejected("a constraint of its property is malformed")
    indices = [index for index, _ in fields]
    if any(index < 0 for index in indices) or indices != sorted(set(indices)):
        raise Rejected("a constraint of its property is malformed")
    return tuple((index, Fraction(coefficient)) for index, coefficient in fields)
