"""VNN-LIB files: which outputs a network must not reach from which inputs (www.vnnlib.org).

Version 1.0, as VNN-COMP uses it, declares one real constant per input and output, `X_0`, `X_1`, ... and `Y_0`, ...,
numbered in C order. Version 2.0 declares tensors, `(declare-network f (declare-input X Real [1,3]) ...)`, with elements
`X[0,2]`. Both assert linear constraints on them, joined by `and` and `or`; a file describes the counterexamples.

What goes beyond one network with one input and one output, linear constraints and real (or float32) numbers is refused
in a sentence: several networks, hidden values, products of variables.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from verify.core.primitives import Shape
from verify.errors import ModelProblem
from verify.files import read_unpacked
from verify.proofs.properties import Constraint, Formula, Junction

_TOKEN = re.compile(r';[^\n\r]*|[()]|"[^"]*"|\[[^\[\]()"]*\]|[^\s()\[\]";]+|[\[\]"]')
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE]([+-]?\d{1,4}))?", re.ASCII)
_FLAT_NAME = re.compile(r"([XY])_(0|[1-9]\d{0,8})", re.ASCII)
_ELEMENT = re.compile(r"([A-Za-z]\w*)(?:\[([\d,\s]*)\])?", re.ASCII)
_MOST_BITS = 4096
"""Of a numerator or denominator: more than any decimal needs, few enough for exact arithmetic to stay fast."""
_DEEPEST = 100
"""Alternations of `and` and `or`."""
_LARGEST_FILE = 2**30


@dataclass(frozen=True)
class Property:
    """A file's content. formula: fulfilled by counterexamples, in terms of the flat indices of inputs and outputs.

    inputs, outputs: how many there are; None where the file does not say. tensors: name, type and shape of both as
    version 2 declares them, None for version 1. sha256: of the file's text. shapes: of both, where it declares them.
    """

    formula: Formula
    inputs: int | None
    outputs: int | None
    tensors: tuple[str, str] | None
    sha256: str
    shapes: tuple[Shape | None, Shape | None] = (None, None)


class VnnlibProblem(ModelProblem):
    """A property that is malformed, or says more than is supported."""


def read(path: Path) -> Property:
    """Read a property, compressed by gzip or not; raises VnnlibProblem when it cannot be read, and as `parse` does."""
    return parse(read_unpacked(path, "property", VnnlibProblem, largest=_LARGEST_FILE))


def parse(content: bytes) -> Property:
    """The property in a file's content; raises VnnlibProblem, in one sentence, for whatever is not supported."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise VnnlibProblem("the property is not a text file") from error
    reader = _Reader()
    stack: list[list[_Value]] = []
    line = 1
    try:
        for token, line_of_token in _tokens(text):
            line = line_of_token
            if token == "(":
                stack.append([])
            elif not stack:
                raise VnnlibProblem(f"{_shown(token)} stands outside of any command")
            elif token == ")":
                values = stack.pop()
                if stack:
                    stack[-1].append(reader.reduced(values))
                else:
                    reader.execute(values)
            elif token[0] == "[" and stack[-1] and isinstance(stack[-1][-1], str):
                stack[-1][-1] += token
            else:
                stack[-1].append(token)
        if stack:
            raise VnnlibProblem("a parenthesis is not closed")
        return reader.property(hashlib.sha256(content).hexdigest())
    except VnnlibProblem as problem:
        raise VnnlibProblem(f"the property is not supported or malformed, near line {line}: {problem}") from problem


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    """Every token but comments, with the line that it stands on."""
    line, last = 1, 0
    for match in _TOKEN.finditer(text):
        start = match.start()
        line += text.count("\n", last, start)
        last = start
        token = match.group()
        if token[0] != ";":
            yield token, line


@dataclass
class _Sum:
    """constant + the sum of coefficient * variable; a variable is a tensor (0: input, 1: output) and a flat index."""

    terms: dict[tuple[int, int], Fraction]
    constant: Fraction


@dataclass
class _Declaration:
    """What stands inside of declare-network."""

    keyword: str
    values: list[_Value]


@dataclass(frozen=True)
class _Tensor:
    """which: 0 for the input, 1 for the output. shape: None where the file leaves open how many elements there are."""

    which: int
    name: str
    kind: str
    shape: Shape | None

    @property
    def size(self) -> int | None:
        return None if self.shape is None else math.prod(self.shape)

    @property
    def declaration(self) -> str:
        return f"{self.name} {self.kind} [{','.join(map(str, self.shape or ()))}]"


