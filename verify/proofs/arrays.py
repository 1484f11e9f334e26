"""Arrays inside a certificate: their shapes, and their elements deflated (zlib) and then in base64."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.errors import Rejected

LARGEST, _MOST_BYTES = 2**28, 2**29
"""Elements along an axis, and bytes of a box, or of all arrays of a proof; more are refused before anything is done
about them."""

Table = Mapping[str, tuple[str, int]]
"""By the names of an object's arrays: the type of the elements, little-endian, and how many axes there are."""


def arrays_of(described: object, table: Table) -> dict[str, NDArray[Any]]:
    """The arrays that an object has, by their names."""
    found = {name: getattr(described, name) for name in table}
    return {name: array for name, array in found.items() if array is not None}


def fields_of(described: object, table: Table) -> dict[str, Any]:
    """What a certificate holds of them."""
    return {
        name: {"shape": list(array.shape), "data": packed(array, table[name][0])}
        for name, array in arrays_of(described, table).items()
    }


class Unpacking:
    """Reads the arrays of one proof, which are not too large together."""

    def __init__(self) -> None:
        self._bytes = 0

    def arrays(self, fields: Mapping[str, Any], table: Table) -> dict[str, NDArray[Any]]:
        """Those of an object, as far as there are fields of them; raises Rejected for what none has."""
        return {name: self._array(fields[name], *table[name]) for name in table if name in fields}

    def _array(self, fields: Mapping[str, Any], kind: str, axes: int) -> NDArray[Any]:
        shape = fields["shape"]
        if not isinstance(shape, list) or len(shape) != axes or not all(map(is_size, shape)):
            raise Rejected("a size in its proof is malformed")
        self._bytes += np.dtype(kind).itemsize * math.prod(shape)
        require_bytes(self._bytes)
        return unpacked(fields["data"], kind, math.prod(shape)).reshape(shape)


def require_bytes(count: int) -> None:
    """Raise Rejected where arrays take more than they may."""
    if count > _MOST_BYTES:
        raise Rejected("its arrays are too large")


def is_size(value: Any) -> bool:
    """Whether it is the length of an axis, or another number of things."""
    return type(value) is int and 0 <= value <= LARGEST


def packed(values: NDArray[Any], kind: str) -> str:
    """The elements, of that type."""
    return base64.b64encode(zlib.compress(values.astype(kind).tobytes(), 9)).decode()


def unpacked(text: Any, kind: str, count: int) -> NDArray[Any]:
    """So many elements, in the machine's byte order; never inflates more than they take."""
    size = np.dtype(kind).itemsize * count
    inflater = zlib.decompressobj()
    content = inflater.decompress(base64.b64decode(text, validate=True), size + 1)
    if len(content) != size or not inflater.eof:
        raise Rejected("an array in it does not have the size that it names")
    return np.frombuffer(content, kind).astype(np.dtype(kind).newbyteorder("="))
