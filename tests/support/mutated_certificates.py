"""Certificates that somebody tampered with."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from verify.proofs.certificate import Certificate, Class
from verify.proofs.input_splits import InputSplits
from verify.proofs.paths import LEAF

F32 = np.float32


def with_another_byte(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    changed[int(rng.integers(len(content)))] = int(rng.integers(256))
    return bytes(changed)


def restated(certificate: Certificate, rng: np.random.Generator) -> Certificate:
    """Saying something else: a corner of the box, the label, a number of a constraint, the contract or the way."""
    kind = rng.choice(["lower", "upper", "claim", "contract", "proof"], p=[0.3, 0.3, 0.3, 0.05, 0.05])
    if kind in ("lower", "upper"):
        return replace(certificate, **{kind: _moved(getattr(certificate, kind), rng)})
    if kind == "contract":
        return replace(certificate, contract="real")
    if kind == "proof":
        way = str(rng.choice(["ibp", "crown-ibp", "crown"]))
        return replace(certificate, proof=way if isinstance(certificate.proof, str) else certificate.proof)
    if isinstance(certificate.claim, Class):
        return replace(certificate, claim=Class(int(rng.integers(4))))
    alternatives = [list(alternative) for alternative in certificate.claim.alternatives]
    alternative = alternatives[int(rng.integers(len(alternatives)))]
    place = int(rng.integers(len(alternative)))
    constraint = alternative[place]
    shift = Fraction(int(rng.integers(-8, 9)), int(rng.choice([1, 8, 2**30])))
    if rng.random() < 0.5:
        constraint = constraint._replace(bound=constraint.bound + shift)
    else:
        terms = tuple((index, -coefficient) for index, coefficient in constraint.outputs)
        constraint = constraint._replace(outputs=terms, strict=bool(rng.random() < 0.5))
    alternative[place] = constraint
    claim = replace(certificate.claim, alternatives=tuple(map(tuple, alternatives)))
    return replace(certificate, claim=claim)


def _moved(corner: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """One coordinate, by the smallest step or a larger one."""
    corner = corner.copy()
    flat = corner.reshape(-1)
    place = int(rng.integers(flat.size))
    way = F32(rng.choice([-np.inf, np.inf]))
    step = np.nextafter(flat[place], way)
    flat[place] = step if rng.random() < 0.5 else flat[place] + F32(rng.choice([-0.5, -0.01, -1e-4, 1e-4, 0.01, 0.5]))
    return corner


def with_other_parts(certificate: Certificate, rng: np.random.Generator) -> Certificate:
    """With one number of its splits of inputs changed, or of the slopes and weights at these."""
    proof = certificate.proof
    assert isinstance(proof, InputSplits)
    nodes, cuts = proof.nodes.copy(), proof.cuts.copy()
    kind = rng.integers(4)
    if kind == 0:
        nodes[rng.integers(len(nodes))] = rng.choice([LEAF, 0, 1, 2, -2])
    elif kind == 1:
        cuts[rng.integers(len(cuts))] += F32(rng.choice([1e-7, 0.01, -0.1, 0.5]))
    elif kind == 2 and proof.weights is not None:
        weights = proof.weights.copy()
        weights[rng.integers(len(weights)), rng.integers(weights.shape[1])] = rng.integers(256)
        proof = replace(proof, weights=weights)
    elif proof.part_slopes is not None:
        name = str(rng.choice(["part", "functional", "slopes"], p=[0.25, 0.25, 0.5]))
        values = getattr(proof.part_slopes, name).copy()
        place = rng.integers(len(values))
        if name == "slopes":
            values[place] = rng.integers(0, 256, values.shape[1])
        else:
            values[place] += np.int32(rng.integers(-1, 2))
        proof = replace(proof, part_slopes=proof.part_slopes._replace(**{name: values}))
    return replace(certificate, proof=replace(proof, nodes=nodes, cuts=cuts))
