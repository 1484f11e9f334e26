"""Certificates: what was proved about one box of inputs, with all that is needed to prove it again.

A certificate is a JSON object (format version 1):

    format          "adcert certificate"
    format_version  1
    verifier        the version that wrote it, for information
    contract        what is assumed of the arithmetic that executes the model
    model           {"sha256": of the file's bytes, "file": its name, for information}
    property        {"kind": "class", "label": t}: the logit t is the largest, strictly
    box             {"shape": of the model's input, "lower": ..., "upper": ...}: the elementwise ends, inclusive, as
                    float32, little-endian, in C order, deflated (zlib) and then in base64
    proof           {"kind": ...}: which bounds prove it: "ibp" (intervals), "crown-ibp" (linear bounds over intervals)
                    or "crown" (linear bounds throughout); these need no more than the model and the box

It says: for every float32 input in the box, every execution of the model that keeps the contract has the property.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.errors import Problem, Rejected
from verify.files import write_atomically
from verify.intervals import Interval
from verify.primitives import Shape
from verify.version import __version__

_FORMAT, _VERSION = "adcert certificate", 1
_LARGEST_INPUT = 2**28
"""Elements; more are refused before anything is allocated for them."""


@dataclass(frozen=True)
class Certificate:
    """The statement and its proof. lower, upper: float32, of the shape of the model's input."""

    model_sha256: str
    model_file: str
    contract: str
    label: int
    lower: NDArray[np.float32]
    upper: NDArray[np.float32]
    proof: str

    @property
    def box(self) -> Interval:
        """The box as an interval with one lane."""
        return Interval(*(end[np.newaxis].astype(np.float64) for end in (self.lower, self.upper)))


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
        "property": {"kind": "class", "label": certificate.label},
        "box": {
            "shape": list(certificate.lower.shape),
            "lower": _packed(certificate.lower),
            "upper": _packed(certificate.upper),
        },
        "proof": {"kind": certificate.proof},
    }
    return (json.dumps(content, indent=1) + "\n").encode()


def read(path: Path) -> Certificate:
    """Read a certificate; raises Problem when there is no such file, and Rejected when it is malformed."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Problem(f"cannot read the certificate {path}: {error.strerror or error}") from error
    return decode(content)


def decode(content: bytes) -> Certificate:
    """The certificate in a file's content; raises Rejected, with one sentence, when it is malformed."""
    try:
        fields = json.loads(content)
        if fields["format"] != _FORMAT or fields["format_version"] != _VERSION:
            raise Rejected("it is not a certificate of format version 1")
        if fields["property"]["kind"] != "class":
            raise Rejected("its property is of an unknown kind")
        shape = tuple(fields["box"]["shape"])
        if not all(type(size) is int and size > 0 for size in shape) or math.prod(shape) > _LARGEST_INPUT:
            raise Rejected("the shape of its box is malformed")
        label = fields["property"]["label"]
        if type(label) is not int:
            raise Rejected("its label is not a whole number")
        texts = fields["model"]["sha256"], fields["model"]["file"], fields["contract"], fields["proof"]["kind"]
        if not all(isinstance(text, str) for text in texts):
            raise Rejected("it is malformed")
        lower, upper = (_unpacked(fields["box"][end], shape) for end in ("lower", "upper"))
    except (ValueError, KeyError, TypeError, RecursionError, zlib.error, binascii.Error) as error:
        raise Rejected("it is malformed") from error
    sha256, file, contract, proof = texts
    return Certificate(sha256, file, contract, label, lower, upper, proof)


def _packed(values: NDArray[np.float32]) -> str:
    return base64.b64encode(zlib.compress(values.astype("<f4").tobytes(), 9)).decode()


def _unpacked(text: Any, shape: Shape) -> NDArray[np.float32]:
    """The array; never inflates more than it should hold."""
    size = 4 * math.prod(shape)
    inflater = zlib.decompressobj()
    content = inflater.decompress(base64.b64decode(text, validate=True), size + 1)
    if len(content) != size or not inflater.eof:
        raise Rejected("its box does not have the shape that it names")
    return np.frombuffer(content, "<f4").astype(np.float32).reshape(shape)
