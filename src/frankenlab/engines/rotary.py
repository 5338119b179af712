"""Rotary position embeddings (Su et al. 2021, RoFormer) with transformers' frequencies."""

import torch

from frankenlab.io.errors import UserError, excerpt
from frankenlab.models.shape import ModelShape

# RoPE variants whose frequencies depend on the length of the sequence at hand.
LENGTH_DEPENDENT = ("dynamic", "longrope")


class Rotary:
    """The rotary tables of a model, with or without static scaling (linear, llama3, yarn).

    Raises:
        UserError: the model scales its frequencies in another way.
    """

    def __init__(self, info: ModelShape, device: torch.device) -> None:
        if info.rope.get("rope_type", "default") == "default":
            exponents = torch.arange(0, info.head_dim, 2).float() / info.head_dim
            frequencies, self.scaling = 1.0 / info.rope["rope_theta"] ** exponents, 1.0
        else:
            frequencies, self.scaling = _scaled(info, device)
        self.frequencies = frequencies.to(device)

    def tables(
        self, positions: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the cosines and sines [..., head dim] of positions, int64 [...]."""
        angles = positions.to(self.frequencies.device)[..., None].float() * self.frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return (angles.cos() * self.scaling).to(dtype), (angles.sin() * self.scaling).to(dtype)


def _scaled(info: ModelShape, device: torch.device) -> tuple[torch.Tensor, float]:
    """Return frequencies and scaling by a function of transformers, which any model type shares.

    Raises:
        UserError: the model scales them by another rule.
    """
    # Imported here: it takes seconds, and most models' angles are not scaled.
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    kind = info.rope["rope_type"]
    if kind not in ROPE_INIT_FUNCTIONS or kind in LENGTH_DEPENDENT:
        raise UserError(
            f'rope type "{excerpt(kind)}": its frequencies depend on the length of each input, '
            "which shared prefixes do not allow; default, linear, llama3 and yarn work"
        )
    # The functions read the size of a head only. One head is given because a Mistral's hidden size
    # need not be a multiple of its number of heads, as a Llama's must.
    config = LlamaConfig(
        hidden_size=info.head_dim,
        num_attention_heads=1,
        head_dim=info.head_dim,
        max_position_embeddings=info.max_position_embeddings,
        rope_parameters=dict(info.rope),
    )
    return ROPE_INIT_FUNCTIONS[kind](config, device)
