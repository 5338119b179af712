"""Models on disk: checked to be of the one shape that is worked with.

A model is a Hugging Face directory that `AutoModelForCausalLM` and `AutoTokenizer` load without
special arguments (float weights in safetensors, decoder layers as in LLaMA), or an EXL2 directory
made of one.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from frankenlab.directories import NEVER, complete_manifest, is_safe_name
from frankenlab.errors import UserError
from frankenlab.files import content_hash

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt"),
)
# The class that is just what tokenizer.json says, as transformers 4 and 5 call it.
GENERIC_TOKENIZERS = ("PreTrainedTokenizerFast", "TokenizersBackend")
# Files of a model that change nothing about what it computes from a text.
WITHOUT_EFFECT = ("LICENSE", "NOTICE", "generation_config.json", "chat_template.jinja")

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
}
ALLOWED = (
    "allowed: a Llama, Mistral or Qwen2 model with full attention and unquantized or EXL2 weights "
    "in safetensors"
)
EXL2 = "EXL2"
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", EXL2: "exl2"}


@dataclass(frozen=True)
class ModelInfo:
    """The shape of a model: sizes in elements, `parameters_*` as counts.

    `parameters_mlp` is the MLP of one layer with its norm; `parameters_head` is 0 where the head
    shares the embeddings' weights (`tied_embeddings`); `dtype` is how most weights are stored,
    "exl2" where they are quantized; `rope` are transformers' `rope_parameters`.
    """

    architecture: str
    n_layers: int
    hidden_size: int
    intermediate_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    tied_embeddings: bool
    norm_eps: float
    rope: Mapping[str, Any]
    parameters_per_layer: int
    parameters_mlp: int
    parameters_embeddings: int
    parameters_head: int
    dtype: str

    @property
    def parameters(self) -> int:
        """All distinct parameters, the final norm's too."""
        layers = self.n_layers * self.parameters_per_layer
        return self.parameters_embeddings + layers + self.hidden_size + self.parameters_head


def check_llama_shaped(directory: str | os.PathLike, n_layers: int | None = None) -> None:
    """Checks a model directory by its config.json and the headers of its safetensors; an EXL2
    directory as `Exl2Directory` does.

    Every tensor that transformers would build must be there in the right shape, and no other:
    so an added norm, a router of experts or a wrong number of layers is found.

    Raises:
        UserError: it is not LLaMA-shaped, or not `n_layers` deep; says what is allowed.
    """
    config, _ = _inspect(Path(directory))
    check_depth(config.num_hidden_layers, n_layers, str(directory))


def model_info(directory: str | os.PathLike) -> ModelInfo:
    """The shape of a model: what the manifest of a whole directory says, which is there at once,
    or else what is read from the model as `check_llama_shaped` does.

    Raises:
        UserError: as `check_llama_shaped`.
    """
    manifest = complete_manifest(directory) or {}
    if "shape" in manifest:
        return manifest_info(manifest, directory)
    config, headers = _inspect(Path(directory))
    sizes = {name: prod(shape) for name, (shape, _) in headers.items()}
    dtypes = Counter()
    for name, (_, dtype) in headers.items():
        dtypes[dtype] += sizes[name]
    layer = sum(size for name, size in sizes.items() if name.startswith("model.layers.0."))
    mlp_parts = ("model.layers.0.mlp.", "model.layers.0.post_attention_layernorm.")
    mlp = sum(size for name, size in sizes.items() if name.startswith(mlp_parts))
    # Quantized, the head of tied embeddings has weights of its own.
    own_head = EXL2 in dtypes and "lm_head.weight" in sizes
    tied = config.tie_word_embeddings and not own_head
    return ModelInfo(
        architecture=config.model_type,
        n_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_key_value_heads,
        head_dim=_head_dim(config),
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        tied_embeddings=tied,
        norm_eps=config.rms_norm_eps,
        rope=dict(config.rope_parameters or {}),
        parameters_per_layer=layer,
        parameters_mlp=mlp,
        parameters_embeddings=sizes["model.embed_tokens.weight"],
        parameters_head=0 if tied else sizes["lm_head.weight"],
        dtype=DTYPES[dtypes.most_common(1)[0][0]],
    )


def manifest_info(manifest: Mapping[str, Any], where: str | os.PathLike) -> ModelInfo:
    """The shape of a model as its manifest has it: `model_info`, without reading the model again.

    Raises:
        UserError: the manifest was written before it had one.
    """
    try:
        return ModelInfo(**manifest["shape"])
    except (KeyError, TypeError):
        raise UserError(
            f"{where}: no shape of the model in it; `frankenlab fetch --config ...` makes it again"
        ) from None