_Value = str | _Sum | Constraint | Junction | _Declaration


@dataclass
class _Reader:
    """Declarations and assertions so far.

    declared: in version 1, the names; counts: how many of them are inputs and outputs. tensors: in version 2, by name.
    """

    declared: set[str] = field(default_factory=set)
    counts: list[int] = field(default_factory=lambda: [0, 0])
    tensors: dict[str, _Tensor] = field(default_factory=dict)
    assertions: list[Formula] = field(default_factory=list)
    atoms: dict[str, _Sum] = field(default_factory=dict)

    def property(self, sha256: str) -> Property:
        if not self.assertions:
            raise VnnlibProblem("nothing is asserted")
        formula = _junction(True, list(self.assertions))
        if not self.tensors:
            return Property(formula, self.counts[0], self.counts[1], None, sha256)
        x, y = sorted(self.tensors.values(), key=lambda tensor: tensor.which)
        return Property(formula, x.size, y.size, (x.declaration, y.declaration), sha256, (x.shape, y.shape))

    def execute(self, values: list[_Value]) -> None:
        """A command of the file."""
        keyword, *rest = values or [""]
        if keyword == "assert" and len(rest) == 1 and isinstance(rest[0], Constraint | Junction):
            self.assertions.append(rest[0])
        elif keyword in ("declare-const", "declare-fun"):
            self._declare_element(keyword, rest)
        elif keyword == "vnnlib-version" and len(rest) == 1 and isinstance(rest[0], str):
            if not re.fullmatch(r"<?[12](\.\d+)?>?", rest[0]):
                raise VnnlibProblem(f"version {_shown(rest[0])} of VNN-LIB is unknown: 1.0 and 2.0 are supported")
        elif keyword == "declare-network":
            self._declare_network(rest)
        else:
            raise VnnlibProblem(f"the command {_shown(keyword)} is unknown or malformed")

    def _declare_element(self, keyword: str, rest: list[_Value]) -> None:
        """A constant of version 1. Drafts of version 2 declare a tensor's elements again, which says nothing new."""
        name = rest[0] if rest else None
        arity: list[_Value] = [_Declaration("", [])] if keyword == "declare-fun" else []
        if not isinstance(name, str) or rest[1:] not in ([*arity, "Real"], [*arity, "Float32"]):
            raise VnnlibProblem(f"{keyword} {_shown(name)} does not declare a real number")
        if self.tensors:
            self._atom(name)
            return
        match = _FLAT_NAME.fullmatch(name)
        if not match:
            raise VnnlibProblem(f"the constant {_shown(name)} is neither an input X_i nor an output Y_i")
        if name in self.declared:
            raise VnnlibProblem(f"the constant {name} is declared twice")
        self.declared.add(name)
        self.counts[match[1] == "Y"] += 1

    def _declare_network(self, rest: list[_Value]) -> None:
        if self.tensors or self.declared:
            raise VnnlibProblem("it declares more than one network; exactly one is supported")
        if not rest or not isinstance(rest[0], str):
            raise VnnlibProblem("declare-network needs a name")
        for part in rest[1:]:
            if not isinstance(part, _Declaration) or part.keyword not in ("declare-input", "declare-output"):
                what = part.keyword if isinstance(part, _Declaration) else part
                raise VnnlibProblem(f"{_shown(what)} in a network is not supported: one input and one output are")
            tensor = _declared_tensor(part)
            if tensor.which in (other.which for other in self.tensors.values()):
                raise VnnlibProblem(f"there is a second {part.keyword}; one input and one output are supported")
            if tensor.name in self.tensors:
                raise VnnlibProblem(f"the variable {tensor.name} is declared twice")
            self.tensors[tensor.name] = tensor
        if len(self.tensors) != 2:
            raise VnnlibProblem("a network needs an input and an output")

    def reduced(self, values: list[_Value]) -> _Value:
        """What a list within a command means."""
        keyword, *rest = values or [""]
        if isinstance(keyword, str):
            if keyword in _COMPARISONS:
                return self._comparison(keyword, rest)
            if keyword in ("and", "or"):
                return _junction(keyword == "and", rest)
            if keyword in _ARITHMETIC:
                return _ARITHMETIC[keyword]([self._sum(value) for value in rest])
            if not values or keyword.startswith("declare-"):
                return _Declaration(keyword, rest)
        raise VnnlibProblem(f"{_shown(keyword)} is no operator that is supported here")

    def _comparison(self, operator: str, values: list[_Value]) -> Formula:
        if len(values) != 2:
            raise VnnlibProblem(f"{operator} compares two numbers, not {len(values)}")
        first, second = (self._sum(value) for value in values)
        return _COMPARISONS[operator](first, second)

    def _sum(self, value: _Value) -> _Sum:
        if isinstance(value, _Sum):
            return value
        if not isinstance(value, str):
            raise VnnlibProblem("a number or variable is expected where a formula stands")
        atom = self.atoms.get(value)
        if atom is None:
            atom = self.atoms[value] = self._atom(value)
        return atom

    def _atom(self, token: str) -> _Sum:
        if token[0] in "+-.0123456789":
            return _Sum({}, _number(token))
        return _Sum({self._variable(token): Fraction(1)}, Fraction(0))

    def _variable(self, token: str) -> tuple[int, int]:
        if not self.tensors:
            match = _FLAT_NAME.fullmatch(token)
            if not match or token not in self.declared:
                raise VnnlibProblem(f"the variable {_shown(token)} is not declared")
            return int(match[1] == "Y"), int(match[2])
        match = _ELEMENT.fullmatch(token)
        if not match or match[1] not in self.tensors:
            raise VnnlibProblem(f"the variable {_shown(token)} is not declared")
        tensor = self.tensors[match[1]]
        return tensor.which, _flat_index(token, match[2], tensor.shape)


