"""Whatever a model file holds, reading it ends in a network or in one sentence, soon and in little memory."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import pytest

from support.onnx_models import model, network_of, node
from support.quantised_networks import FORMS, random_quantised_network
from support.random_networks import random_network
from verify.errors import ModelProblem


def outcome(content: bytes) -> str:
    """The sentence with which a model is refused; empty if it is accepted."""
    try:
        network_of(content)
    except ModelProblem as problem:
        return str(problem)
    return ""


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, dropped or inserted, or the end cut off."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        position = int(rng.integers(len(changed)))
        kind, length = rng.integers(5), int(rng.integers(1, 20))
        if kind == 0:
            changed[position] = int(rng.integers(256))
        elif kind == 1:
            changed[position] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            del changed[position : position + length]
        elif kind == 3:
            changed[position:position] = rng.bytes(length)
        else:
            del changed[position + 1 :]
        changed = changed or bytearray(b"x")
    return bytes(changed)


KINDS = (random_network, *(partial(random_quantised_network, form=form) for form in FORMS))


@pytest.mark.parametrize("seed", range(24))
def test_mutated_files_end_in_a_network_or_a_sentence(seed: int) -> None:
    rng = np.random.default_rng(seed)
    content, _ = KINDS[seed % len(KINDS)](seed)
    sentences = [outcome(mutated(content, rng)) for _ in range(60)]
    assert all("\n" not in sentence for sentence in sentences)
    assert any(sentences)


INT64 = np.int64
HUGE = {
    "constant": ([node("ConstantOfShape", ["s"], "c"), node("Add", ["x", "c"], "y")], {"s": np.array([2**40])}),
    "negative constant": ([node("ConstantOfShape", ["s"], "c"), node("Add", ["x", "c"], "y")], {"s": np.array([-4])}),
    "expansion": ([node("Expand", ["x", "s"], "y")], {"s": np.array([2**20, 2**20, 1, 4])}),
    "padding": ([node("Pad", ["x", "p"], "y")], {"p": np.array([0, 2**40, 0, 0])}),
    "range": (
        [node("Range", ["a", "b", "d"], "i"), node("Gather", ["x", "i"], "y", axis=1)],
        {"a": np.array(0), "b": np.array(2**62), "d": np.array(1)},
    ),
    "product": (
        [node("Reshape", ["x", "s"], "c"), node("Expand", ["c", "t"], "e"), node("MatMul", ["e", "w"], "y")],
        {"s": np.array([4, 1]), "t": np.array([2**18, 4, 1]), "w": np.ones((1, 2**16), np.float32)},
    ),
    "doubling": (
        [node("Concat", [f"v{i}" if i else "x"] * 2, f"v{i + 1}", axis=1) for i in range(60)]
        + [node("Relu", ["v60"], "y")],
        {},
    ),
    "kernel": ([node("MaxPool", ["z"], "y", kernel_shape=[2**40])], {}),
}


@pytest.mark.parametrize("what", HUGE)
def test_what_would_fill_the_memory_is_refused(what: str) -> None:
    nodes, constants = HUGE[what]
    if what == "kernel":
        nodes = [node("Unsqueeze", ["x", "a"], "z"), *nodes]
        constants = {"a": np.array([0])}
    assert outcome(model(nodes, [1, 4], constants))


def test_a_huge_input_is_refused() -> None:
    assert "too large" in outcome(model([node("Relu", ["x"], "y")], [1, 2**40], {}))


def test_a_tensor_that_declares_more_than_it_holds_is_refused() -> None:
    proto = onnx.load_model_from_string(model([node("Add", ["x", "c"], "y")], [1, 4], {"c": np.ones(4, np.float32)}))
    proto.graph.initializer[0].dims[0] = 2**40
    assert outcome(bytes(proto.SerializeToString()))


def test_a_deep_network_is_no_problem() -> None:
    nodes = [node("Relu", [f"v{i}" if i else "x"], f"v{i + 1}") for i in range(5000)] + [node("Neg", ["v5000"], "y")]
    assert outcome(model(nodes, [1, 4], {})) == ""


def test_names_in_any_script_are_fine() -> None:
    nodes = [node("Relu", ["x"], "слой 一"), node("Neg", ["слой 一"], "y")]
    assert outcome(model(nodes, [1, 4], {})) == ""


@pytest.mark.parametrize("domain", ["", "com.example", "com.microsoft"])
def test_an_operator_whose_name_is_no_text_is_refused(domain: str) -> None:
    content = model([onnx.helper.make_node("Relu", ["x"], ["y"], domain=domain)], [1, 3], {})
    assert outcome(content.replace(b"\x04Relu", b"\x04Rel\xff"))
