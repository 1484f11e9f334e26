"""Does a certificate prove what it says? Established anew from the certificate and the model file alone.

Trusted: this module and what it imports (docs/auditing.md has the order in which to read it), numpy and onnx. Nothing
that was computed when the certificate was written is believed: a proof's slopes, multipliers and splits are choices,
each of which is as valid as any other.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from verify.bounds.crown import margin_problem
from verify.bounds.margins import classes
from verify.bounds.maxima import with_relus
from verify.bounds.methods import PROOFS
from verify.core.environment import require_ieee_arithmetic
from verify.core.intervals import Interval
from verify.core.rounding import CONTRACTS
from verify.errors import Problem, Rejected
from verify.model.network import Network
from verify.proofs.certificate import Certificate, Class, Unreachable
from verify.proofs.exclusion import Exclusion
from verify.proofs.input_splits import InputSplits, unproved
from verify.proofs.proof_fields import Proof, require_size
from verify.proofs.reachability import unreachable, unreachable_over_trees
from verify.proofs.split_trees import SplitProof, split_bounds


def check(certificate: Certificate, network: Network) -> None:
    """Return if the certificate is a valid proof about the network; raise Rejected, with the reason, if it is not."""
    if certificate.model_sha256 != network.sha256:
        raise Rejected("it is about another model: the SHA-256 differs")
    if certificate.contract not in CONTRACTS:
        raise Rejected(f"its contract {certificate.contract!r} is unknown")
    proof = certificate.proof
    way = proof.way if isinstance(proof, InputSplits) else proof
    if isinstance(way, str) and way not in PROOFS:
        raise Rejected(f"its proof is of the unknown kind {way!r}")
    require_size(proof)
    if certificate.lower.shape != network.input.shape:
        raise Rejected("its box does not have the shape of the model's input")
    if not (np.isfinite(certificate.lower) & np.isfinite(certificate.upper)).all():
        raise Rejected("its box is not finite")
    if not (certificate.lower <= certificate.upper).all():
        raise Rejected("its box is empty, about which everything is true")
    require_ieee_arithmetic()
    claim = certificate.claim
    proved = _wins(claim, certificate, network) if isinstance(claim, Class) else _unreached(claim, certificate, network)
    if not proved:
        raise Rejected(f"bounds {_name(certificate.proof)} do not prove it")


def _name(proof: Proof) -> str:
    return f"by {proof}" if isinstance(proof, str) else "over its splits"


def _wins(claim: Class, certificate: Certificate, network: Network) -> bool:
    if not 0 <= claim.label < classes(network):
        raise Rejected("its label is not one of the model's classes")
    proof, box, contract = certificate.proof, certificate.box, CONTRACTS[certificate.contract]
    label = np.array([claim.label])
    if isinstance(proof, InputSplits):
        raise Rejected("splits of inputs prove properties of another kind")
    if isinstance(proof, str):
        lower = PROOFS[proof](network, box, label, contract)
    else:
        problem, functionals, constants = margin_problem(network, box, label, contract)
        lower = split_bounds(problem, box, functionals[0], constants[0], contract, proof)
    return bool((lower > 0).all())  # NaN, about which nothing is known, is not greater


def _unreached(claim: Unreachable, certificate: Certificate, network: Network) -> bool:
    constraints = [constraint for conjunction in claim.alternatives for constraint in conjunction]
    for tensor, terms in ((network.input, "inputs"), (network.output, "outputs")):
        size = int(np.prod(tensor.shape))
        if any(index >= size for constraint in constraints for index, _ in getattr(constraint, terms)):
            raise Rejected(f"its property is about {terms} that the model does not have")
    proof, contract = certificate.proof, CONTRACTS[certificate.contract]
    if isinstance(proof, SplitProof):
        return unreachable_over_trees(with_relus(network), certificate.box, claim.alternatives, contract, proof)
    flat = Interval(*(end.reshape(1, -1) for end in certificate.box))
    if isinstance(proof, InputSplits):
        proves = Exclusion(network, claim.alternatives, contract, proof.way)
        return not any(missing.size for missing in unproved(network, flat, proof, proves))
    (proved,) = unreachable(network, flat, [claim.alternatives], contract, proof)
    return proved


def model_of(certificate: Certificate, path: Path) -> Path:
    """The model file that the certificate at `path` names, beside it, one folder above, or here; raises Problem."""
    name = Path(certificate.model_file).name
    for folder in (path.parent, path.parent.parent, Path()):
        try:
            if name and (folder / name).is_file():
                return folder / name
        except OSError:  # a name that cannot be one
            continue
    raise Problem(f"the model {name!r} is neither beside {path} nor here: say where it is with --model")
