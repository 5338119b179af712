"""A model's config.json, checked to mean what transformers computes and what the engines run."""

import importlib.util
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from frankenlab.io.errors import UserError, excerpt, one_line
from frankenlab.models.files import ALLOWED, CONFIG, QUANTIZATION, declares_exl2, read_json
from frankenlab.models.shape import ModelShape

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
}

# Keys that make transformers read other files or build layers of other sizes than these.
ELSEWHERE = ("transformers_weights", "configuration_files", "per_layer_config", "text_config")
# A context longer than this is a slip.
MOST_POSITIONS = 1 << 30


def load_config(directory: str | os.PathLike) -> tuple[dict[str, Any], Any]:
    """Return a model's config.json, as it is and as transformers reads it.

    Raises:
        UserError: transformers would not read it, or would compute something that the engines do
            not: another architecture or activation, attention over a window, rotary parameters
            that contradict each other.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"{directory}: there is no such directory")
    raw = read_json(directory / CONFIG)
    try:
        _check_raw(raw)
        _check_adapter(directory)
        config = _as_transformers_reads(directory)
        _check_numbers(config)
        _check_rotary(raw, config)
        if (window := _attention_window(raw, config)) is not None:
            raise UserError(f"attention slides over a window of {window}; {ALLOWED}")
    except UserError as error:
        raise UserError(f"{directory}: {error}") from None
    return raw, config


def _as_transformers_reads(directory: Path) -> Any:
    """Return the config with the defaults of what config.json leaves out, which only transformers
    knows."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(directory)
    except Exception as error:
        reason = one_line(error)[:300]
        raise UserError(f"transformers does not read config.json ({reason})") from None


def _attention_window(raw: Mapping[str, Any], config: Any) -> int | None:
    """Return the window that some layer's attention slides over, None where it is not less than
    the model's context or every layer attends fully.

    Llama's never slides, whatever its config.json says. Mistral's does in every layer, unless
    config.json has `layer_types`: these decide then, as they always do for Qwen2 (whose config
    makes them of `use_sliding_window` and `max_window_layers` where config.json has none).
    """
    types = getattr(config, "layer_types", None)
    allowed = {"full_attention", "sliding_attention"}
    if raw["model_type"] == "llama":
        window, allowed = None, {"full_attention"}
    else:
        window = config.sliding_window
    if types is not None:
        if len(types) != config.num_hidden_layers:
            raise UserError(
                f"layer_types has {len(types)} entries for {config.num_hidden_layers} layers"
            )
        if strange := sorted({*types} - allowed):
            raise UserError(f"layer_types has {strange[0]!r}; {ALLOWED}")
        slides = "sliding_attention" in types
        # transformers takes a Mistral with layer_types for a Ministral, which makes a mask always.
        if window is None and (slides or raw["model_type"] == "mistral"):
            raise UserError(
                "config.json has layer_types but no sliding_window, with which "
                "transformers fails; remove layer_types where every layer attends fully"
            )
        if not slides:
            return None
    return window if window is not None and window < config.max_position_embeddings else None


