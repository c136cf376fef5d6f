"""A device that does not exist: what would go wrong on an accelerator goes wrong on it.

Its tensors say that they are on PyTorch's "meta" device, and have values all the same, which the
processor computes. As on an accelerator, tensors of two devices do not meet in one operation, and the
processor waits until everything before it is computed when it asks for a value, when a size depends on
one, and when it sends what is not in pinned memory. Such waits are counted, and so are calls.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
_CPU = torch.device("cpu")
_aten = torch.ops.aten

_COPIES = {_aten._to_copy, _aten.copy_}
"""Between devices."""

_INDEXED = {_aten.index, _aten.index_put, _aten.index_put_}
"""The indices may be the processor's."""

_ASKING = {_aten._local_scalar_dense, _aten.nonzero, _aten.masked_select}
"""For values."""


class FakeDeviceTensor(Tensor):
    """A tensor on that device."""

    value: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, value: Tensor) -> "FakeDeviceTensor":
        tensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            value.shape,
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            device=DEVICE,
        )
        tensor.value = value
        return tensor

    def __repr__(self, **kwargs: Any) -> str:
        return f"FakeDeviceTensor({self.value})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Computes on the processor; a result is on the device if an argument is, or on request."""
    name = func.overloadpacket
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    on_device = [t for t in tensors if isinstance(t, FakeDeviceTensor)]
    met = any(t.dim() for t in tensors if not isinstance(t, FakeDeviceTensor))
    if on_device and met and name not in _COPIES | _INDEXED:
        raise RuntimeError(f"{func} is given tensors of two devices.")
    goes = bool(on_device)
    if name is _aten.copy_:
        goes = isinstance(args[0], FakeDeviceTensor)
    elif kwargs.get("device") is not None:
        goes = torch.device(kwargs["device"]) == DEVICE
        kwargs = {**kwargs, "device": _CPU}
    results = func(*_unwrap_all(args), **_unwrap_all(kwargs))
    if goes and not func.is_view:
        _calls.append(name)
    if _waits_for(name, on_device, tensors, goes, kwargs):
        _waits.append(name)
    changed = {id(t.value): t for t in on_device}  # what an operation changes in place it also returns
    return tree_map(lambda t: _wrap_result(t, changed) if goes and isinstance(t, Tensor) else t, results)


def _waits_for(
    name: Any,
    on_device: list[FakeDeviceTensor],
    tensors: list[Tensor],
    goes: bool,
    kwargs: dict[str, Any],
) -> bool:
    if name in _COPIES and goes:
        sent = [t for t in tensors if not isinstance(t, FakeDeviceTensor)]
        return any(not (kwargs.get("non_blocking") and getattr(t, "pinned", False)) for t in sent)
    masked = name in _INDEXED and any(t.dtype == torch.bool for t in tensors)
    return bool(on_device) and (not goes or masked or name in _ASKING)


def _unwrap_all(values: Any) -> Any:
    return tree_map(lambda t: t.value if isinstance(t, FakeDeviceTensor) else t, values)


def _wrap_result(result: Tensor, changed: dict[int, FakeDeviceTensor]) -> FakeDeviceTensor:
    if isinstance(result, FakeDeviceTensor):
        return result
    return changed[id(result)] if id(result) in changed else FakeDeviceTensor(result)


_waits: list[object] = []
_calls: list[object] = []


def take_waits() -> list[object]:
    """Returns the operations that had to wait for the device since the last call."""
    waits = _waits.copy()
    _waits.clear()
    return waits


def take_calls() -> list[object]:
    """Returns the operations that the device ran since the last call."""
    calls = _calls.copy()
    _calls.clear()
    return calls


class _Operations(TorchDispatchMode):
    """Operations that are given no tensor, such as those that make one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Values(TorchFunctionMode):
    """Ways between Python's numbers and tensors, which are no operations."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            return func(*args, **{**kwargs, "device": _CPU}).to(DEVICE)
        if func is Tensor.pin_memory:
            pinned: Any = args[0].clone()
            pinned.pinned = True
            return pinned
        if func is Tensor.tolist and isinstance(args[0], FakeDeviceTensor):
            _waits.append(func)
            return args[0].value.tolist()
        return func(*args, **kwargs)


@contextmanager
def activate() -> Iterator[None]:
    """Inside, this thread has the device."""
    with _Operations(), _Values():
        yield


def activate_on_each_thread() -> Callable[[], None]:
    """A function; each thread that calls it has the device from then on."""
    inside = threading.local()

    def prepare() -> None:
        if not hasattr(inside, "modes"):
            inside.modes = [_Operations().__enter__(), _Values().__enter__()]

    return prepare
