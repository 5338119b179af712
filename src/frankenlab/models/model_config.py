"""A model's config.json, checked to mean what transformers computes and what the engines run."""

import importlib.util
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from frankenlab.io.errors import UserError, excerpt
from frankenlab.models.files import ALLOWED, CONFIG, QUANTIZATION, declares_exl2, read_json
from frankenlab.models.shape import ModelShapes

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
    raw = read_json(directory / CONFIG)
    _check_raw(directory, raw)
    # Only transformers knows the defaults of the values that a config.json leaves out.
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(directory)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{directory}: transformers does not read config.json ({reason})") from None
    _check_numbers(directory, config)
    _check_rotary(directory, raw, config)
    if (window := attention_window(directory, raw, config)) is not None:
        raise UserError(f"{directory}: attention slides over a window of {window}; {ALLOWED}")
    return raw, config


def attention_window(directory: Path, raw: Mapping[str, Any], config: Any) -> int | None:
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
                f"{directory}: layer_types has {len(types)} entries for "
                f"{config.num_hidden_layers} layers"
            )
        if strange := sorted({*types} - allowed):
            raise UserError(f"{directory}: layer_types has {strange[0]!r}; {ALLOWED}")
        slides = "sliding_attention" in types
        # transformers takes a Mistral with layer_types for a Ministral, which makes a mask always.
        if window is None and (slides or raw["model_type"] == "mistral"):
            raise UserError(
                f"{directory}: config.json has layer_types but no sliding_window, with which "
                "transformers fails; remove layer_types where every layer attends fully"
            )
        if not slides:
            return None
    return window if window is not None and window < config.max_position_embeddings else None


def head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _check_raw(directory: Path, raw: Mapping[str, Any]) -> None:
    found = raw.get("model_type")
    usual = ARCHITECTURES.get(found) if isinstance(found, str) else None
    architectures = raw.get("architectures") or [usual]
    if usual is None or architectures != [usual]:
        listed = isinstance(architectures, list) and architectures != [None]
        named = ", ".join(map(str, architectures)) if listed else found
        raise UserError(f"{directory}: the architecture is {excerpt(named)}; {ALLOWED}")
    declared = raw.get(QUANTIZATION)
    if declared is not None and not declares_exl2(raw):
        method = declared.get("quant_method") if isinstance(declared, Mapping) else None
        raise UserError(
            f"{directory}: the weights are quantized ({method or 'some method'}); {ALLOWED}"
        )
    for key in ELSEWHERE:
        if raw.get(key) is not None:
            raise UserError(
                f"{directory}: config.json has {key}, by which transformers would take other files "
                f"or sizes; {ALLOWED}"
            )
    if raw.get("is_causal", True) is not True:
        raise UserError(f"{directory}: is_causal is {excerpt(raw['is_causal'])}, allowed is true")
    adapter = directory / "adapter_config.json"
    if adapter.is_file() and importlib.util.find_spec("peft"):
        raise UserError(
            f"{directory}: it has {adapter.name}, and transformers with peft would change the "
            "weights by that adapter; merge it or take it away"
        )
    try:
        ModelShapes.from_config(raw)
    except UserError as error:
        raise UserError(f"{directory}: {error}") from None


def _check_numbers(directory: Path, config: Any) -> None:
    factor = (config.rope_parameters or {}).get("partial_rotary_factor")
    if factor is None:
        factor = getattr(config, "partial_rotary_factor", None)
    settings = {"hidden_act": (config.hidden_act, "silu")}
    settings["partial_rotary_factor"] = (1.0 if factor is None else factor, 1.0)
    for name, (value, allowed) in settings.items():
        if value != allowed:
            raise UserError(f"{directory}: {name} is {excerpt(value)}, allowed is {allowed}")
    # Some configs take null for the usual value, others keep it (Qwen2's, or Mistral's with
    # layer_types).
    dim = head_dim(config)
    if getattr(config, "head_dim", dim) is None:
        raise UserError(
            f"{directory}: head_dim is null, with which transformers fails; write {dim}"
        )
    if dim % 2:
        raise UserError(f"{directory}: head_dim is {dim}, allowed are even numbers")
    padding = config.pad_token_id
    if padding is not None and not -config.vocab_size <= padding < config.vocab_size:
        raise UserError(
            f"{directory}: pad_token_id is {excerpt(padding)}, which transformers refuses for "
            f"{config.vocab_size} embeddings; remove it"
        )
    positions, epsilon = config.max_position_embeddings, config.rms_norm_eps
    if not isinstance(positions, int) or not 0 < positions <= MOST_POSITIONS:
        raise UserError(
            f"{directory}: max_position_embeddings is {excerpt(positions)}, expected 1 to "
            f"{MOST_POSITIONS}"
        )
    if not is_number(epsilon) or epsilon < 0:
        raise UserError(
            f"{directory}: rms_norm_eps is {excerpt(epsilon)}, expected a number from 0"
        )


def _check_rotary(directory: Path, raw: Mapping[str, Any], config: Any) -> None:
    """Check the rotary parameters. transformers 4 and exllamav2 look for them in other keys than
    transformers 5: where several are there, they must say the same."""
    rope = config.rope_parameters
    scalings = [raw.get(key) or {} for key in ("rope_scaling", "rope_parameters")]
    if not all(isinstance(values, Mapping) for values in (rope, *scalings)):
        raise UserError(f"{directory}: its rotary parameters are no JSON object")
    for name, value in {"rope_theta": None, "factor": 1, **rope}.items():
        positive = is_number(value) and value > 0
        if name in ("rope_theta", "factor") and not positive:
            raise UserError(f"{directory}: {name} is {excerpt(value)}, expected a number above 0")
    for name, value in rope.items():
        numbers = value if isinstance(value, list) else [value]
        if name not in ("rope_type", "type") and not all(
            number is None or isinstance(number, bool) or is_number(number) for number in numbers
        ):
            raise UserError(f"{directory}: {excerpt(name)} of the rotary parameters is no number")
    older, newer = map(dict, scalings)
    for values in (older, newer):
        if values:
            values["rope_type"] = values.get("rope_type") or values.get("type") or "default"
    for name in sorted(older.keys() & newer.keys()):
        if older[name] != newer[name]:
            one, other = excerpt(older[name]), excerpt(newer[name])
            raise UserError(
                f"{directory}: {excerpt(name)} is {one} in rope_scaling and {other} in "
                "rope_parameters; remove one"
            )
    if raw.get("rope_theta") not in (None, rope["rope_theta"]):
        raise UserError(
            f"{directory}: rope_theta is {excerpt(raw['rope_theta'])} in config.json and "
            f"{rope['rope_theta']} in its rotary parameters; remove one"
        )


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no truth value."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