def load_tokenizer(directory: str | os.PathLike) -> Any:
    """Returns the tokenizer of a model directory: the one of `AutoTokenizer`, as lm-eval takes it.

    Raises:
        UserError: there is none that loads without running code from the directory.
    """
    import transformers

    # Absolute, because AutoTokenizer makes exceptions of models by how their paths begin.
    folder = Path(directory).absolute()
    try:
        # Without a tokenizer transformers makes an empty one for some architectures.
        if not any((folder / name).is_file() for name in TOKENIZER_FILES):
            raise FileNotFoundError("no tokenizer files")
        kind = getattr(transformers, _tokenizer_class(folder))
        tokenizer = kind.from_pretrained(folder, trust_remote_code=False)
        # Some settings of the wrong type are only noticed when a text is encoded.
        tokenizer.encode("A text.")
        return tokenizer
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{directory}: its tokenizer cannot be loaded ({reason})") from error


def _tokenizer_class(directory: Path) -> str:
    """Returns the class in which AutoTokenizer ends, where that can be told without it.

    On its way AutoTokenizer imports the model's configuration, which takes seconds.
    """
    files = (directory / name for name in ("config.json", "tokenizer_config.json"))
    model, settings = (read_json(file) if file.is_file() else {} for file in files)
    if settings.get("fast_tokenizer_files"):
        raise ValueError("fast_tokenizer_files names files that a copy of the model would not have")
    if "auto_map" in settings or (directory / "tekken.json").exists():
        return "AutoTokenizer"
    if model.get("model_type") == "qwen2":
        return "Qwen2Tokenizer"  # whatever the settings name
    generic = settings.get("tokenizer_class") in GENERIC_TOKENIZERS
    known = generic and model.get("model_type") in ("llama", "mistral")
    return "PreTrainedTokenizerFast" if known else "AutoTokenizer"


def weights_hash(manifest: Mapping[str, Any]) -> str:
    """Identity of the model that a manifest describes: of all files that decide what it computes
    from a text (weights, config.json, tokenizer), not of where they came from."""
    files = manifest["files"].items()
    return content_hash({n: f["sha256"] for n, f in files if not n.startswith(WITHOUT_EFFECT)})


def check_depth(found: int, declared: int | None, where: str) -> None:
    if declared is not None and found != declared:
        raise UserError(
            f"{where}: the model has {found} layers, the configuration declares n_layers: "
            f"{declared}; write n_layers: {found}"
        )


def _inspect(directory: Path) -> tuple[Any, dict[str, tuple[list[int], str]]]:
    """The transformers config and the headers (name → shape, dtype) of a model that passes."""
    raw = read_json(directory / "config.json")
    found = raw.get("model_type")
    architectures = raw.get("architectures") or [ARCHITECTURES.get(found)]
    if found not in ARCHITECTURES or architectures != [ARCHITECTURES[found]]:
        named = ", ".join(map(str, architectures)) if architectures != [None] else found
        raise UserError(f"{directory}: the architecture is {named}; {ALLOWED}")
    # Imported here: torch takes seconds, and who reads a manifest's shape does without.
    from frankenlab.exl2.reading import is_exl2

    quantized = is_exl2(directory)
    if raw.get("quantization_config") and not quantized:
        method = raw["quantization_config"].get("quant_method", "some method")
        raise UserError(f"{directory}: the weights are quantized ({method}); {ALLOWED}")
    files = [] if quantized else _weight_files(directory)

    # Only transformers knows the defaults of the values that a config.json leaves out.
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(directory)
    for name, allowed in (("hidden_act", "silu"), ("partial_rotary_factor", 1.0)):
        # transformers 5 keeps the share of rotated dimensions among the rotary parameters.
        value = (config.rope_parameters or {}).get(name, getattr(config, name, allowed))
        if value != allowed:
            raise UserError(f"{directory}: {name} is {value}, allowed is {allowed}")
    window = getattr(config, "sliding_window", None) if found != "llama" else None
    if window and window < config.max_position_embeddings:
        raise UserError(f"{directory}: attention slides over a window of {window}; {ALLOWED}")
    if quantized:
        return config, _exl2_headers(directory)
    headers = _read_headers(files)
    _check_tensors(directory, config, headers)
    return config, headers


