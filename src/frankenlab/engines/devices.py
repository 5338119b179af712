"""Devices by the names that torch gives them, and the hardware behind them."""

import platform
from pathlib import Path

import torch

from frankenlab.io.errors import UserError


def usable_device(name: str) -> torch.device:
    """Return the device of a name.

    Raises:
        UserError: CUDA is asked for and absent.
    """
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f'device "{name}": torch finds no CUDA device here; "cpu" works everywhere')
    return torch.device(name)


def hardware_name(device: torch.device) -> str:
    """Return the name of the GPU behind a CUDA device, else that of this machine's processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()


def processor_name() -> str:
    """Return the processor's name, which on Linux stands in /proc only."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
