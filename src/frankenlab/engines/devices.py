"""Devices by the names that torch gives them."""

import torch

from frankenlab.errors import UserError


def usable_device(name: str) -> torch.device:
    """The device, or a UserError where CUDA is asked for and absent."""
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f'device "{name}": torch finds no CUDA device here; "cpu" works everywhere')
    return torch.device(name)
