"""A certificate that is accepted is a proof, whatever was done to its bytes or to the model's."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.mutated_certificates import restated, with_another_byte
from support.onnx_models import ALL, DISABLED, model, network_of, node, run
from verify.boxes import box_around
from verify.check import check, model_of
from verify.errors import Problem, Rejected
from verify.model.network import Network
from verify.proofs.certificate import Certificate, Class, decode, encode, read

SIDE = 3
RNG = np.random.default_rng(5)
CONSTANTS = {
    "k": RNG.normal(size=(4, 1, 2, 2)).astype(np.float32),
    "w": RNG.normal(size=(16, 3)).astype(np.float32),
    "b": RNG.normal(size=3).astype(np.float32),
}
NODES = [
    node("Conv", ["x", "k"], "c"),
    node("Relu", ["c"], "r"),
    node("Flatten", ["r"], "f"),
    node("Gemm", ["f", "w", "b"], "y"),
]
CONTENT = model(NODES, ["n", 1, SIDE, SIDE], CONSTANTS)


@pytest.fixture(scope="module")
def network() -> Network:
    return network_of(CONTENT)


@pytest.fixture(scope="module")
def certificate(network: Network) -> Certificate:
    return tight_certificate(network)


def tight_certificate(network: Network) -> Certificate:
    """Valid, with little to spare: the largest of some radii that can be certified."""
    image = np.random.default_rng(1).random((1, 1, 1, SIDE, SIDE)).astype(np.float32)
    label = int(run(CONTENT, image[0])[0].argmax())
    for thousandths in range(200, 0, -1):
        box = box_around(image, Fraction(thousandths, 1000), (0.0, 1.0))
        lower, upper = (end[0].astype(np.float32) for end in box)
        found = Certificate(network.sha256, "model.onnx", "float32-any-order", Class(label), lower, upper, "ibp")
        try:
            check(found, network)
        except Rejected:
            continue
        return found
    raise AssertionError("nothing can be certified")


def accepted(content: bytes, network: Network) -> Certificate | None:
    """The certificate in `content` if it is valid; a problem other than a rejection fails the test."""
    try:
        found = decode(content)
        check(found, network)
    except Rejected:
        return None
    return found


def assert_true(found: Certificate, rng: np.random.Generator) -> None:
    """What the certificate says holds at sampled points and corners, as onnxruntime executes the model."""
    share = rng.random((40, *found.lower.shape[1:]))
    share[20:] = np.round(share[20:])
    points = found.lower + share * (found.upper.astype(np.float64) - found.lower)
    points = np.clip(points.astype(np.float32), found.lower, found.upper)
    if found.contract == "float32-any-order":
        for level in (DISABLED, ALL):
            (logits,) = run(CONTENT, points, level=level)
            assert isinstance(found.claim, Class)
            others = np.delete(logits, found.claim.label, axis=1)
            assert (logits[:, found.claim.label, np.newaxis] > others).all()


def test_a_certificate_survives_writing_and_reading(certificate: Certificate, network: Network) -> None:
    again = decode(encode(certificate))
    assert encode(again) == encode(certificate)
    check(again, network)


def test_one_changed_byte_or_number_is_rejected_or_still_a_proof(certificate: Certificate, network: Network) -> None:
    content = encode(certificate)
    rng = np.random.default_rng(0)
    survivors = 0
    for number in range(500):
        changed = encode(restated(certificate, rng)) if number % 2 else with_another_byte(content, rng)
        if (found := accepted(changed, network)) is not None:
            survivors += 1
            assert_true(found, rng)
    assert survivors < 250  # white space, the verifier's version, the file's name, smaller boxes


STRUCTURAL: dict[str, Any] = {
    "other label": {"property": {"kind": "class", "label": 1}},
    "label out of range": {"property": {"kind": "class", "label": 3}},
    "negative label": {"property": {"kind": "class", "label": -1}},
    "label true": {"property": {"kind": "class", "label": True}},
    "label 0.0": {"property": {"kind": "class", "label": 0.0}},
    "other property": {"property": {"kind": "range", "label": 0}},
    "other contract": {"contract": "bfloat16"},
    "other proof": {"proof": {"kind": "trust me"}},
    "no proof": {"proof": {}},
    "other format": {"format": "adcert result"},
    "newer version": {"format_version": 2},
    "version true": {"format_version": True},
    "a list": [],
    "other model": {"model": {"sha256": "0" * 64, "file": "model.onnx"}},
    "shape of a scalar": {"box": {"shape": []}},
    "huge shape": {"box": {"shape": [2**62]}},
    "negative shape": {"box": {"shape": [-1, 1, 3, 3]}},
    "empty box": {"box": {}},
}


@pytest.mark.parametrize("change", STRUCTURAL)
def test_structural_changes_are_rejected(change: str, certificate: Certificate, network: Network) -> None:
    fields = json.loads(encode(replace(certificate, claim=Class(0))))
    if isinstance(STRUCTURAL[change], dict):
        for key, value in STRUCTURAL[change].items():
            fields[key] = {**fields[key], **value} if change.endswith("shape") and key == "box" else value
    else:
        fields = STRUCTURAL[change]
    if certificate.claim == Class(1) and change == "other label":
        fields["property"]["label"] = 2
    assert accepted(json.dumps(fields).encode(), network) is None


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[" * 100_000, b"\xff", b"1e999", b'{"format": 1}'])
def test_what_is_no_certificate_is_rejected(content: bytes, network: Network) -> None:
    assert accepted(content, network) is None


@pytest.mark.parametrize("what", ["nan", "inf", "empty", "wider", "other shape"])
def test_boxes_that_prove_nothing_are_rejected(what: str, certificate: Certificate, network: Network) -> None:
    lower, upper = certificate.lower.copy(), certificate.upper.copy()
    if what == "nan":
        lower[0, 0, 0, 0] = np.nan
    elif what == "inf":
        upper[0, 0, 0, 0] = np.inf
    elif what == "empty":
        lower, upper = upper, lower
    elif what == "wider":
        lower, upper = lower - 1, upper + 1
    else:
        lower, upper = lower.reshape(1, 1, 9, 1), upper.reshape(1, 1, 9, 1)
    assert accepted(encode(replace(certificate, lower=lower, upper=upper)), network) is None


def test_one_changed_byte_of_the_model_is_rejected(certificate: Certificate) -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        position = int(rng.integers(len(CONTENT)))
        changed = CONTENT[:position] + bytes([CONTENT[position] ^ int(rng.integers(1, 256))]) + CONTENT[position + 1 :]
        with pytest.raises(Problem):
            check(certificate, network_of(changed))


def test_a_deflated_bomb_is_not_inflated(certificate: Certificate, network: Network) -> None:
    import base64
    import zlib

    fields = json.loads(encode(certificate))
    fields["box"]["lower"] = base64.b64encode(zlib.compress(bytes(2**26), 9)).decode()
    assert accepted(json.dumps(fields).encode(), network) is None


def test_the_model_is_found_beside_the_certificate(certificate: Certificate, tmp_path: Path) -> None:
    (tmp_path / "certificates").mkdir()
    path = tmp_path / "certificates" / "0.json"
    path.write_bytes(encode(certificate))
    with pytest.raises(Problem, match="--model"):
        model_of(read(path), path)
    (tmp_path / "model.onnx").write_bytes(CONTENT)
    assert model_of(read(path), path) == tmp_path / "model.onnx"


@pytest.mark.parametrize("shape", [[1] * 65, [10**400] * 50])
def test_a_box_of_an_impossible_shape_is_rejected(shape: list[int], certificate: Certificate) -> None:
    fields = json.loads(encode(certificate))
    fields["box"]["shape"] = shape
    with pytest.raises(Rejected, match="shape"):
        decode(json.dumps(fields).encode())


def test_a_name_that_no_file_can_have_is_not_found(certificate: Certificate, tmp_path: Path) -> None:
    with pytest.raises(Problem, match="neither beside"):
        model_of(replace(certificate, model_file="a" * 5000), tmp_path / "certificate.json")


def test_what_underflows_in_the_verifier_is_not_proved() -> None:
    """Coefficients of a chain of tiny weights are subnormal in float64, and their errors as large as they are."""
    weights = [np.diag([-1.49 * 2.0**-31, 0.6]), *[np.diag([2.0**-149, 2.0**-139])] * 7, np.array([[1, 0], [1, 0]])]
    names = ["x", *(f"h{i}" for i in range(1, len(weights))), "y"]
    nodes = [node("MatMul", [names[i], f"w{i}"], names[i + 1]) for i in range(len(weights))]
    content = model(nodes, [1, 2], {f"w{i}": weight.astype(np.float32) for i, weight in enumerate(weights)})
    chain, corner = network_of(content), np.array([[2.0**100, 1.0]], np.float32)
    for way in ("ibp", "crown-ibp", "crown"):
        with pytest.raises(Rejected):  # the exact margin is negative
            check(Certificate(chain.sha256, "", "real", Class(0), corner, corner, way), chain)
