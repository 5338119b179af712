"""exllamav2's Python without a GPU: its compiled extension replaced by `exllamav2_extension`, and
every CUDA device by the CPU.

`standing_in()` is for tests in this process. A script of exllamav2's runs under it as

    python tests/exllamav2_stand_in.py -m exllamav2.conversion.convert_exl2 -i … -o …
"""

import contextlib
import gc
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode

from tests.support.exllamav2_extension import FUNCTIONS

EXTENSION = "exllamav2_ext"


class _OnCpu(TorchFunctionMode):
    """Every device is the CPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.device:
            return func("cpu") if _is_cuda(args[0]) else func(*args, **kwargs)
        if func is torch.Tensor.cuda:
            return args[0]
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = "cpu"
        if func is torch.Tensor.to:
            args = (args[0], *("cpu" if _is_cuda(x) else x for x in args[1:]))
        return func(*args, **kwargs)


def _is_cuda(value: Any) -> bool:
    if isinstance(value, torch.device):
        return value.type == "cuda"
    if isinstance(value, str):
        return value.startswith("cuda")
    return isinstance(value, int) and not isinstance(value, bool)


class _Stream:
    def __init__(self, *arguments: Any) -> None:
        pass


CUDA: dict[str, Any] = {
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "Stream": _Stream,
    "stream": lambda stream: contextlib.nullcontext(),
    "device": lambda device: contextlib.nullcontext(),
    "memory_allocated": lambda device=None: 0,
    "max_memory_allocated": lambda device=None: 0,
    "get_device_name": lambda device=None: "a stand-in for a GPU",
    "mem_get_info": lambda device=None: (1 << 40, 1 << 40),
} | {
    name: lambda *arguments: None
    for name in ("synchronize", "set_device", "set_stream", "empty_cache")
    + ("reset_peak_memory_stats",)
}


def _plainly(function: Callable) -> Callable:
    """The function without the mode, which costs more than the small tensors in here."""

    def plain(*arguments: Any) -> Any:
        with torch._C.DisableTorchFunction():
            return function(*arguments)

    return plain


@contextlib.contextmanager
def standing_in() -> Iterator[None]:
    """exllamav2 runs on the CPU, which torch takes for a CUDA device meanwhile.

    The module stays in sys.modules: what exllamav2 has once imported it keeps.
    """
    module = sys.modules.setdefault(EXTENSION, ModuleType(EXTENSION))
    for function in FUNCTIONS:
        setattr(module, function.__name__, _plainly(function))
    with contextlib.ExitStack() as stack:
        for name, value in CUDA.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(_OnCpu())
        yield


def main(arguments: Sequence[str]) -> None:
    """Runs `-m module arguments…` under the stand-in."""
    flag, module, *rest = arguments
    assert flag == "-m", "usage: exllamav2_stand_in.py -m module [argument …]"
    sys.argv = [module, *rest]
    with standing_in():
        import exllamav2  # noqa: F401

        # The converter collects garbage after every layer, and torch alone has a million objects.
        gc.freeze()
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
