"""GPUs without a GPU: tensors of the CPU, each of which says that it is on one of several GPUs.

An operation on tensors of two GPUs, or of one and the host, fails as it does in CUDA. What is
computed is what a CPU computes.
"""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

DEVICE = torch.Tensor.device.__get__  # type: ignore[attr-defined]
# These take a tensor of another device: a copy is what they are for.
COPIES = (torch.Tensor.to, torch.Tensor.copy_)


class _Gpus(TorchFunctionMode):
    """Every tensor has the GPU that it was made on or moved to, and a result that of its inputs.

    Attributes:
        moves: (from, to) of each copy between GPUs, in their order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.moves: list[tuple[str, str]] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        # Each look at the attribute makes another one.
        if func == DEVICE:
            return torch.device(_gpu(args[0]) or "cpu")
        if func is torch.Tensor.pin_memory:
            return args[0]
        if func is torch.Tensor.cpu:
            func, args = torch.Tensor.to, (args[0], torch.device("cpu"))
        given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        target = self._target(func, args, kwargs)
        kwargs.pop("pin_memory", None)
        if target is not None and "device" in kwargs:
            kwargs["device"] = "cpu"
        if func is torch.Tensor.to:
            args = (args[0], *("cpu" if isinstance(x, torch.device) else x for x in args[1:]))
            if target is not None and target != _gpu(args[0]):
                # A copy, also where torch would return the tensor itself.
                kwargs["copy"] = True
                if target and _gpu(args[0]):
                    self.moves.append((_gpu(args[0]), target))
        result = func(*args, **kwargs)
        own = {_gpu(x) for x in given if x.dim() or _gpu(x)}
        if func not in COPIES and len(own) > 1:
            name = getattr(func, "__name__", str(func))
            raise RuntimeError(
                f"{name}: expected all tensors to be on the same device, found {own}"
            )
        gpu = target if target is not None else _gpu(given[0]) if func in COPIES else None
        gpu = gpu if gpu is not None else next(iter(own), "")
        for each in tree_flatten(result)[0]:
            if isinstance(each, torch.Tensor) and not any(each is x for x in given):
                each.gpu = gpu
        return result

    def _target(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> str | None:
        """The GPU that a call names, "" for the host, None where it names no device."""
        named = [kwargs["device"]] if kwargs.get("device") is not None else []
        named += (
            [x for x in args[1:] if isinstance(x, torch.device)] if func is torch.Tensor.to else []
        )
        if not named:
            return None
        device = torch.device(named[0])
        return "" if device.type == "cpu" else f"cuda:{device.index or 0}"


def _gpu(tensor: torch.Tensor) -> str:
    return getattr(tensor, "gpu", "")


class _Event:
    def __init__(self, **options: Any) -> None:
        pass

    def record(self, stream: Any = None) -> None:
        pass

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass


@contextlib.contextmanager
def pretend_gpus(count: int) -> Iterator[_Gpus]:
    """So many GPUs, "cuda:0" and up."""
    pretended: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: count,
        "current_stream": lambda device=None: None,
        "synchronize": lambda device=None: None,
        "get_device_name": lambda device=None: "a pretend GPU",
        "Event": _Event,
    }
    with contextlib.ExitStack() as stack:
        for name, value in pretended.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        yield stack.enter_context(_Gpus())