def _exl2_headers(directory: Path) -> dict[str, tuple[list[int], str]]:
    """The tensors that the directory stands for, "EXL2" as the dtype of the quantized ones."""
    from frankenlab.exl2.reading import Exl2Directory

    exl2 = Exl2Directory(directory)
    shapes = {name: list(shape) for name, shape in exl2.shapes.others.items()}
    for name, (outputs, inputs) in exl2.shapes.linears.items():
        shapes |= {f"{name}.weight": [outputs, inputs], f"{name}.bias": [outputs]}
    weights = {f"{name}.weight" for name in exl2.linears}
    return {name: (shapes[name], EXL2 if name in weights else "F16") for name in exl2.names}


def _weight_files(directory: Path) -> list[Path]:
    """The safetensors files that transformers would load."""
    index = directory / "model.safetensors.index.json"
    if (directory / "model.safetensors").is_file():
        names = ["model.safetensors"]
    elif index.is_file():
        names = sorted(set(read_json(index).get("weight_map", {}).values()))
    else:
        names = []
    if not names:
        pickled = sorted(p.name for p in directory.glob("*") if NEVER.search(p.name))
        reason = f", only {pickled[0]} (pickled weights are never loaded)" if pickled else ""
        raise UserError(f"{directory}: it has no model.safetensors{reason}; {ALLOWED}")
    for name in names:
        if not is_safe_name(name) or not (directory / name).is_file():
            raise UserError(f"{directory}: {index.name} names '{name}', which is not there")
    return [directory / name for name in names]


def _read_headers(files: list[Path]) -> dict[str, tuple[list[int], str]]:
    from safetensors import SafetensorError, safe_open

    headers = {}
    for path in files:
        try:
            with safe_open(path, "np") as opened:
                for name in opened.keys():  # noqa: SIM118 (it is not a mapping)
                    tensor = opened.get_slice(name)
                    headers[name] = (tensor.get_shape(), tensor.get_dtype())
        except SafetensorError as error:
            raise UserError(f"{path}: damaged or not safetensors ({error})") from error
    return headers


def _check_tensors(directory: Path, config: Any, headers: dict[str, tuple[list[int], str]]) -> None:
    expected = _expected_shapes(config)
    required = set(expected) - ({"lm_head.weight"} if config.tie_word_embeddings else set())
    if missing := sorted(required - set(headers)):
        raise UserError(f"{directory}: tensor '{missing[0]}' is missing; {ALLOWED}")
    # Old checkpoints carry the rotary frequencies, which transformers computes.
    extra = sorted(n for n in set(headers) - set(expected) if not n.endswith("rotary_emb.inv_freq"))
    if extra:
        raise UserError(
            f"{directory}: tensor '{extra[0]}' does not belong to a {config.model_type} model of "
            f"{config.num_hidden_layers} layers with this config.json; {ALLOWED}"
        )
    for name in expected.keys() & headers.keys():
        shape, dtype = headers[name]
        if shape != expected[name]:
            raise UserError(f"{directory}: tensor '{name}' is {shape}, expected {expected[name]}")
        if dtype not in DTYPES:
            raise UserError(f"{directory}: tensor '{name}' is stored as {dtype}; {ALLOWED}")


def _expected_shapes(config: Any) -> dict[str, list[int]]:
    """Every tensor that transformers builds for the config, with its shape."""
    hidden, inner, dim = config.hidden_size, config.intermediate_size, _head_dim(config)
    queries, keys = config.num_attention_heads * dim, config.num_key_value_heads * dim
    linears = {
        "self_attn.q_proj": [queries, hidden],
        "self_attn.k_proj": [keys, hidden],
        "self_attn.v_proj": [keys, hidden],
        "self_attn.o_proj": [hidden, queries],
        "mlp.gate_proj": [inner, hidden],
        "mlp.up_proj": [inner, hidden],
        "mlp.down_proj": [hidden, inner],
    }
    biased = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
    if config.model_type == "llama":
        biased = [*biased, "self_attn.o_proj"] if config.attention_bias else []
        biased += [name for name in linears if name.startswith("mlp.") and config.mlp_bias]
    elif config.model_type == "mistral":
        biased = []
    layer = {f"{name}.weight": shape for name, shape in linears.items()}
    layer |= {f"{name}.bias": linears[name][:1] for name in biased}
    layer |= {
        f"{name}.weight": [hidden] for name in ("input_layernorm", "post_attention_layernorm")
    }
    shapes = {
        "model.embed_tokens.weight": [config.vocab_size, hidden],
        "model.norm.weight": [hidden],
        "lm_head.weight": [config.vocab_size, hidden],
    }
    for i in range(config.num_hidden_layers):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    return shapes


def _head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path.parent}: it has no {path.name}; {ALLOWED}") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: it must hold a JSON object")
    return value