def with_old_rope_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config.json with what transformers 5 keeps in `rope_parameters` in the keys of
    transformers 4 too.

    Other tools (exllamav2 for one) look only there, and silently take a default if nothing is
    there.
    """
    rope = config.get("rope_parameters")
    if not isinstance(rope, Mapping):  # which is refused when the config is checked
        rope = {}
    old = {"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {}
    if (rope.get("rope_type") or rope.get("type") or "default") != "default":
        old["rope_scaling"] = {k: v for k, v in rope.items() if k != "rope_theta"}
    return {**config, **{k: v for k, v in old.items() if config.get(k) is None}}


def _check_raw(raw: Mapping[str, Any]) -> None:
    found = raw.get("model_type")
    usual = ARCHITECTURES.get(found) if isinstance(found, str) else None
    architectures = raw.get("architectures") or [usual]
    if usual is None or architectures != [usual]:
        listed = isinstance(architectures, list) and architectures != [None]
        named = ", ".join(map(str, architectures)) if listed else found
        raise UserError(f"the architecture is {excerpt(named)}; {ALLOWED}")
    declared = raw.get(QUANTIZATION)
    if declared is not None and not declares_exl2(raw):
        method = declared.get("quant_method") if isinstance(declared, Mapping) else None
        raise UserError(f"the weights are quantized ({method or 'some method'}); {ALLOWED}")
    for key in ELSEWHERE:
        if raw.get(key) is not None:
            raise UserError(
                f"config.json has {key}, by which transformers would take other files "
                f"or sizes; {ALLOWED}"
            )
    if raw.get("is_causal", True) is not True:
        raise UserError(f"is_causal is {excerpt(raw['is_causal'])}, allowed is true")
    ModelShape.from_config(raw)


def _check_adapter(directory: Path) -> None:
    adapter = directory / "adapter_config.json"
    if adapter.is_file() and importlib.util.find_spec("peft"):
        raise UserError(
            f"it has {adapter.name}, and transformers with peft would change the "
            "weights by that adapter; merge it or take it away"
        )


def _check_numbers(config: Any) -> None:
    factor = (config.rope_parameters or {}).get("partial_rotary_factor")
    if factor is None:
        factor = getattr(config, "partial_rotary_factor", None)
    if config.hidden_act != "silu":
        found = excerpt(config.hidden_act)
        raise UserError(f"hidden_act is {found}, allowed is silu")
    if factor not in (None, 1.0):
        found = excerpt(factor)
        raise UserError(f"partial_rotary_factor is {found}, allowed is 1.0")
    # Some configs take null for the usual value, others keep it (Qwen2's, or Mistral's with
    # layer_types).
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if getattr(config, "head_dim", dim) is None:
        raise UserError(f"head_dim is null, with which transformers fails; write {dim}")
    if dim % 2:
        raise UserError(f"head_dim is {dim}, allowed are even numbers")
    padding = config.pad_token_id
    if padding is not None and not -config.vocab_size <= padding < config.vocab_size:
        raise UserError(
            f"pad_token_id is {excerpt(padding)}, which transformers refuses for "
            f"{config.vocab_size} embeddings; remove it"
        )
    positions, epsilon = config.max_position_embeddings, config.rms_norm_eps
    if not isinstance(positions, int) or not 0 < positions <= MOST_POSITIONS:
        raise UserError(
            f"max_position_embeddings is {excerpt(positions)}, expected 1 to {MOST_POSITIONS}"
        )
    if not is_number(epsilon) or epsilon < 0:
        raise UserError(f"rms_norm_eps is {excerpt(epsilon)}, expected a number from 0")


def _check_rotary(raw: Mapping[str, Any], config: Any) -> None:
    """Check the rotary parameters. transformers 4 and exllamav2 look for them in other keys than
    transformers 5: where several are there, they must say the same."""
    rope = config.rope_parameters
    scalings = [raw.get(key) or {} for key in ("rope_scaling", "rope_parameters")]
    if not all(isinstance(values, Mapping) for values in (rope, *scalings)):
        raise UserError("its rotary parameters are no JSON object")
    for name, value in {"rope_theta": None, "factor": 1, **rope}.items():
        positive = is_number(value) and value > 0
        if name in ("rope_theta", "factor") and not positive:
            raise UserError(f"{name} is {excerpt(value)}, expected a number above 0")
    for name, value in rope.items():
        numbers = value if isinstance(value, list) else [value]
        if name not in ("rope_type", "type") and not all(
            number is None or isinstance(number, bool) or is_number(number) for number in numbers
        ):
            raise UserError(f"{excerpt(name)} of the rotary parameters is no number")
    older, newer = map(dict, scalings)
    for values in (older, newer):
        if values:
            values["rope_type"] = values.get("rope_type") or values.get("type") or "default"
    for name in sorted(older.keys() & newer.keys()):
        if older[name] != newer[name]:
            one, other = excerpt(older[name]), excerpt(newer[name])
            raise UserError(
                f"{excerpt(name)} is {one} in rope_scaling and {other} in "
                "rope_parameters; remove one"
            )
    if raw.get("rope_theta") not in (None, rope["rope_theta"]):
        raise UserError(
            f"rope_theta is {excerpt(raw['rope_theta'])} in config.json and "
            f"{rope['rope_theta']} in its rotary parameters; remove one"
        )


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number, and no truth value."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