def _declared_tensor(declaration: _Declaration) -> _Tensor:
    """NAME TYPE SHAPE ["ONNX NAME"]; a shape without elements leaves open how many there are, as drafts of the standard
    have it."""
    name, *rest = declaration.values or [""]
    match = re.fullmatch(r"(\w+)\[([\d,\s]*)\]", str(rest[0]), re.ASCII) if rest else None
    if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) and match) or not (
        len(rest) == 1 or (len(rest) == 2 and isinstance(rest[1], str) and rest[1].startswith('"'))
    ):
        raise VnnlibProblem(f"{declaration.keyword} {_shown(name)} needs a name, an element type and a shape")
    if match[1] not in ("Real", "real", "float32"):
        raise VnnlibProblem(f"{name} has the element type {match[1]}: Real and float32 are supported")
    shape = _indices(match[2])
    which = int(declaration.keyword == "declare-output")
    return _Tensor(which, name, match[1], shape if shape and 0 not in shape else None)


def _indices(text: str) -> Shape:
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(part.isdecimal() and len(part) < 10 for part in parts):
        raise VnnlibProblem(f"[{text.strip()[:40]}] is no list of sizes or indices")
    return tuple(map(int, parts))


def _flat_index(token: str, text: str | None, shape: Shape | None) -> int:
    """The place in C order of an element."""
    indices = _indices(text or "")
    if shape is None:
        if len(indices) > 1:
            raise VnnlibProblem(f"{_shown(token)} has several indices, but its tensor is declared without a shape")
        return indices[0] if indices else 0
    if len(indices) != len(shape):
        raise VnnlibProblem(f"{_shown(token)} needs {len(shape)} indices")
    flat = 0
    for index, size in zip(indices, shape, strict=True):
        if index >= size:
            raise VnnlibProblem(f"{_shown(token)} lies outside of the shape [{', '.join(map(str, shape))}]")
        flat = flat * size + index
    return flat


def _number(token: str) -> Fraction:
    match = _NUMBER.fullmatch(token)
    if not match or len(token) > 1200 or abs(int(match[1] or 0)) > 1000:
        raise VnnlibProblem(f"{_shown(token)} is no decimal number that is supported")
    return Fraction(token)


