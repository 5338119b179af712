"""Models on disk: checked to be of the one shape that is worked with.

A model is a Hugging Face directory that `AutoModelForCausalLM` and `AutoTokenizer` load without
special arguments (float weights in safetensors, decoder layers as in LLaMA), or an EXL2 directory
made of one.
"""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeInt, PositiveInt

from frankenlab.io.directories import complete_manifest
from frankenlab.io.errors import UserError
from frankenlab.io.files import content_hash
from frankenlab.io.records import is_record
from frankenlab.models.files import ALLOWED, TOKENIZER_FILES, read_json
from frankenlab.models.model_config import ARCHITECTURES, head_dim, load_config
from frankenlab.models.shape import ModelShapes

if TYPE_CHECKING:
    from frankenlab.models.exl2.reading import Exl2Directory
    from frankenlab.models.tensor_files import TensorFiles

__all__ = ["ALLOWED", "ARCHITECTURES", "TOKENIZER_FILES", "read_json"]

# The class that is just what tokenizer.json says, as transformers 4 and 5 call it.
GENERIC_TOKENIZERS = ("PreTrainedTokenizerFast", "TokenizersBackend")
# Files of a model that change nothing about what it computes from a text.
WITHOUT_EFFECT = ("LICENSE", "NOTICE", "generation_config.json", "chat_template.jinja")

HEAD_WEIGHT, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"
# Tensors of old checkpoints that nobody reads.
IGNORED = "rotary_emb.inv_freq"
EXL2 = "EXL2"
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", EXL2: "exl2"}

# Name of a tensor → its shape and dtype.
Headers = dict[str, tuple[tuple[int, ...], str]]


@dataclass(frozen=True)
class ModelInfo:
    """The shape of a model: sizes in elements, `parameters_*` as counts.

    `parameters_mlp` is the MLP of one layer with its norm; `parameters_head` is 0 where the head
    shares the embeddings' weights (`tied_embeddings`); `dtype` is how most weights are stored,
    "exl2" where they are quantized; `rope` are transformers' `rope_parameters`.
    """

    architecture: str
    n_layers: PositiveInt
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    n_heads: PositiveInt
    n_kv_heads: PositiveInt
    head_dim: PositiveInt
    vocab_size: PositiveInt
    max_position_embeddings: PositiveInt
    tied_embeddings: bool
    norm_eps: float
    rope: Mapping[str, Any]
    parameters_per_layer: PositiveInt
    parameters_mlp: PositiveInt
    parameters_embeddings: PositiveInt
    parameters_head: NonNegativeInt
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
    _, config, _ = _inspect(Path(directory))
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
    raw, config, headers = _inspect(Path(directory))
    sizes = {name: prod(shape) for name, (shape, _) in headers.items()}
    dtypes = Counter()
    for name, (_, dtype) in headers.items():
        dtypes[dtype] += sizes[name]
    layer = sum(size for name, size in sizes.items() if name.startswith("model.layers.0."))
    mlp_parts = ("model.layers.0.mlp.", "model.layers.0.post_attention_layernorm.")
    mlp = sum(size for name, size in sizes.items() if name.startswith(mlp_parts))
    # Quantized, the head of tied embeddings has weights of its own.
    own_head = EXL2 in dtypes and HEAD_WEIGHT in sizes
    tied = config.tie_word_embeddings and not own_head
    return ModelInfo(
        architecture=raw["model_type"],
        n_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_key_value_heads,
        head_dim=head_dim(config),
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        tied_embeddings=tied,
        norm_eps=config.rms_norm_eps,
        rope=dict(config.rope_parameters or {}),
        parameters_per_layer=layer,
        parameters_mlp=mlp,
        parameters_embeddings=sizes[EMBEDDINGS],
        parameters_head=0 if tied else sizes[HEAD_WEIGHT],
        dtype=DTYPES[dtypes.most_common(1)[0][0]],
    )


def manifest_info(manifest: Mapping[str, Any], where: str | os.PathLike) -> ModelInfo:
    """The shape of a model as its manifest has it: `model_info`, without reading the model again.

    Raises:
        UserError: the manifest was written before it had one.
    """
    shape = manifest.get("shape")
    if not is_record(shape, ModelInfo) or shape.keys() != {f.name for f in fields(ModelInfo)}:
        raise UserError(
            f"{where}: no shape of the model in it; `frankenlab fetch --config ...` makes it again"
        )
    return ModelInfo(**shape)


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


def _inspect(directory: Path) -> tuple[dict[str, Any], Any, Headers]:
    """Return config.json, as it is and as transformers reads it, and the headers of the tensors
    that transformers builds, of a model that passes."""
    raw, config = load_config(directory)
    # Imported here: torch takes seconds, and who reads a manifest's shape does without.
    from frankenlab.models.exl2.reading import Exl2Directory, is_exl2
    from frankenlab.models.tensor_files import TensorFiles

    if is_exl2(directory):
        return raw, config, _exl2_headers(Exl2Directory(directory))
    files = TensorFiles.of_model(directory)
    _check_tensors(directory, raw, files)
    names = [name for name in files.names if not name.endswith(IGNORED)]
    return raw, config, {name: (files.shape(name), files.dtype(name)) for name in names}


def _exl2_headers(exl2: "Exl2Directory") -> Headers:
    """Return the tensors that the directory stands for, with "EXL2" as the dtype of the quantized
    ones."""
    shapes = exl2.shapes.plain()
    weights = {f"{name}.weight" for name in exl2.linears}
    return {name: (shapes[name], EXL2 if name in weights else "F16") for name in exl2.names}


def _check_tensors(directory: Path, raw: Mapping[str, Any], files: "TensorFiles") -> None:
    shapes = ModelShapes.from_config(raw)
    expected = shapes.plain()
    required = expected.keys() - ({HEAD_WEIGHT} if shapes.tied else set())
    if missing := sorted(required - files.names):
        raise UserError(f"{directory}: tensor '{missing[0]}' is missing; {ALLOWED}")
    # Old checkpoints carry the rotary frequencies, which transformers computes.
    extra = sorted(n for n in files.names - expected.keys() if not n.endswith(IGNORED))
    if extra:
        raise UserError(
            f"{directory}: tensor '{extra[0]}' does not belong to a {raw['model_type']} model of "
            f"{shapes.n_layers} layers with this config.json; {ALLOWED}"
        )
    for name in expected.keys() & files.names:
        shape, dtype = files.shape(name), files.dtype(name)
        if shape != expected[name]:
            found, right = list(shape), list(expected[name])
            raise UserError(f"{directory}: tensor '{name}' is {found}, expected {right}")
        if dtype not in DTYPES:
            raise UserError(f"{directory}: tensor '{name}' is stored as {dtype}; {ALLOWED}")
    if shapes.tied and HEAD_WEIGHT in files and not files.equal(HEAD_WEIGHT, EMBEDDINGS):
        raise UserError(
            f"{directory}: tensors '{HEAD_WEIGHT}' and '{EMBEDDINGS}' differ, but config.json has "
            "tie_word_embeddings: true, so that programs take one or the other; set it to false "
            "or remove one"
        )
