"""Certificates: what was proved about one box of inputs, with all that is needed to prove it again.

A certificate is a JSON object:

    format          "adcert certificate"
    format_version  1; or 2 where the property is of the second kind; or 3 where, besides, splits of inputs have
                    weights; or 4 where they have slopes
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
                    "split-trees", a `SplitProof`, whose arrays are deflated and in base64 like the box:
                    {"kind", "neurons": {"count", "bits"}, "refinements": [{"count": of neurons, "width": of slopes for
                    each, "neurons": int32, "slopes": uint8}], "trees": [{"functional": the other class, "leaves": how
                    many, "splits": on all their paths together, "nodes": int32, "slopes": uint8, "multipliers":
                    float32}]}, where a tree splits smooth functions also "smooth": how often, "points": float32, where
                    it has planes also "weights": how many each leaf has, "fractions": uint8, where its nodes have
                    better bounds also "assumptions": [{"leaf", "depth", "count": of neurons, "neurons": int32,
                    "weights": float32, "slopes": uint8, "multipliers": float32}], and where the proof has parts
                    "parts": {"leaves": how many, "nodes": int32}, where they have slopes also "chosen", as below,
                    with slopes of "neurons"; or
                    "input-splits", an `InputSplits`, about an unreachable property: {"kind", "way": "ibp", "crown-ibp"
                    or "crown", "leaves": how many, "nodes": int32, "cuts": float32}, where they have weights also
                    "constraints": how many, "weights": uint8, and where they have slopes also "chosen": {"pairs": of
                    parts and functionals, "neurons": how many, "splits": at most, "parts": int32, "functionals": int32,
                    "slopes": uint8, "multipliers": float32}

It says: for every float32 input in the box, every execution of the model that keeps the contract has the property.
"""

from __future__ import annotations

import base64
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

from verify.bounds.refinements import Refinement
from verify.core.intervals import Interval
from verify.core.rounding import CONTRACTS
from verify.errors import Rejected
from verify.files import read_bytes, write_atomically
from verify.proofs.assumptions import Assumption
from verify.proofs.input_splits import InputSplits
from verify.proofs.part_slopes import PartSlopes
from verify.proofs.properties import Conjunction, Constraint, Terms
from verify.proofs.split_trees import SplitProof, Tree
from verify.version import __version__

_FORMAT, _KINDS = "adcert certificate", {1: "class", 2: "unreachable", 3: "unreachable", 4: "unreachable"}
_LARGEST, _MOST_AXES, _LARGEST_PROOF, _MOST_LEAVES = 2**28, 32, 2**29, 2**20
"""Elements and axes of the input, and bytes and leaves of a proof; more are refused before anything is done about
them."""

_SPLITS, _INPUT_SPLITS = "split-trees", "input-splits"

Proof = str | SplitProof | InputSplits
"""The name of the bounds that prove a statement from model and box, or what else it takes to prove it."""
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
        "format_version": _version(certificate.claim, certificate.proof),
        "verifier": __version__,
        "contract": certificate.contract,
        "model": {"sha256": certificate.model_sha256, "file": certificate.model_file},
        "property": _property_json(certificate.claim),
        "box": {
            "shape": list(certificate.lower.shape),
            "lower": _packed(certificate.lower.astype("<f4")),
            "upper": _packed(certificate.upper.astype("<f4")),
        },
        "proof": _proof_fields(certificate.proof),
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
        if fields["format"] != _FORMAT or type(version) is not int or version not in _KINDS:
            raise Rejected(f"it is not a certificate of format version 1 to {max(_KINDS)}")
        if fields["property"]["kind"] != _KINDS[version]:
            raise Rejected("its property is of an unknown kind")
        shape = tuple(fields["box"]["shape"])
        possible = len(shape) <= _MOST_AXES and all(type(size) is int and 0 < size <= _LARGEST for size in shape)
        if not possible or math.prod(shape) > _LARGEST:
            raise Rejected("the shape of its box is malformed")
        claim = _class(fields["property"]) if version == 1 else _unreachable(fields["property"])
        texts = fields["model"]["sha256"], fields["model"]["file"], fields["contract"]
        if not all(isinstance(text, str) for text in texts):
            raise Rejected("it is malformed")
        lower, upper = (
            _unpacked(fields["box"][end], "<f4", math.prod(shape)).reshape(shape) for end in ("lower", "upper")
        )
        proof = _proof(fields["proof"])
        if version != _version(claim, proof):
            raise Rejected("its proof is not of its format version")
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


