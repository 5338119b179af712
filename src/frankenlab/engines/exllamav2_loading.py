"""Loading an EXL2 directory into exllamav2, once it is known that exllamav2 runs it correctly.

Written for exllamav2 0.3.2, which silently ignores what it does not know.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from frankenlab.io.errors import UserError
from frankenlab.io.files import write_json
from frankenlab.models.directory import check_llama_shaped
from frankenlab.models.exl2.declaration import is_exl2
from frankenlab.models.exl2.limits import check_outputs
from frankenlab.models.exl2.reading import Exl2Directory
from frankenlab.models.model_config import ARCHITECTURES
from frankenlab.models.split import cards_of_layers

INSTALL = "pip install 'frankenlab[exl2]'"

# The RoPE variants that exllamav2 computes as transformers does. It ignores "dynamic", knows only
# half of yarn's parameters, and its longrope depends on the context length that it is given.
ROPE_TYPES = ("default", "linear", "llama3")

# Keys of config.json that exllamav2 reads otherwise than transformers. That sliding windows are
# wider than the context is checked before; rotary parameters are written anew.
LEFT_OUT = ("sliding_window", "rope_parameters", "rope_scaling", "rope_theta")


def load(directory: Path, device: str, max_tokens: int, gpus: int = 1) -> Any:
    """Return the model as an `exllamav2.ExLlamaV2`.

    Args:
        device: "cuda" or "cuda:N".
        gpus: over how many GPUs the layers are split, from this device on.
        max_tokens: most tokens that its own modules take at a time; buffers are as large.

    Raises:
        UserError: exllamav2 is absent, does not work here, or does not run such a model.
    """
    exl2 = _checked(directory)
    library = _library()
    with _staged(exl2) as stage:
        try:
            config = library.ExLlamaV2Config(str(stage))
            config.max_input_len = max_tokens
            # Without flash-attn and xformers it would take torch's attention without any mask. With
            # either it takes that one.
            config.no_sdpa = True
            model = library.ExLlamaV2(config)
            # Nothing goes to the devices before the one asked for, the whole model to that one.
            first = int(device.partition(":")[2] or 0)
            whole = [0.0] * first + [99999.0]
            if gpus > 1:
                model.load(whole, lazy=True)
                _spread(model, first, gpus)
            model.load(whole)
            # It loads on one stream and runs on another.
            for index in range(first, first + gpus):
                torch.cuda.synchronize(index)
        except torch.OutOfMemoryError as error:
            raise UserError(f"{directory}: it does not fit into the memory of {device}") from error
        except (AssertionError, ValueError) as error:
            raise UserError(f"{directory}: exllamav2 does not load it ({error})") from error
    return model


def _spread(model: Any, first: int, gpus: int) -> None:
    """Have a model that is to be loaded on one GPU loaded on several, by our rule: exllamav2's own
    takes gigabytes of each and fills one GPU after the other.

    This does what its `set_device_map` (model.py) does, which it calls once more when it loads.
    """
    from exllamav2.device import ExLlamaV2DeviceContext

    _, *layers, norm, head = model.modules
    pairs = list(zip(layers[::2], layers[1::2], strict=True))
    sizes = [sum(module.weight_footprint() for module in pair) for pair in pairs]
    # Scoring has the embeddings and the head as float16 beside what is quantized.
    floats = 2 * model.config.vocab_size * model.config.hidden_size
    after = norm.weight_footprint() + head.weight_footprint() + floats
    cards = cards_of_layers(sizes, floats, after, gpus)
    places = [card for card in cards for _ in range(2)] + [gpus - 1] * 2
    scratch = [0] * (first + gpus)
    for module, card in zip(model.modules[1:], places, strict=True):
        module.set_device_idx(first + card)
        scratch[first + card] = max(scratch[first + card], module.scratch_space_fixed())
    model.device_context = [
        ExLlamaV2DeviceContext(model, index, size) if size else None
        for index, size in enumerate(scratch)
    ]
    model.cache_map = {}
    model.set_cache_map()
    model.set_device_map = lambda allocation: allocation


def as_exllamav2_reads(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config.json without anything that exllamav2 would misread.

    Rotary parameters stand in transformers 4's keys, the only ones that exllamav2 knows.
    """
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    theta = rope.pop("rope_theta", None) or config.get("rope_theta")
    kind = rope_type(config)
    kept = {k: v for k, v in config.items() if v is not None and k not in LEFT_OUT}
    kept["architectures"] = [ARCHITECTURES[config["model_type"]]]
    if theta is not None:
        kept["rope_theta"] = theta
    if kind != "default":
        # It refuses to see both of the type's names.
        rope = {k: v for k, v in rope.items() if k not in ("type", "rope_type")}
        kept["rope_scaling"] = {**rope, "rope_type": kind}
    return kept


def _checked(directory: Path) -> Exl2Directory:
    """Return the directory, if exllamav2 runs it as the torch engine does.

    Raises:
        UserError: it does not.
    """
    if not is_exl2(directory):
        raise UserError(
            f"{directory}: its weights are not EXL2, and engine exllamav2 runs nothing else here; "
            "engine torch runs it"
        )
    check_llama_shaped(directory)
    exl2 = Exl2Directory(directory)
    if exl2.config.get("mlp_bias"):
        raise UserError(
            f"{directory}: mlp_bias is true, and exllamav2 mixes up the biases of an MLP whose "
            "inputs are sorted; engine torch runs it"
        )
    try:
        check_outputs(exl2.shape)
    except UserError as error:
        raise UserError(f"{directory}: {error}; engine torch runs it") from error
    if (kind := rope_type(exl2.config)) not in ROPE_TYPES:
        raise UserError(
            f'{directory}: rope type "{kind}" is not computed by exllamav2 as the model needs it; '
            f"{', '.join(ROPE_TYPES)} are"
        )
    return exl2


def rope_type(config: Mapping[str, Any]) -> str:
    """Return the RoPE variant of a config.json of transformers 4 or 5."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return rope.get("rope_type") or rope.get("type") or "default"


def _library() -> ModuleType:
    """Import exllamav2. The first import compiles its extension, which takes minutes."""
    threads = torch.get_num_threads()
    try:
        import exllamav2
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed; {INSTALL} installs it") from error
    except (ImportError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"exllamav2's extension does not compile or load here ({reason}); it needs CUDA's "
            "toolkit (nvcc) in the version that torch was built with"
        ) from error
    finally:
        # The import sets one thread for the whole process.
        torch.set_num_threads(threads)
    return exllamav2


@contextmanager
def _staged(exl2: Exl2Directory) -> Iterator[Path]:
    """Yield a directory of what exllamav2 may see, for it opens every safetensors file there is."""
    with tempfile.TemporaryDirectory(prefix="frankenlab-") as folder:
        stage = Path(folder)
        for path in exl2.weight_files:
            (stage / path.name).symlink_to(path.resolve())
        write_json(stage / "config.json", as_exllamav2_reads(exl2.config))
        yield stage
