"""exllamav2's own modules, one at a time, as its forward pass runs them (model.py,
`forward_chunk`)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from frankenlab.engines.cards import moved
from frankenlab.plans.steps import Step

# The activation kernel takes two blocks of 32 columns at a time and leaves an odd one out.
ACTIVATION_WIDTH = 64


def own_step(
    modules: tuple[Any, Any], step: Step, hidden: torch.Tensor, params: Any, cache: Any = None
) -> torch.Tensor:
    """Return the hidden state after a step by exllamav2's modules, before the step's scale.

    They add to a copy in place.

    Args:
        modules: the layer's attention, or a copy with a slot in the cache, and its MLP.
        params: exllamav2's, of the attention of these rows.
    """
    attention, mlp = modules
    after = moved(hidden, torch.device(attention.device())).clone()
    if step.part != "mlp":
        after = attention.forward(after, cache=cache, attn_params=params, past_len=params.past_len)
    if step.part != "attn":
        whole = mlp.interm_features % ACTIVATION_WIDTH == 0
        after = mlp.forward(after) if whole else mlp.forward_torch(after)
    return after


def make_cache(model: Any, slots: Sequence[str], capacity: int) -> Any:
    """Return a cache with a slot on each of these devices.

    exllamav2 makes one for each layer of the model, on the layer's device, so the model says that
    it has such layers for the moment.
    """
    from exllamav2 import ExLlamaV2Cache

    layers, devices = model.config.num_hidden_layers, model.cache_map
    model.config.num_hidden_layers, model.cache_map = len(slots), dict(enumerate(slots))
    try:
        return ExLlamaV2Cache(model, max_seq_len=capacity)
    finally:
        model.config.num_hidden_layers, model.cache_map = layers, devices


def use_its_stream() -> None:
    """Make this thread work on exllamav2's own CUDA stream from here on."""
    from exllamav2.device import set_device_streams

    set_device_streams()


@contextmanager
def surfacing_memory() -> Iterator[None]:
    """Raise `torch.OutOfMemoryError` where exllamav2's extension or cuBLAS has only a text."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if "out of memory" in str(error) or "ALLOC_FAILED" in str(error):
            raise torch.OutOfMemoryError(str(error)) from error
        raise
