"""Copies between the host and the device that neither of them waits for.

A copy from ordinary memory to a GPU, or one that the host wants to read at once, waits for all that
the GPU has still to do, and afterwards the GPU waits for the host. From and to pinned memory a copy
is one more thing in the GPU's queue.
"""

import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of the host on a device; on a CPU it is there already."""
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


class Arrival:
    """Tensors of one device on their way to the host; on a CPU they are there already.

    Attributes:
        tensors: the tensors on the host, not to be read before they are here.
    """

    def __init__(self, *tensors: torch.Tensor) -> None:
        device = tensors[0].device
        self.tensors = tensors
        self._event: torch.cuda.Event | None = None
        if device.type != "cpu":
            self.tensors = tuple(map(_to_pinned, tensors))
            # Not a busy wait: the host has other things to do.
            self._event = torch.cuda.Event(blocking=True)
            self._event.record(torch.cuda.current_stream(device))

    def is_here(self) -> bool:
        """Tell whether the tensors can be read, without waiting."""
        return self._event is None or self._event.query()

    def wait(self) -> None:
        """Wait until the tensors can be read."""
        if self._event is not None:
            self._event.synchronize()


def _to_pinned(tensor: torch.Tensor) -> torch.Tensor:
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True)
