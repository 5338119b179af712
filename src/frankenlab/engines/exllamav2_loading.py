"""Loads an EXL2 directory into exllamav2, after a check that exllamav2 runs it as it is meant.

Written for exllamav2 0.3.2, which takes in silence what it does not know.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from frankenlab.engines.batches import LENGTH_MULTIPLE
from frankenlab.io.errors import UserError
from frankenlab.io.files import write_json
from frankenlab.models.directory import check_llama_shaped
from frankenlab.models.exl2.format import ALIGNMENT
from frankenlab.models.exl2.reading import Exl2Directory, is_exl2
from frankenlab.models.model_config import ARCHITECTURES

INSTALL = "pip install 'frankenlab[exl2]'"

# Those that exllamav2 computes as transformers does. It ignores "dynamic", knows only half of
# yarn's parameters, and its longrope depends on the length of the context that it is given.
ROPE_TYPES = ("default", "linear", "llama3")

# Of config.json, what exllamav2 would read otherwise than transformers: sliding windows are
# checked to be wider than the context before, rotary parameters are written anew.
LEFT_OUT = ("sliding_window", "rope_parameters", "rope_scaling", "rope_theta")


def load(directory: Path, device: str, max_tokens: int) -> Any:
    """The model as exllamav2 has it, an `exllamav2.ExLlamaV2`.

    Args:
        device: "cuda" or "cuda:N".
        max_tokens: rows times length of the largest batch, for which it allocates its buffers.

    Raises:
        UserError: exllamav2 is not there or does not work here, or does not run such a model.
    """
    exl2 = _checked(directory)
    library = _library()
    with _staged(exl2) as stage:
        try:
            config = library.ExLlamaV2Config(str(stage))
            config.max_input_len = max_tokens
            # Its rotary tables end there, and rows are padded beyond the context.
            config.max_seq_len += -config.max_seq_len % LENGTH_MULTIPLE
            # Without flash-attn and xformers it would take torch's attention without any mask.
            config.no_sdpa = True
            model = library.ExLlamaV2(config)
            # Nothing on the devices before the one asked for, all of the model there.
            split = [0.0] * int(device.partition(":")[2] or 0) + [99999.0]
            model.load(split)
            # It loads on one stream and runs on another.
            torch.cuda.synchronize()
        except torch.OutOfMemoryError as error:
            raise UserError(f"{directory}: it does not fit into the memory of {device}") from error
        except (AssertionError, ValueError) as error:
            raise UserError(f"{directory}: exllamav2 does not load it ({error})") from error
    return model


def as_exllamav2_reads(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json with the rotary parameters in transformers 4's keys, which are the only ones
    that exllamav2 knows, and nothing that it would misread."""
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
    """The directory, if exllamav2 runs it as the torch engine does."""
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
    for name, (outputs, _) in exl2.shape.linears.items():
        if name.endswith(("q_proj", "k_proj", "v_proj")) and outputs % ALIGNMENT:
            raise UserError(
                f"{directory}: tensor '{name}' has {outputs} outputs, and exllamav2 takes only "
                f"multiples of {ALIGNMENT}; engine torch runs it"
            )
    if (kind := rope_type(exl2.config)) not in ROPE_TYPES:
        raise UserError(
            f'{directory}: rope type "{kind}" is not computed by exllamav2 as the model needs it; '
            f"{', '.join(ROPE_TYPES)} are"
        )
    return exl2


def rope_type(config: Mapping[str, Any]) -> str:
    """The RoPE variant of a config.json of transformers 4 or 5."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return rope.get("rope_type") or rope.get("type") or "default"


def _library() -> ModuleType:
    """exllamav2; its first import compiles its extension, which takes minutes."""
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
    """A directory that holds what exllamav2 may see: it opens every safetensors file there is."""
    with tempfile.TemporaryDirectory(prefix="frankenlab-") as folder:
        stage = Path(folder)
        for path in exl2.weight_files:
            (stage / path.name).symlink_to(path.resolve())
        write_json(stage / "config.json", as_exllamav2_reads(exl2.config))
        yield stage
