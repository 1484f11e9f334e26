"""The reader of VNN-LIB files: every construct of both versions, exact numbers, hostile files."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from pathlib import Path
from random import Random

import numpy as np
import pytest

from verify.errors import ModelProblem
from verify.proofs.properties import Constraint, cases, holds
from verify.tasks.vnnlib import Property, VnnlibProblem, parse, read

F = Fraction


def declared(inputs: int, outputs: int) -> str:
    names = [f"X_{i}" for i in range(inputs)] + [f"Y_{i}" for i in range(outputs)]
    return "".join(f"(declare-const {name} Real)\n" for name in names)


def version_1(body: str, inputs: int = 2, outputs: int = 2) -> Property:
    return parse((declared(inputs, outputs) + body).encode())


def version_2(body: str, x: str = "X Real [1,2]", y: str = "Y Real [2]") -> Property:
    head = f"(vnnlib-version <2.0>)\n(declare-network f (declare-input {x}) (declare-output {y}))\n"
    return parse((head + body).encode())


def truth(property: Property, x: Sequence[Fraction | int], y: Sequence[Fraction | int]) -> bool:
    return holds(property.formula, list(map(Fraction, x)), list(map(Fraction, y)))


@pytest.mark.parametrize(
    ("assertion", "expected"),
    [
        ("(<= Y_0 Y_1)", lambda x, y: y[0] <= y[1]),
        ("(< Y_0 Y_1)", lambda x, y: y[0] < y[1]),
        ("(>= Y_0 Y_1)", lambda x, y: y[0] >= y[1]),
        ("(> Y_0 1.5)", lambda x, y: y[0] > F(3, 2)),
        ("(= Y_0 Y_1)", lambda x, y: y[0] == y[1]),
        ("(distinct Y_0 Y_1)", lambda x, y: y[0] != y[1]),
        ("(<= (+ (* 2.0 Y_0) (* -1.0 Y_1) 1) X_0)", lambda x, y: 2 * y[0] - y[1] + 1 <= x[0]),
        ("(>= (- Y_0) (- X_1 Y_1 1))", lambda x, y: -y[0] >= x[1] - y[1] - 1),
        ("(<= (- (- Y_0 1) (- 2)) (* 3 (+ Y_1 X_0) 2))", lambda x, y: y[0] - 1 + 2 <= 6 * (y[1] + x[0])),
        ("(<= Y_0 Y_0)", lambda x, y: True),
        ("(<= (+ Y_0 Y_0 Y_1 Y_0) X_0)", lambda x, y: 3 * y[0] + y[1] <= x[0]),
        ("(< (+ X_0 Y_0) (+ Y_0 X_0))", lambda x, y: False),
        ("(<= 1 2)", lambda x, y: True),
        ("(= (+ Y_0 X_0 X_1) (+ Y_1 1 X_1))", lambda x, y: y[0] + x[0] == y[1] + 1),
        ("(or (<= Y_0 0) (and (>= Y_0 1) (<= Y_1 X_0)))", lambda x, y: y[0] <= 0 or (y[0] >= 1 and y[1] <= x[0])),
        ("(and (or (<= X_0 0) (>= X_0 2)) (or (<= Y_0 0)))", lambda x, y: (x[0] <= 0 or x[0] >= 2) and y[0] <= 0),
        ("(or (or (<= X_0 0) (<= X_1 0)) (>= Y_0 2))", lambda x, y: x[0] <= 0 or x[1] <= 0 or y[0] >= 2),
    ],
)
def test_every_construct_means_what_it_says_in_both_versions(assertion: str, expected: object) -> None:
    first = version_1(f"(assert {assertion})")
    text = assertion.replace("X_0", "X[0,0]").replace("X_1", "X[0, 1]").replace("Y_0", "Y[0]").replace("Y_1", "Y[1]")
    second = version_2(f"(assert {text})")
    for x in product((-1, 0, 2), repeat=2):
        for y in product((-1, 0, 1, 2), repeat=2):
            assert truth(first, x, y) == truth(second, x, y) == expected(x, y)  # type: ignore[operator]


def test_assertions_are_a_conjunction_even_after_an_or() -> None:
    found = version_1("(assert (or (<= Y_0 0) (>= Y_0 2)))\n(assert (<= Y_1 0))\n(assert (or (<= X_0 0) (>= X_0 1)))")
    assert truth(found, (0, 0), (0, 0))
    assert not truth(found, (0, 0), (0, 1))
    assert not truth(found, (0, 0), (1, 0))
    assert not truth(found, (F(1, 2), 0), (0, 0))


def test_spacing_comments_and_functions_do_not_matter() -> None:
    text = "; a comment (assert\n(declare-fun X_0()Real)(declare-const Y_0 Real);)\n(assert(<=\n\tX_0 -1.50e-1)) ; end"
    found = parse(text.encode())
    assert found.formula == Constraint(((0, F(1)),), (), F(-3, 20), strict=False)
    assert (found.inputs, found.outputs) == (1, 1)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.1", F(1, 10)), ("-3", F(-3)), ("+.5", F(1, 2)), ("7.", F(7)), ("1e-3", F(1, 1000)), ("2.50E2", F(250))],
)
def test_numbers_are_exact(text: str, value: Fraction) -> None:
    assert version_1(f"(assert (<= Y_0 {text}))").formula == Constraint((), ((0, F(1)),), value, strict=False)


def test_tensors_are_numbered_in_c_order() -> None:
    found = version_2("(assert (<= T[1,0,2] T[0,1,0]))", x="T float32 [2,2,3]")
    assert found.formula == Constraint(((3, F(-1)), (8, F(1))), (), F(0), strict=False)
    assert (found.inputs, found.outputs) == (12, 2)
    assert found.tensors == ("T float32 [2,2,3]", "Y Real [2]")


def test_a_tensor_without_a_shape_takes_flat_indices() -> None:
    again = "(declare-fun X[0] () Real)(declare-const Y[0] Real)"
    found = version_2(f"{again}(assert (<= X[3] Y[0]))(assert (<= Y 1))", x='X Real [0] "onnx name"', y="Y Real []")
    assert (found.inputs, found.outputs) == (None, None)
    assert truth(found, (0, 0, 0, 1), (1,))


def test_compressed_files(tmp_path: Path) -> None:
    text = (declared(1, 1) + "(assert (<= X_0 1))").encode()
    (tmp_path / "a.vnnlib").write_bytes(text)
    (tmp_path / "b.vnnlib.gz").write_bytes(gzip.compress(text))
    assert read(tmp_path / "a.vnnlib") == read(tmp_path / "b.vnnlib.gz")
    (tmp_path / "c.vnnlib.gz").write_bytes(gzip.compress(text)[:-9])
    for name in ("c.vnnlib.gz", "absent.vnnlib"):
        with pytest.raises(VnnlibProblem):
            read(tmp_path / name)


BROKEN = {
    "empty": "",
    "comment only": "; nothing",
    "nothing asserted": "(declare-const X_0 Real)",
    "unclosed": "(assert (<= X_0 1)",
    "closed twice": "(assert (<= X_0 1)))",
    "outside": "hello",
    "not declared": "(assert (<= X_7 1))",
    "other name": "(declare-const Z_0 Real)",
    "declared twice": "(declare-const X_0 Real)(declare-const X_0 Real)",
    "integer": "(declare-const X_0 Int)",
    "product of variables": "(assert (<= (* X_0 Y_0) 1))",
    "square": "(assert (<= (* X_0 X_0) 1))",
    "function": "(assert (<= (sin X_0) 1))",
    "quantifier": "(assert (forall ((x Real)) (<= x 1)))",
    "negation": "(assert (not (<= X_0 1)))",
    "chain": "(assert (<= 0 X_0 1))",
    "no operand": "(assert (<= X_0))",
    "empty or": "(assert (or))",
    "number as formula": "(assert (or 1 (<= X_0 1)))",
    "formula as number": "(assert (<= (<= X_0 1) 1))",
    "variable as formula": "(assert X_0)",
    "two formulas": "(assert (<= X_0 1) (<= X_0 1))",
    "no number": "(assert (<= X_0 1.2.3))",
    "hexadecimal": "(assert (<= X_0 0x10))",
    "infinity": "(assert (<= X_0 +inf))",
    "nan": "(assert (<= X_0 nan))",
    "huge exponent": "(assert (<= X_0 1e999999999))",
    "huge number": f"(assert (<= X_0 {'9' * 5000}))",
    "growing number": "(assert (<= X_0 " + "(* 1e900 " * 50 + "1" + ")" * 50 + "))",
    "command": "(get-model)",
    "version": "(vnnlib-version <3.0>)",
    "list as command": "((assert))",
    "empty command": "()",
    "bracket": "(assert (<= X_0 [1]))",
    "open bracket": "(assert (<= X_0[ 1))",
    "quote": '(assert (<= X_0 "1"))',
    "open quote": '(assert (<= X_0 "1))',
    "alternation": "(assert " + "(or (<= X_0 1) (and (<= X_0 1) " * 80 + "(<= X_0 1)" + "))" * 80 + ")",
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_not_supported_is_said_in_a_sentence(what: str) -> None:
    head = "" if "declare" in BROKEN[what] or what == "empty" else declared(1, 1)
    with pytest.raises(VnnlibProblem) as caught:
        parse((head + BROKEN[what]).encode())
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "network",
    [
        "(declare-network f)",
        "(declare-network)",
        "(declare-network f (declare-input X Real [1]))",
        "(declare-network f (declare-input X Real [1])(declare-input Z Real [1])(declare-output Y Real [1]))",
        '(declare-network f (declare-input X Real [1])(declare-hidden H Real [1] "h")(declare-output Y Real [1]))',
        "(declare-network f (declare-input X Real [1])(declare-output X Real [1]))",
        "(declare-network f (declare-input X int8 [1])(declare-output Y Real [1]))",
        "(declare-network f (declare-input X Real [a])(declare-output Y Real [1]))",
        "(declare-network f (declare-input X Real)(declare-output Y Real [1]))",
        "(declare-network f (declare-input X Real [1] Real)(declare-output Y Real [1]))",
        "(declare-network f (equal-to g)(declare-input X Real [1])(declare-output Y Real [1]))",
        "(declare-network f (declare-input X Real [1])(declare-output Y Real [1]))" * 2,
        "(declare-const X_0 Real)(declare-network f (declare-input X Real [1])(declare-output Y Real [1]))",
        "(declare-network f (declare-input X Real [1])(declare-output Y Real [1]))(assert (<= X 1))",
        "(declare-network f (declare-input X Real [1])(declare-output Y Real [1]))(assert (<= X[1] 1))",
        "(declare-network f (declare-input X Real [1])(declare-output Y Real [1]))(assert (<= X_0 1))",
    ],
)
def test_networks_that_are_not_supported(network: str) -> None:
    with pytest.raises(VnnlibProblem):
        parse(f"(vnnlib-version <2.0>){network}(assert (<= X[0] 1))".encode())


def test_nesting_is_no_limit() -> None:
    depth = 5_000
    total = "(+ X_0 " * depth + "Y_0" + ")" * depth
    assert truth(version_1(f"(assert (<= {total} 0))"), (0, 0), (0, 0))
    nested = "(and (<= X_0 1) " * depth + "(<= Y_0 0)" + ")" * depth
    assert truth(version_1(f"(assert {nested})"), (0, 0), (0, 0))
    many = "".join(f"(+ X_{i} " for i in range(depth)) + "0" + ")" * depth
    found = version_1(f"(assert (<= {many} 0))", inputs=depth).formula
    assert isinstance(found, Constraint)
    assert found.inputs == tuple((i, F(1)) for i in range(depth))


def test_too_many_cases_are_refused() -> None:
    body = "".join("(assert (or (<= Y_0 0) (>= Y_0 1)))" for _ in range(40))
    with pytest.raises(ModelProblem, match="cases"):
        cases(version_1(body).formula, 2)


SEED_TEXT = (
    declared(2, 2)
    + "(assert (<= X_0 0.5)) (assert (>= X_0 -1e-2)) (assert (<= 0 X_1 ))(assert (<= X_1 1))\n"
    + "(assert (or (and (<= (* 2 Y_0) Y_1) (< Y_0 3)) (>= (+ Y_0 (- Y_1 1)) X_0)))"
)
SEED_TEXT_2 = (
    "(vnnlib-version <2.0>)(declare-network f (declare-input X Real [1,2])(declare-output Y float32 [2]))\n"
    "(assert (<= X[0,0] 0.5))(assert (>= X[0,0] 0))(assert (<= X[0,1] 2))(assert (>= X[0,1] 1))\n"
    "(assert (or (== Y[0] Y[1]) (!= X[0,1] 1.5)))"
)


@pytest.mark.parametrize("text", [SEED_TEXT, SEED_TEXT_2])
def test_mutated_files_end_in_a_property_or_a_sentence(text: str) -> None:
    rng = np.random.default_rng(0)
    original = text.encode()
    pieces = [piece.encode("latin1") for piece in (*"()[];-= \n", '"', "1e9", "X_1", "or", "()", "\xff")]
    survived = 0
    for _ in range(2000):
        content = original
        for _ in range(int(rng.integers(1, 3))):
            start, stop = sorted(rng.integers(0, len(content) + 1, 2))
            stop = min(stop, start + int(rng.choice([0, 0, 1, 2, 30])))
            piece = pieces[int(rng.integers(len(pieces)))] if rng.random() < 0.7 else original[start : start + 20]
            content = content[:start] + piece + content[stop:]
        try:
            found = parse(content)
            if (found.inputs or 2) < 100:
                cases(found.formula, found.inputs or 2)
        except ModelProblem:
            continue
        survived += 1
    assert survived > 10


VARIABLES = ("X_0", "X_1", "Y_0", "Y_1")
Sum = tuple[str, dict[str, Fraction], Fraction]
"""Text, coefficients and constant."""


def number(random: Random) -> Fraction:
    return Fraction(random.randint(-8, 8), 4)


def linear(random: Random, depth: int = 3) -> Sum:
    kind = random.choice(["number", "variable", "+", "-", "*"] if depth else ["number", "variable"])
    if kind == "number":
        value = number(random)
        return f"{float(value)}", {}, value
    if kind == "variable":
        name = random.choice(VARIABLES)
        return name, {name: F(1)}, F(0)
    if kind == "*":
        factor = number(random)
        text, terms, constant = linear(random, depth - 1)
        return f"(* {float(factor)} {text})", {n: c * factor for n, c in terms.items()}, constant * factor
    parts = [linear(random, depth - 1) for _ in range(random.randint(1, 3))]
    signs = [1] + [1 if kind == "+" else -1] * (len(parts) - 1)
    if kind == "-" and len(parts) == 1:
        signs = [-1]
    terms, constant = dict.fromkeys(VARIABLES, F(0)), F(0)
    for sign, (_, more, value) in zip(signs, parts, strict=True):
        constant += sign * value
        for name, c in more.items():
            terms[name] += sign * c
    return f"({kind} {' '.join(text for text, _, _ in parts)})", terms, constant


def formula(random: Random, depth: int = 3) -> tuple[str, object]:
    """Text, and the same as nested tuples."""
    if depth == 0 or random.random() < 0.3:
        operator = random.choice(["<=", "<", ">=", ">", "=", "=="])
        first, second = linear(random), linear(random)
        return f"({operator} {first[0]} {second[0]})", (operator, first, second)
    operator = random.choice(["and", "or"])
    parts = [formula(random, depth - 1) for _ in range(random.randint(1, 3))]
    return f"({operator} {' '.join(text for text, _ in parts)})", (operator, [tree for _, tree in parts])


def direct(tree: object, values: dict[str, Fraction]) -> bool:
    """The formula evaluated as it was generated, without the reader."""
    assert isinstance(tree, tuple)
    operator = tree[0]
    if operator in ("and", "or"):
        return (all if operator == "and" else any)(direct(part, values) for part in tree[1])
    a, b = (sum((c * values[name] for name, c in terms.items()), constant) for _, terms, constant in tree[1:])
    return {"<=": a <= b, "<": a < b, ">=": a >= b, ">": a > b, "=": a == b, "==": a == b}[operator]


@pytest.mark.parametrize("seed", range(100))
def test_random_properties_are_read_and_split_into_cases_as_they_are_meant(seed: int) -> None:
    random = Random(seed)
    parts = [formula(random) for _ in range(random.randint(1, 2))]
    box = "".join(f"(assert (<= X_{i} 9))(assert (>= X_{i} -9))" for i in range(2))
    found = version_1(box + "".join(f"(assert {text})" for text, _ in parts))
    split = cases(found.formula, 2)
    for _ in range(20):
        values = [number(random) for _ in VARIABLES]
        expected = all(direct(tree, dict(zip(VARIABLES, values, strict=True))) for _, tree in parts)
        x, y = values[:2], values[2:]
        assert truth(found, x, y) == expected
        inside = [
            all(low <= v <= high for v, low, high in zip(x, *case.exact, strict=True))
            and any(all(constraint.holds(x, y) for constraint in each) for each in case.alternatives)
            for case in split
        ]
        assert any(inside) >= expected
        if any(inside) and not expected:  # the point lies on a side of a box that a strict inequality excludes
            assert any(v in (low, high) for case in split for v, low, high in zip(x, *case.exact, strict=True))


def test_a_carriage_return_ends_a_comment() -> None:
    text = "(declare-const X_0 Real)\n(declare-const Y_0 Real)\n(assert (>= X_0 0))(assert (<= X_0 1))\n"
    ends = [parse((text + f"(assert (or (<= Y_0 -1) ; c{end} (>= Y_0 0.5)\n))").encode()) for end in "\r\n"]
    assert ends[0].formula == ends[1].formula


def test_a_number_has_one_name() -> None:
    with pytest.raises(VnnlibProblem, match="X_00"):
        parse(b"(declare-const X_00 Real)(declare-const Y_0 Real)(assert (>= X_00 0))")
