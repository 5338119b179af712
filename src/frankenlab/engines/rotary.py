"""Rotary position embeddings (Su et al. 2021, RoFormer) with transformers' frequencies."""

import torch
from transformers import PreTrainedConfig

# Not the model's own module: importing one takes seconds.
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from frankenlab.errors import UserError

# RoPE variants whose frequencies depend on the length of the sequence at hand.
LENGTH_DEPENDENT = ("dynamic", "longrope")


class Rotary:
    """Angles of every position, whatever the static scaling (linear, llama3, yarn) of the model.

    Raises:
        UserError: the scaling is another one.
    """

    def __init__(self, config: PreTrainedConfig, device: torch.device) -> None:
        rope = config.rope_parameters or {}
        kind = rope.get("rope_type", "default")
        self.scaling = 1.0
        if kind == "default":
            dim = getattr(config, "head_dim", None) or (
                config.hidden_size // config.num_attention_heads
            )
            frequencies = 1.0 / rope["rope_theta"] ** (torch.arange(0, dim, 2).float() / dim)
        elif kind in ROPE_INIT_FUNCTIONS and kind not in LENGTH_DEPENDENT:
            frequencies, self.scaling = ROPE_INIT_FUNCTIONS[kind](config, device)
        else:
            raise UserError(
                f'rope type "{kind}": its frequencies depend on the length of each input, which '
                "shared prefixes do not allow; default, linear, llama3 and yarn work"
            )
        self.frequencies = frequencies.to(device)

    def tables(
        self, positions: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines [..., head dim] of positions, int64 [...]."""
        angles = positions.to(self.frequencies.device)[..., None].float() * self.frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return (angles.cos() * self.scaling).to(dtype), (angles.sin() * self.scaling).to(dtype)
