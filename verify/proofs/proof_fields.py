"""What a certificate holds of a proof: arrays (`verify.proofs.arrays`), and a few names and numbers, all by the names
that the attributes of `SplitProof` and `InputSplits` have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from verify.bounds.refinements import Refinement
from verify.errors import Rejected
from verify.proofs.arrays import Table, Unpacking, arrays_of, fields_of, is_size, require_bytes
from verify.proofs.assumptions import Assumption
from verify.proofs.input_splits import InputSplits
from verify.proofs.part_slopes import PartSlopes
from verify.proofs.split_trees import SplitProof, Tree

Proof = str | SplitProof | InputSplits
"""The name of the bounds that prove a statement from model and box, or what else it takes to prove it."""

_SPLIT_TREES, _INPUT_SPLITS = "split-trees", "input-splits"
_MOST_LEAVES = 2**20

_ARRAYS: dict[type, Table] = {
    InputSplits: {"nodes": ("<i4", 1), "cuts": ("<f4", 1), "weights": ("u1", 2)},
    SplitProof: {"neurons": ("u1", 1), "parts": ("<i4", 1)},
    Tree: {
        "nodes": ("<i4", 1),
        "slopes": ("u1", 2),
        "multipliers": ("<f4", 1),
        "fractions": ("u1", 2),
        "points": ("<f4", 1),
    },
    Assumption: {"neurons": ("<i4", 1), "weights": ("<f4", 2), "slopes": ("u1", 3), "multipliers": ("<f4", 3)},
    Refinement: {"neurons": ("<i4", 1), "slopes": ("u1", 3)},
    PartSlopes: {"part": ("<i4", 1), "functional": ("<i4", 1), "slopes": ("u1", 2), "multipliers": ("<f4", 2)},
}


def fields_of_proof(proof: Proof) -> dict[str, Any]:
    """For JSON."""
    if isinstance(proof, str):
        return {"kind": proof}
    fields = _fields(proof)
    if proof.part_slopes is not None:
        fields["part_slopes"] = _fields(proof.part_slopes)
    if isinstance(proof, InputSplits):
        return {"kind": _INPUT_SPLITS, "way": proof.way, **fields}
    trees = [
        {"functional": tree.functional, **_fields(tree)}
        | {"assumptions": [{"leaf": each.leaf, "depth": each.depth, **_fields(each)} for each in tree.assumptions]}
        for tree in proof.trees
    ]
    return {"kind": _SPLIT_TREES, **fields, "refinements": list(map(_fields, proof.refinements)), "trees": trees}


def _fields(described: object) -> dict[str, Any]:
    return fields_of(described, _ARRAYS[type(described)])


def proof_of(fields: dict[str, Any]) -> Proof:
    """The proof whose fields these are; raises Rejected where arrays of it do not fit each other, and KeyError,
    TypeError or ValueError for what are no fields of a proof."""
    kind = fields["kind"]
    if not isinstance(kind, str):
        raise Rejected("it is malformed")
    if kind not in (_SPLIT_TREES, _INPUT_SPLITS):
        return kind
    unpacking = Unpacking()
    proof = _input_splits(fields, unpacking) if kind == _INPUT_SPLITS else _split_proof(fields, unpacking)
    require_size(proof)
    return proof


def _input_splits(fields: dict[str, Any], unpacking: Unpacking) -> InputSplits:
    if not isinstance(fields["way"], str):
        raise Rejected("it is malformed")
    arrays = unpacking.arrays(fields, _ARRAYS[InputSplits])
    proof = InputSplits(way=fields["way"], part_slopes=_part_slopes(fields, unpacking), **arrays)
    leaves = len(proof.cuts) + 1
    _require_fit(len(proof.nodes) == 2 * leaves - 1 and (proof.weights is None or len(proof.weights) == leaves))
    return proof


def _split_proof(fields: dict[str, Any], unpacking: Unpacking) -> SplitProof:
    arrays = unpacking.arrays(fields, _ARRAYS[SplitProof])
    _require_fit((arrays["neurons"] <= 1).all())
    neurons = arrays.pop("neurons").astype(np.bool_)
    width = int(neurons.sum())
    refinements = tuple(Refinement(**unpacking.arrays(each, _ARRAYS[Refinement])) for each in fields["refinements"])
    _require_fit(all(each.slopes.shape[:2] == (2, len(each.neurons)) for each in refinements))
    trees = tuple(_tree(each, unpacking, width) for each in fields["trees"])
    proof = SplitProof(neurons, refinements, trees, part_slopes=_part_slopes(fields, unpacking), **arrays)
    _require_fit(proof.parts is None or len(proof.parts) % 2 == 1)
    _require_fit(proof.part_slopes is None or proof.parts is not None)
    return proof


def _tree(fields: dict[str, Any], unpacking: Unpacking, width: int) -> Tree:
    """width: how many neurons have a slope."""
    _require_sizes(fields["functional"])
    assumptions = tuple(_assumption(each, unpacking, width) for each in fields["assumptions"])
    arrays = unpacking.arrays(fields, _ARRAYS[Tree])
    tree = Tree(fields["functional"], assumptions=assumptions, **arrays)
    leaves = len(tree.slopes)
    _require_fit(len(tree.nodes) == 2 * leaves - 1 and tree.slopes.shape[1] == width)
    _require_fit(tree.fractions is None or len(tree.fractions) == leaves)
    return tree


def _assumption(fields: dict[str, Any], unpacking: Unpacking, width: int) -> Assumption:
    _require_sizes(fields["leaf"], fields["depth"])
    assumption = Assumption(fields["leaf"], fields["depth"], **unpacking.arrays(fields, _ARRAYS[Assumption]))
    each = 2, len(assumption.neurons)
    _require_fit(assumption.weights.shape == each and assumption.slopes.shape == (*each, width))
    _require_fit(assumption.multipliers.shape == (*each, assumption.depth))
    return assumption


def _part_slopes(fields: dict[str, Any], unpacking: Unpacking) -> PartSlopes | None:
    if "part_slopes" not in fields:
        return None
    found = PartSlopes(**unpacking.arrays(fields["part_slopes"], _ARRAYS[PartSlopes]))
    _require_fit(len({len(array) for array in found}) == 1)
    return found


def _require_fit(fits: bool | np.bool_) -> None:
    if not fits:
        raise Rejected("an array in it does not have the size that others ask for")


def _require_sizes(*values: Any) -> None:
    if not all(map(is_size, values)):
        raise Rejected("a size in its proof is malformed")


def require_size(proof: Proof) -> None:
    """Raise Rejected for a proof that could be written, but not be read again."""
    if isinstance(proof, str):
        return
    arrays = [array for each in _described(proof) for array in arrays_of(each, _ARRAYS[type(each)]).values()]
    require_bytes(sum(array.nbytes for array in arrays))
    if proof.leaves > _MOST_LEAVES:
        raise Rejected("its proof is too large")


def _described(proof: SplitProof | InputSplits) -> Iterator[object]:
    """All that has arrays."""
    yield proof
    if proof.part_slopes is not None:
        yield proof.part_slopes
    if isinstance(proof, SplitProof):
        yield from proof.refinements
        for tree in proof.trees:
            yield tree
            yield from tree.assumptions