def _junction(conjunctive: bool, parts: list[_Value] | list[Formula]) -> Formula:
    """The parts joined; junctions of the same kind among them become one, and one part is itself.

    The longest list of parts is extended in place, so that nesting costs no more than its size.
    """
    if not parts:
        raise VnnlibProblem("`and` and `or` need at least one operand")
    formulas = [part for part in parts if isinstance(part, Constraint | Junction)]
    if len(formulas) != len(parts):
        raise VnnlibProblem("`and` and `or` join constraints, not numbers")
    if len(formulas) == 1:
        return formulas[0]
    same = [part for part in formulas if isinstance(part, Junction) and part.conjunctive == conjunctive]
    longest = max(same, key=lambda part: len(part.parts), default=None)
    result = longest.parts if longest else []
    for part in formulas:
        if not (isinstance(part, Junction) and part.conjunctive == conjunctive):
            result.append(part)
        elif part is not longest:
            result.extend(part.parts)
    depths = [part.depth - (part.conjunctive == conjunctive) for part in formulas if isinstance(part, Junction)]
    depth = 1 + max(depths, default=0)
    if depth > _DEEPEST:
        raise VnnlibProblem(f"`and` and `or` alternate more than {_DEEPEST} times")
    return Junction(conjunctive, result, depth)


def _at_most(strict: bool) -> Callable[[_Sum, _Sum], Formula]:
    """a <= b as a constraint: the variables of a - b are at most the constant of b - a."""

    def constraint(a: _Sum, b: _Sum) -> Constraint:
        difference = _plus([_Sum(dict(a.terms), a.constant), _times(b, Fraction(-1))]) if b.terms else a
        inputs, outputs = (
            tuple(sorted((index, c) for (which, index), c in difference.terms.items() if which == tensor and c))
            for tensor in (0, 1)
        )
        constant = difference.constant if b.terms else a.constant - b.constant
        return Constraint.of(inputs, outputs, -constant, strict)

    return constraint


def _equal(a: _Sum, b: _Sum) -> Formula:
    return _junction(True, [_at_most(False)(a, b), _at_most(False)(b, a)])


def _unequal(a: _Sum, b: _Sum) -> Formula:
    return _junction(False, [_at_most(True)(a, b), _at_most(True)(b, a)])


_COMPARISONS: dict[str, Callable[[_Sum, _Sum], Formula]] = {
    "<=": _at_most(False),
    "<": _at_most(True),
    ">=": lambda a, b: _at_most(False)(b, a),
    ">": lambda a, b: _at_most(True)(b, a),
    "=": _equal,
    "==": _equal,
    "!=": _unequal,
    "distinct": _unequal,
}


def _plus(summands: list[_Sum]) -> _Sum:
    """The sum; the longest operand is extended in place unless it is a single variable, which others may share."""
    longest = max(range(len(summands)), key=lambda place: len(summands[place].terms))
    terms = summands[longest].terms
    terms = terms if len(terms) > 1 else dict(terms)
    constant = _bounded(sum((each.constant for each in summands), Fraction(0)))
    for each in summands[:longest] + summands[longest + 1 :]:
        for variable, coefficient in each.terms.items():
            terms[variable] = _bounded(terms.get(variable, Fraction(0)) + coefficient)
    return _Sum(terms, constant)


def _times(a: _Sum, factor: Fraction) -> _Sum:
    return _Sum({v: _bounded(c * factor) for v, c in a.terms.items()}, _bounded(a.constant * factor))


def _summed(operands: list[_Sum]) -> _Sum:
    if not operands:
        raise VnnlibProblem("+ needs at least one operand")
    return _plus(operands)


def _difference(operands: list[_Sum]) -> _Sum:
    if not operands:
        raise VnnlibProblem("- needs at least one operand")
    first, *rest = operands
    negated = [_times(each, Fraction(-1)) for each in (rest or [first])]
    return _plus([first, *negated]) if rest else negated[0]


def _product(operands: list[_Sum]) -> _Sum:
    if not operands:
        raise VnnlibProblem("* needs at least one operand")
    varying = [each for each in operands if each.terms]
    if len(varying) > 1:
        raise VnnlibProblem("a product of variables is not linear, and so not supported")
    factor = Fraction(1)
    for each in operands:
        if not each.terms:
            factor = _bounded(factor * each.constant)
    return _times(varying[0], factor) if varying else _Sum({}, factor)


_ARITHMETIC: dict[str, Callable[[list[_Sum]], _Sum]] = {"+": _summed, "-": _difference, "*": _product}


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MOST_BITS:
        raise VnnlibProblem(f"a number has more than {_MOST_BITS} bits")
    return value


def _shown(value: object) -> str:
    """A piece of the file for a message, kept short."""
    text = value if isinstance(value, str) else "( ... )" if value is not None else "nothing"
    return repr(text if len(text) <= 40 else text[:40] + "...")
