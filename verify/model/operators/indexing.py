"""Operators that pick, or replace, elements at constant indices: exact in every arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.core.primitives import Concatenate, Tensor
from verify.model.operators.movement import move, reduced
from verify.model.operators.node import Node, Operand
from verify.model.operators.registry import operator


def _indices(node: Node, operand: Operand, *types: type) -> NDArray[Any]:
    if not isinstance(operand, np.ndarray) or operand.dtype not in types:
        node.refuse(f"the indices must be constants of type {' or '.join(each.__name__ for each in types)}")
    return operand


def _places(node: Node, operand: Operand) -> NDArray[Any]:
    """Indices whose last axis holds where something is along the first axes of another array."""
    places = _indices(node, operand, np.int64)
    if not places.shape or not places.shape[-1]:
        node.refuse(f"indices of shape {places.shape} say no place")
    return places


@operator("Gather", 1, 11, 13)
def gather(node: Node, x: Operand, indices: Operand) -> Operand:
    wanted = _indices(node, indices, np.int32, np.int64)
    axis = reduced(node.attribute("axis", 0), len(x.shape), node)
    node.require_size((*x.shape[:axis], *wanted.shape, *x.shape[axis + 1 :]))
    return move(node, x, lambda a: np.take(a, wanted, axis=axis))


@operator("GatherElements", 11, 13)
def gather_elements(node: Node, x: Operand, indices: Operand) -> Operand:
    """The indices have their own shape, and say for each element where along one axis it comes from."""
    wanted = _indices(node, indices, np.int32, np.int64)
    along = _along(node, x, wanted)
    return move(node, x, lambda a: a[along])


@operator("GatherND", 11, 12, 13)
def gather_nd(node: Node, x: Operand, indices: Operand) -> Operand:
    """Places along the axes of x behind those of batches, which x and the indices share."""
    wanted = _places(node, indices)
    shared = node.attribute("batch_dims", 0)
    if not 0 <= shared < min(wanted.ndim, len(x.shape)) or x.shape[:shared] != wanted.shape[:shared]:
        node.refuse(f"indices of shape {wanted.shape} do not fit {x.shape} with {shared} axes of batches")
    node.require_size((*wanted.shape[:-1], *x.shape[shared + wanted.shape[-1] :]))
    batches = np.indices(wanted.shape[:-1], sparse=True)[:shared]
    return move(node, x, lambda a: a[(*batches, *np.moveaxis(wanted, -1, 0))])


@operator("ScatterElements", 11, 13, 16, 18)
def scatter_elements(node: Node, x: Operand, indices: Operand, updates: Operand) -> Operand:
    """As `GatherElements`, but for where the updates go."""
    wanted = _indices(node, indices, np.int32, np.int64)
    return _replaced(node, x, _along(node, x, wanted), updates)


@operator("ScatterND", 11, 13, 16, 18)
def scatter_nd(node: Node, x: Operand, indices: Operand, updates: Operand) -> Operand:
    """As `GatherND` without batches, but for where the updates go."""
    places = _places(node, indices)
    return _replaced(node, x, tuple(np.moveaxis(places, -1, 0)), updates)


def _along(node: Node, x: Operand, indices: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Where in x each index along the axis points to, in the other axes to the place that it has itself."""
    axis = reduced(node.attribute("axis", 0), len(x.shape), node)
    if len(x.shape) != indices.ndim:
        node.refuse(f"indices of shape {indices.shape} do not fit {x.shape}")
    node.require_size(indices.shape)
    places: list[NDArray[Any]] = list(np.indices(indices.shape, sparse=True))
    places[axis] = indices
    return tuple(places)


def _replaced(node: Node, x: Operand, where: tuple[NDArray[Any], ...], updates: Operand) -> Operand:
    """x, of which some elements are updates, each at most once."""
    if (reduction := node.attribute("reduction", b"none").decode()) != "none":
        node.refuse(f"reduction {reduction!r} is not supported")
    if x.dtype != updates.dtype:
        node.refuse(f"updates of type {updates.dtype} do not fit values of type {x.dtype}")
    size = int(np.prod(x.shape, dtype=np.int64))
    elements = np.arange(size).reshape(x.shape)
    taken = elements[where]
    if taken.shape != updates.shape:
        node.refuse(f"updates of shape {updates.shape} do not fit {taken.shape}")
    if np.unique(taken).size != taken.size:
        node.refuse("an element is replaced twice, in an order that runtimes choose")
    elements[where] = size + np.arange(taken.size).reshape(taken.shape)
    return move(node, _end_to_end(node, x, updates), lambda a: a[elements])


def _end_to_end(node: Node, *operands: Operand) -> Operand:
    """All elements of the operands, one behind the other."""
    flat: Callable[[NDArray[Any]], NDArray[Any]] = np.ravel
    if all(isinstance(x, np.ndarray) for x in operands):
        return np.concatenate([flat(x) for x in operands if isinstance(x, np.ndarray)])
    tensors: list[Tensor] = [node.tensor(move(node, node.tensor(x), flat)) for x in operands]
    return node.result(Concatenate(0), *tensors, shape=(sum(x.shape[0] for x in tensors),))
