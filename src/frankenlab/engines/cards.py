"""Several GPUs that hold a model together: which there are, and how tensors go to another one.

A hidden state is on the GPU of the layer that made it. The GPUs wait for each other in their own
queues: the host waits for nothing.
"""

import logging
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any

import torch

from frankenlab.engines.devices import usable_device
from frankenlab.io.errors import UserError

logger = logging.getLogger(__name__)


def usable_devices(name: str, gpus: int = 1) -> tuple[torch.device, ...]:
    """Return the device of a name, or of several GPUs this one and those that follow it.

    Raises:
        UserError: CUDA is asked for and absent, or has fewer GPUs.
    """
    first = usable_device(name)
    if gpus == 1:
        return (first,)
    if not name.startswith("cuda"):
        raise UserError(f'device "{name}": a model is split over {gpus} GPUs on cuda only')
    start, count = int(name.partition(":")[2] or 0), torch.cuda.device_count()
    if start + gpus > count:
        raise UserError(
            f'device "{name}": {gpus} GPUs are asked for, and torch finds {count} here; a job sees '
            "those that it asked the scheduler for, or those in CUDA_VISIBLE_DEVICES"
        )
    return tuple(torch.device(f"cuda:{start + number}") for number in range(gpus))


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of one GPU on another one, or itself where it is there."""
    if tensor.device == device:
        return tensor
    if _copies_arrive(tensor.device, device):
        return tensor.to(device, non_blocking=True)
    return tensor.cpu().to(device)


def moved_record(record: Any, device: torch.device) -> Any:
    """Return a dataclass, or a named tuple of tensors, with its tensors moved from one GPU to
    another one, also those in others inside of it; tensors of the host stay there."""
    if isinstance(record, tuple):
        return type(record)(*(moved(tensor, device) for tensor in record))
    changes = {}
    # Fields that __init__ does not take follow from the others, and are made anew.
    for name in (each.name for each in fields(record) if each.init):
        value = getattr(record, name)
        if isinstance(value, torch.Tensor) and value.device.type != "cpu":
            changes[name] = moved(value, device)
        elif is_dataclass(value) or hasattr(value, "_fields"):
            changes[name] = moved_record(value, device)
    return replace(record, **changes)


@cache
def _copies_arrive(source: torch.device, target: torch.device) -> bool:
    """Tell whether a GPU's copies arrive at another one.

    With some drivers and boards those that do not pass through the host leave the target as it was,
    and no error says so; exllamav2 (`compat.py`) looks for it too.
    """
    sent = torch.arange(1, 1025, device=source)
    if bool((sent.to(target).cpu() == sent.cpu()).all()):
        return True
    logger.warning("copies from %s to %s do not arrive; they go through the host", source, target)
    return False
