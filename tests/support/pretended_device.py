"""A device that is none, for machines without a GPU: its tensors are the CPU's in disguise, compute what these would,
and refuse, as a GPU's would, to meet those that are not in disguise.

It stands in for CUDA in one respect alone: whether everything that belongs on the device is there. Randomness comes
from the CPU's generators, so that results are equal to the CPU's, bit by bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

_aten = torch.ops.aten
_BETWEEN_DEVICES = {_aten.copy_, _aten._to_copy, _aten._copy_from}
_INDEXING = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}
"""Where a tensor of a GPU may meet one of the CPU: copies, and indices, the second argument, into one of the GPU."""


class Disguised(Tensor):
    """A tensor on the pretended device. inside: the one of the CPU that holds its values."""

    inside: Tensor

    @staticmethod
    def __new__(cls, inside: Tensor) -> Disguised:
        tensor: Disguised = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inside.shape,
            strides=inside.stride(),
            storage_offset=inside.storage_offset(),
            dtype=inside.dtype,
            device=DEVICE,
        )
        tensor.inside = inside
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        options = dict(options or {})
        tensors = [each for each in tree_leaves((arguments, options)) if isinstance(each, Tensor)]
        packet = function.overloadpacket
        here = isinstance(arguments[0], Disguised) if packet in _BETWEEN_DEVICES | _INDEXING else True
        operands = (arguments[0], *arguments[2:]) if packet in _INDEXING and here else (arguments, options)
        strangers = [each for each in tree_leaves(operands) if isinstance(each, Tensor) and each.dim() > 0]
        strangers = [each for each in strangers if not isinstance(each, Disguised)]
        if strangers and packet not in _BETWEEN_DEVICES:
            raise RuntimeError(f"{function} got tensors of two devices, those of the CPU of {[*strangers[0].shape]}")
        if (device := options.get("device")) is not None:
            here, options["device"] = torch.device(device).type == DEVICE.type, torch.device("cpu")
        result = function(*tree_map(_undisguised, arguments), **tree_map(_undisguised, options))
        if packet is _aten._to_copy and result is _undisguised(arguments[0]):
            result = result.clone()
        known = {id(each.inside): each for each in tensors if isinstance(each, Disguised)}
        if any(each.shape != each.inside.shape for each in known.values()):
            raise NotImplementedError(f"{function} changes a shape, which a disguise cannot")
        return tree_map(lambda each: _disguised(each, known) if here else each, result)

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, value: Disguised) -> None:
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.inside = value.inside

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.detach().inside.__reduce_ex__(protocol)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Disguised({self.detach().inside})"

    def tolist(self) -> Any:
        return self.detach().inside.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert a tensor of the pretended device to numpy: copy it to the CPU first")


def _undisguised(value: Any) -> Any:
    return value.inside if isinstance(value, Disguised) else value


def _disguised(value: Any, known: dict[int, Disguised]) -> Any:
    if not isinstance(value, Tensor) or isinstance(value, Disguised):
        return value
    return known[id(value)] if id(value) in known else Disguised(value)


class _Module(backend_registration._DummyBackendModule):
    def device_count(self) -> int:
        return 0  # with generators of their own, which would have to be kept and restored

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


class CpuGenerator(torch.Generator):
    """One of the CPU, whatever device it is asked for."""

    def __new__(cls, device: object = "cpu") -> CpuGenerator:
        return super().__new__(cls, "cpu")


def _empty(shape: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, **options: Any) -> Tensor:
    options.pop("pin_memory", None)
    return Disguised(torch.empty(shape, dtype=dtype, **options))


def _empty_strided(shape: Any, strides: Any, *, dtype: Any = None, **options: Any) -> Tensor:
    return Disguised(torch.empty_strided(shape, strides, dtype=dtype))


def _arange(*ends: Any, dtype: Any = None, **options: Any) -> Tensor:
    return Disguised(torch.arange(*ends, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    _undisguised(target).copy_(_undisguised(source))
    return target


backend_registration._setup_privateuseone_for_python_backend("pretended", backend_module=_Module())
DEVICE = torch.device("pretended", 0)
_LIBRARY = torch.library.Library("aten", "IMPL")
_LIBRARY.impl("empty.memory_format", _empty, "PrivateUse1")
_LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
_LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")
for _overload in ("", ".start", ".start_step"):
    _LIBRARY.impl(f"arange{_overload}", _arange, "PrivateUse1")