def _proof_fields(proof: Proof) -> dict[str, Any]:
    if isinstance(proof, str):
        return {"kind": proof}
    if isinstance(proof, InputSplits):
        fields: dict[str, Any] = {
            "kind": _INPUT_SPLITS,
            "way": proof.way,
            "leaves": len(proof.cuts) + 1,
            "nodes": _packed(proof.nodes.astype("<i4")),
            "cuts": _packed(proof.cuts.astype("<f4")),
        }
        if proof.weights is not None:
            fields |= {"constraints": proof.weights.shape[1], "weights": _packed(proof.weights)}
        if proof.slopes is not None:
            fields["chosen"] = _part_slopes_fields(proof.slopes)
        return fields
    trees = [_tree_fields(tree) for tree in proof.trees]
    refinements = [
        {
            "count": len(refinement.neurons),
            "width": refinement.slopes.shape[2],
            "neurons": _packed(refinement.neurons.astype("<i4")),
            "slopes": _packed(refinement.slopes),
        }
        for refinement in proof.refinements
    ]
    neurons = {"count": len(proof.neurons), "bits": _packed(np.packbits(proof.neurons))}
    fields = {"kind": _SPLITS, "neurons": neurons, "refinements": refinements, "trees": trees}
    if proof.parts is not None:
        fields["parts"] = {"leaves": len(proof.parts) // 2 + 1, "nodes": _packed(proof.parts.astype("<i4"))}
        if proof.part_slopes is not None:
            fields["parts"]["chosen"] = _part_slopes_fields(proof.part_slopes)
    return fields


def _tree_fields(tree: Tree) -> dict[str, Any]:
    fields = {
        "functional": tree.functional,
        "leaves": len(tree.slopes),
        "splits": len(tree.multipliers),
        "nodes": _packed(tree.nodes.astype("<i4")),
        "slopes": _packed(tree.slopes),
        "multipliers": _packed(tree.multipliers.astype("<f4")),
    }
    if tree.points is not None:
        fields |= {"smooth": len(tree.points), "points": _packed(tree.points.astype("<f4"))}
    if tree.fractions is not None:
        fields |= {"weights": tree.fractions.shape[1], "fractions": _packed(tree.fractions)}
    if tree.assumptions:
        fields["assumptions"] = [
            {"leaf": each.leaf, "depth": each.depth, "count": len(each.neurons)}
            | {name: _packed(array.astype(array.dtype.newbyteorder("<"))) for name, array in each.arrays.items()}
            for each in tree.assumptions
        ]
    return fields


def _proof(fields: dict[str, Any]) -> Proof:
    kind = fields["kind"]
    if not isinstance(kind, str):
        raise Rejected("it is malformed")
    if kind == _INPUT_SPLITS:
        return _input_splits(fields)
    return _split_proof(fields) if kind == _SPLITS else kind


def _input_splits(fields: dict[str, Any]) -> InputSplits:
    leaves, way = fields["leaves"], fields["way"]
    if type(leaves) is not int or not 1 <= leaves <= _MOST_LEAVES or not isinstance(way, str):
        raise Rejected("a size in its proof is malformed")
    nodes = _unpacked(fields["nodes"], "<i4", 2 * leaves - 1).astype(np.int32)
    cuts = _unpacked(fields["cuts"], "<f4", leaves - 1).astype(np.float32)
    weights = None
    if "weights" in fields:
        count = fields["constraints"]
        if type(count) is not int or not 1 <= count <= _LARGEST_PROOF // leaves:
            raise Rejected("a size in its proof is malformed")
        weights = _unpacked(fields["weights"], "u1", leaves * count).reshape(leaves, count)
    slopes = _part_slopes(fields["chosen"]) if "chosen" in fields else None
    return InputSplits(nodes, cuts, way, weights, slopes)


def _part_slopes_fields(chosen: PartSlopes) -> dict[str, Any]:
    return {
        "pairs": len(chosen.part),
        "neurons": chosen.slopes.shape[1],
        "splits": chosen.multipliers.shape[1],
        "parts": _packed(chosen.part.astype("<i4")),
        "functionals": _packed(chosen.functional.astype("<i4")),
        "slopes": _packed(chosen.slopes),
        "multipliers": _packed(chosen.multipliers.astype("<f4")),
    }


def _part_slopes(fields: dict[str, Any]) -> PartSlopes:
    sizes = pairs, neurons, splits = [fields[name] for name in ("pairs", "neurons", "splits")]
    if not all(type(size) is int and 0 <= size <= _LARGEST for size in sizes):
        raise Rejected("a size in its proof is malformed")
    _require_size(pairs * (8 + neurons + 4 * splits), 0)
    return PartSlopes(
        _unpacked(fields["parts"], "<i4", pairs).astype(np.int32),
        _unpacked(fields["functionals"], "<i4", pairs).astype(np.int32),
        _unpacked(fields["slopes"], "u1", pairs * neurons).reshape(pairs, neurons),
        _unpacked(fields["multipliers"], "<f4", pairs * splits).astype(np.float32).reshape(pairs, splits),
    )


def _version(claim: Class | Unreachable, proof: Proof) -> int:
    """The first format version that has room for it."""
    if isinstance(claim, Class):
        return 1
    if not isinstance(proof, InputSplits):
        return 2
    return 4 if proof.slopes is not None else 3 if proof.weights is not None else 2


def _split_proof(fields: dict[str, Any]) -> SplitProof:
    count, refinements, trees = fields["neurons"]["count"], fields["refinements"], fields["trees"]
    sizes = [count, *(tree[name] for tree in trees for name in ("functional", "leaves", "splits"))]
    sizes += [each[name] for each in refinements for name in ("count", "width")]
    sizes += [tree[name] for tree in trees for name in ("weights", "smooth") if name in tree]
    assumptions = [each for tree in trees for each in tree.get("assumptions", ())]
    sizes += [each[name] for each in assumptions for name in ("leaf", "depth", "count")]
    parts = fields.get("parts", {"leaves": 0})
    sizes.append(parts["leaves"])
    if not all(type(size) is int and 0 <= size <= _LARGEST for size in sizes):
        raise Rejected("a size in its proof is malformed")
    bits = np.unpackbits(_unpacked(fields["neurons"]["bits"], "u1", (count + 7) // 8), count=count)
    width = int(bits.sum())
    size = sum(tree["leaves"] * (width + 8 + tree.get("weights", 0)) + 4 * tree["splits"] for tree in trees)
    size += 4 * sum(tree.get("smooth", 0) for tree in trees)
    size += sum(each["count"] * (4 + 2 * each["width"]) for each in refinements)
    size += sum(each["count"] * (12 + 2 * width + 8 * each["depth"]) for each in assumptions)
    _require_size(size, sum(tree["leaves"] for tree in [*trees, parts]))
    return SplitProof(
        bits.astype(bool),
        tuple(
            Refinement(
                _unpacked(each["neurons"], "<i4", each["count"]).astype(np.int32),
                _unpacked(each["slopes"], "u1", 2 * each["count"] * each["width"]).reshape(
                    2, each["count"], each["width"]
                ),
            )
            for each in refinements
        ),
        tuple(
            Tree(
                tree["functional"],
                _nodes(tree),
                _unpacked(tree["slopes"], "u1", tree["leaves"] * width).reshape(tree["leaves"], width),
                _unpacked(tree["multipliers"], "<f4", tree["splits"]).astype(np.float32),
                _fractions(tree) if "weights" in tree else None,
                tuple(_assumption(each, width) for each in tree.get("assumptions", ())),
                _unpacked(tree["points"], "<f4", tree["smooth"]).astype(np.float32) if "smooth" in tree else None,
            )
            for tree in trees
        ),
        _nodes(parts) if "parts" in fields else None,
        _part_slopes(parts["chosen"]) if "chosen" in parts else None,
    )


def require_size(proof: Proof) -> None:
    """Raise Rejected for a proof that could be written, but not be read again."""
    if isinstance(proof, SplitProof):
        arrays: list[NDArray[Any] | None] = []
        arrays += [
            each for tree in proof.trees for each in (tree.slopes, tree.multipliers, tree.fractions, tree.points)
        ]
        arrays += [each for tree in proof.trees for found in tree.assumptions for each in found.arrays.values()]
        arrays += [each for refinement in proof.refinements for each in (refinement.neurons, refinement.slopes)]
        arrays += proof.part_slopes or ()
        size = sum(array.nbytes for array in arrays if array is not None)
        _require_size(size + 8 * sum(len(tree.slopes) for tree in proof.trees), proof.leaves)
    elif isinstance(proof, InputSplits):
        arrays = [proof.weights, *(proof.slopes or ())]
        _require_size(sum(array.nbytes for array in arrays if array is not None), len(proof.cuts) + 1)


def _require_size(size: int, leaves: int) -> None:
    if size > _LARGEST_PROOF or leaves > _MOST_LEAVES:
        raise Rejected("its proof is too large")


def _fractions(tree: dict[str, Any]) -> NDArray[np.uint8]:
    leaves, weights = tree["leaves"], tree["weights"]
    return _unpacked(tree["fractions"], "u1", leaves * weights).reshape(leaves, weights)


def _assumption(fields: dict[str, Any], width: int) -> Assumption:
    count, depth = fields["count"], fields["depth"]
    return Assumption(
        fields["leaf"],
        depth,
        _unpacked(fields["neurons"], "<i4", count).astype(np.int32),
        _unpacked(fields["weights"], "<f4", 2 * count).astype(np.float32).reshape(2, count),
        _unpacked(fields["slopes"], "u1", 2 * count * width).reshape(2, count, width),
        _unpacked(fields["multipliers"], "<f4", 2 * count * depth).astype(np.float32).reshape(2, count, depth),
    )


def _nodes(fields: dict[str, Any]) -> NDArray[np.int32]:
    """Of a tree with so many leaves."""
    return _unpacked(fields["nodes"], "<i4", max(0, 2 * fields["leaves"] - 1)).astype(np.int32)


def _packed(values: NDArray[Any]) -> str:
    return base64.b64encode(zlib.compress(values.tobytes(), 9)).decode()


def _unpacked(text: Any, kind: str, count: int) -> NDArray[Any]:
    """An array of so many elements; never inflates more than it should hold."""
    size = np.dtype(kind).itemsize * count
    inflater = zlib.decompressobj()
    content = inflater.decompress(base64.b64decode(text, validate=True), size + 1)
    if len(content) != size or not inflater.eof:
        raise Rejected("an array in it does not have the size that it names")
    return np.frombuffer(content, kind).astype(kind[-2:])
