"""Does a certificate prove what it says? Established anew from the certificate and the model file alone.

Trusted: this module and what it imports (certificate, onnx_file, operators, network, fusion, batching, primitives,
linear_maps, windows, interpreter, intervals, linear_bounds, bounds, margins, crown, split_trees, methods, rounding,
environment), numpy and onnx. Nothing that was computed when the certificate was written is believed: a proof's slopes,
multipliers and splits are choices, each of which is as valid as any other.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from verify.certificate import Certificate
from verify.crown import margin_functionals
from verify.environment import require_ieee_arithmetic
from verify.errors import Problem, Rejected
from verify.margins import classes
from verify.methods import PROOFS
from verify.network import Network
from verify.rounding import CONTRACTS
from verify.split_trees import split_bounds


def check(certificate: Certificate, network: Network) -> None:
    """Return if the certificate is a valid proof about the network; raise Rejected, with the reason, if it is not."""
    if certificate.model_sha256 != network.sha256:
        raise Rejected("it is about another model: the SHA-256 differs")
    if certificate.contract not in CONTRACTS:
        raise Rejected(f"its contract {certificate.contract!r} is unknown")
    proof = certificate.proof
    if isinstance(proof, str) and proof not in PROOFS:
        raise Rejected(f"its proof is of the unknown kind {proof!r}")
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
    label = np.array([certificate.label])
    if isinstance(proof, str):
        lower, name = PROOFS[proof](network, certificate.box, label, contract), f"by {proof}"
    else:
        functionals, constants = margin_functionals(network, label)
        lower = split_bounds(network, certificate.box, functionals[0], constants[0], contract, proof)
        name = "over its trees of splits"
    if not (lower > 0).all():  # NaN, about which nothing is known, is not greater
        raise Rejected(f"bounds {name} do not prove it")


def model_of(certificate: Certificate, path: Path) -> Path:
    """The model file that the certificate at `path` names, beside it, one folder above, or here; raises Problem."""
    name = Path(certificate.model_file).name
    for folder in (path.parent, path.parent.parent, Path()):
        if name and (folder / name).is_file():
            return folder / name
    raise Problem(f"the model {name!r} is neither beside {path} nor here: say where it is with --model")
