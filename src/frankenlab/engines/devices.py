"""Devices by the names that torch gives them, and the hardware behind them."""

import platform
from pathlib import Path
from typing import TYPE_CHECKING

from frankenlab.io.errors import UserError

# Imported where it is needed: it takes seconds, and the processor has a name without it.
if TYPE_CHECKING:
    import torch


def usable_device(name: str) -> "torch.device":
    """Return the device of a name.

    Raises:
        UserError: CUDA is asked for and absent.
    """
    import torch

    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f'device "{name}": torch finds no CUDA device here; "cpu" works everywhere')
    return torch.device(name)


def hardware_name(device: "torch.device") -> str:
    """Return the name of the GPU behind a CUDA device, else that of this machine's processor."""
    if device.type != "cuda":
        return processor_name()
    import torch

    return torch.cuda.get_device_name(device)


def processor_name() -> str:
    """Return the processor's name, which on Linux stands in /proc only."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
