"""Does a certificate prove what it says? Established anew from the certificate and the model file alone.

Trusted: this module and what it imports (certificate, onnx_file, operators, network, replacements, written_out, fusion,
batching, primitives, functions, linear_maps, windows, interpreter, intervals, softmax, linear_bounds, bounds, margins,
crown, methods, rounding, environment), numpy and onnx. Nothing that was computed when the certificate was written is
believed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from verify.certificate import Certificate, Rejected
from verify.environment import require_ieee_arithmetic
from verify.errors import Problem
from verify.margins import classes
from verify.methods import PROOFS
from verify.network import Network
from verify.rounding import CONTRACTS


def check(certificate: Certificate, network: Network) -> None:
    """Return if the certificate is a valid proof about the network; raise Rejected, with the reason, if it is not."""
    if certificate.model_sha256 != network.sha256:
        raise Rejected("it is about another model: the SHA-256 differs")
    if certificate.contract not in CONTRACTS:
        raise Rejected(f"its contract {certificate.contract!r} is unknown")
    if certificate.proof not in PROOFS:
        raise Rejected(f"its proof is of the unknown kind {certificate.proof!r}")
    if certificate.lower.shape != network.input.shape:
        raise Rejected("its box does not have the shape of the model's input")
    if not (np.isfinite(certificate.lower) & np.isfinite(certificate.upper)).all():
        raise Rejected("its box is not finite")
    if not (certificate.lower <= certificate.upper).all():
        raise Rejected("its box is empty, about which everything is true")
    if not 0 <= certificate.label < classes(network):
        raise Rejected("its label is not one of the model's classes")
    require_ieee_arithmetic()
    contract = CONTRACTS[certificate.contract]
    bound = PROOFS[certificate.proof]
    margins = bound(network, certificate.box, np.array([certificate.label]), contract)
    if not (margins > 0).all():  # NaN, about which nothing is known, is not greater
        raise Rejected(f"bounds by {certificate.proof} do not prove it")


def model_of(certificate: Certificate, path: Path) -> Path:
    """The model file that the certificate at `path` names, beside it, one folder above, or here; raises Problem."""
    name = Path(certificate.model_file).name
    for folder in (path.parent, path.parent.parent, Path()):
        if name and (folder / name).is_file():
            return folder / name
    raise Problem(f"the model {name!r} is neither beside {path} nor here: say where it is with --model")
