"""Certificates with trees of splits: those that are accepted are proofs, whatever was done to their bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from support.onnx_models import ALL, DISABLED
from support.relu_networks import ReluNetwork, class_certificate
from support.stored_arrays import stored
from verify.bounds.crown import margin_functionals
from verify.boxes import box_around
from verify.check import check
from verify.core.rounding import FLOAT32_ANY_ORDER
from verify.errors import Rejected
from verify.model.network import Network
from verify.proofs.certificate import Certificate, Class, decode, encode
from verify.proofs.paths import LEAF
from verify.proofs.split_trees import SplitProof
from verify.search.branch_and_bound import search
from verify.search.opening import Opening

MADE = ReluNetwork.random(np.random.default_rng(11), [3, 8, 8, 3], 2.0)


@pytest.fixture(scope="module")
def network() -> Network:
    return MADE.network()


@pytest.fixture(scope="module")
def certificate(network: Network) -> Certificate:
    return branching_certificate(network)


def branching_certificate(network: Network) -> Certificate:
    """Valid, with splits and with refined bounds of neurons."""
    torch.set_num_threads(1)
    centre = np.random.default_rng(3).random((1, 1, 3)).astype(np.float32)
    box = box_around(centre, Fraction(4, 5), None)
    label = int(MADE.run(centre[0], ALL)[0].argmax())
    functionals, constants = margin_functionals(network, np.array([label]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Opening, "_divide", lambda *_: None)  # which needs no trees
        (outcome,) = search(network, box, functionals, constants, FLOAT32_ANY_ORDER, branch=True, seconds=60)
    assert outcome.proof
    assert outcome.branched
    assert outcome.proof.refinements
    return class_certificate(network, label, box, outcome.proof)


def splits(certificate: Certificate) -> SplitProof:
    assert isinstance(certificate.proof, SplitProof)
    return certificate.proof


def reason(content: bytes, network: Network) -> str | None:
    """Why the certificate in `content` is rejected; a problem other than a rejection fails the test."""
    try:
        found = decode(content)
        check(found, network)
    except Rejected as rejected:
        return str(rejected)
    assert_true(found)
    return None


def assert_true(found: Certificate) -> None:
    """What the certificate says holds at sampled points and corners, as onnxruntime executes the model."""
    share = np.random.default_rng(0).random((60, *found.lower.shape[1:]))
    share[30:] = np.round(share[30:])
    points = found.lower + share * (found.upper.astype(np.float64) - found.lower)
    points = np.clip(points.astype(np.float32), found.lower, found.upper)
    for level in (DISABLED, ALL):
        logits, _ = MADE.run(points, level)
        assert isinstance(found.claim, Class)
        assert (logits[:, found.claim.label, np.newaxis] > np.delete(logits, found.claim.label, axis=1)).all()


def test_it_survives_writing_and_reading(certificate: Certificate, network: Network) -> None:
    again = decode(encode(certificate))
    assert encode(again) == encode(certificate)
    check(again, network)


def test_one_changed_byte_is_rejected_or_still_a_proof(certificate: Certificate, network: Network) -> None:
    content = encode(certificate)
    rng = np.random.default_rng(0)
    start = content.index(b'"proof"')
    accepted = 0
    for _ in range(500):
        position, value = int(rng.integers(start, len(content))), int(rng.integers(256))
        accepted += reason(content[:position] + bytes([value]) + content[position + 1 :], network) is None
    assert accepted < 500  # white space


def mutated(certificate: Certificate, rng: np.random.Generator) -> Certificate:
    """With one number of its proof changed: behind the compression, which would detect most changes of single bytes."""
    proof = splits(certificate)
    trees, refinements = list(proof.trees), list(proof.refinements)
    tree, refinement = int(rng.integers(len(trees))), int(rng.integers(len(refinements)))
    kind = str(rng.choice(["nodes", "slopes", "multipliers", "functional", "refinements"]))
    values = np.array(refinements[refinement].slopes if kind == "refinements" else getattr(trees[tree], kind))
    if kind != "functional" and values.size:
        changed = rng.choice([-1, 0, 1, 5]) if kind == "nodes" else rng.integers(256)
        values.reshape(-1)[rng.integers(values.size)] = changed
    if kind == "refinements":
        refinements[refinement] = replace(refinements[refinement], slopes=values)
    elif kind == "functional":
        trees[tree] = replace(trees[tree], functional=int(rng.integers(3)))
    else:
        trees[tree] = replace(trees[tree], **{kind: values})
    return replace(certificate, proof=replace(proof, trees=tuple(trees), refinements=tuple(refinements)))


def test_changed_slopes_multipliers_and_splits_are_rejected_or_still_a_proof(
    certificate: Certificate, network: Network
) -> None:
    rng = np.random.default_rng(0)
    assert {reason(encode(mutated(certificate, rng)), network) is None for _ in range(150)} == {False, True}


def leaves_of(tree: dict[str, Any]) -> int:
    """How many leaves the tree has."""
    return int(tree["slopes"]["shape"][0])


def all_of(array: dict[str, Any], value: float, kind: str) -> dict[str, Any]:
    """One of that shape, all of whose elements are the same."""
    return stored(np.full(array["shape"], value, kind))


HOSTILE: dict[str, Any] = {
    "no trees": lambda proof, tree: proof.update(trees=[]),
    "trees are a number": lambda proof, tree: proof.update(trees=3),
    "no neurons": lambda proof, tree: proof.pop("neurons", None),
    "neurons of another network": lambda proof, tree: proof.update(neurons=stored(np.ones(9, np.uint8))),
    "neurons that are neither": lambda proof, tree: proof.update(neurons=all_of(proof["neurons"], 2, "u1")),
    "more neurons than fit": lambda proof, tree: proof["neurons"].update(shape=[2**40]),
    "a negative number of neurons": lambda proof, tree: proof["neurons"].update(shape=[-1]),
    "a leaf too many": lambda proof, tree: tree.update(nodes=stored(np.full(2 * leaves_of(tree) + 1, LEAF, "<i4"))),
    "no leaves": lambda proof, tree: tree.update(
        nodes=stored(np.zeros(0, "<i4")),
        slopes=stored(np.zeros((0, tree["slopes"]["shape"][1]), np.uint8)),
        multipliers=stored(np.zeros(0, "<f4")),
    ),
    "another shape": lambda proof, tree: tree["slopes"].update(shape=tree["slopes"]["shape"][::-1]),
    "more axes": lambda proof, tree: tree["slopes"].update(shape=[1, *tree["slopes"]["shape"]]),
    "no shape": lambda proof, tree: tree["slopes"].pop("shape", None),
    "huge": lambda proof, tree: tree["slopes"].update(shape=[2**27, 16]),
    "larger than memory": lambda proof, tree: tree["slopes"].update(shape=[2**60, 16]),
    "leaves as a float": lambda proof, tree: tree["slopes"].update(shape=[1e3, 16]),
    "leaves as a truth value": lambda proof, tree: tree["slopes"].update(shape=[True, 16]),
    "too few splits": lambda proof, tree: tree.update(multipliers=stored(np.zeros(0, "<f4"))),
    "only splits": lambda proof, tree: tree.update(nodes=all_of(tree["nodes"], 0, "<i4")),
    "only leaves": lambda proof, tree: tree.update(nodes=all_of(tree["nodes"], LEAF, "<i4")),
    "a neuron that does not exist": lambda proof, tree: tree.update(
        nodes=stored(np.array([16] + [LEAF] * (2 * leaves_of(tree) - 2), "<i4"))
    ),
    "multipliers that are no numbers": lambda proof, tree: tree.update(
        multipliers=all_of(tree["multipliers"], np.nan, "<f4")
    ),
    "infinite multipliers": lambda proof, tree: tree.update(multipliers=all_of(tree["multipliers"], np.inf, "<f4")),
    "a functional that does not exist": lambda proof, tree: tree.update(functional=3),
    "a functional that is none": lambda proof, tree: tree.update(functional="first"),
    "a bomb": lambda proof, tree: tree["slopes"].update(data=stored(np.zeros(2**26, np.uint8))["data"]),
    "no refinements": lambda proof, tree: proof.pop("refinements", None),
    "refinements of neurons that do not exist": lambda proof, tree: proof["refinements"][0].update(
        neurons=all_of(proof["refinements"][0]["neurons"], 99, "<i4")
    ),
    "refinements of neurons of all ReLUs": lambda proof, tree: proof["refinements"][0].update(
        neurons=stored(np.arange(16, dtype="<i4")), slopes=stored(np.zeros((2, 16, 0), np.uint8))
    ),
    "refinements of the same neuron": lambda proof, tree: proof["refinements"][0].update(
        neurons=all_of(proof["refinements"][0]["neurons"], 8, "<i4")
    ),
    "the same trees again": lambda proof, tree: proof.update(trees=[tree, tree]),
    "refinements without slopes": lambda proof, tree: proof["refinements"][0].update(
        slopes=stored(np.zeros((2, *proof["refinements"][0]["neurons"]["shape"], 0), np.uint8))
    ),
    "slopes for fewer neurons than are refined": lambda proof, tree: proof["refinements"][0].update(
        slopes=stored(np.zeros((2, 0, 3), np.uint8))
    ),
    "refinements larger than memory": lambda proof, tree: proof["refinements"][0]["slopes"].update(
        shape=[2, 2**20, 2**20]
    ),
    "no base64": lambda proof, tree: tree["slopes"].update(data="ä"),
    "a list for an array": lambda proof, tree: tree.update(slopes=[1, 2]),
    "a list for its elements": lambda proof, tree: tree["slopes"].update(data=[1, 2]),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_proof_is_rejected_in_a_sentence(what: str, certificate: Certificate, network: Network) -> None:
    fields = json.loads(encode(certificate))
    for tree in fields["proof"]["trees"]:
        HOSTILE[what](fields["proof"], tree)
    assert reason(json.dumps(fields).encode(), network)


def test_a_tree_of_quadratically_long_paths_is_not_walked(certificate: Certificate, network: Network) -> None:
    """Every first half is split again: the paths to all leaves together would not fit into memory."""
    fields = json.loads(encode(certificate))
    leaves = 200_000
    width = int(splits(certificate).neurons.sum())
    fields["proof"]["trees"] = [
        {
            "functional": functional,
            "nodes": stored(np.array([0] * (leaves - 1) + [LEAF] * leaves, "<i4")),
            "slopes": stored(np.zeros((leaves, width), np.uint8)),
            "multipliers": stored(np.zeros(2 * leaves, "<f4")),
            "assumptions": [],
        }
        for functional in range(3)
    ]
    assert reason(json.dumps(fields).encode(), network)
