"""The reference quantizer: a model directory -> an EXL2 directory, in plain torch.

Two passes over the layers. `measure` finds the error of every option of every linear layer, with
the outputs of the layers before unquantized; it serves all bitrates. `quantize` chooses an option
for each, and quantizes in the order in which the model runs, every layer on what the quantized
layers before it give. Both save each layer's results and the hidden states after it, and go on
from there when they are killed.
"""

import logging
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from frankenlab.io.directories import complete_manifest, make_directory
from frankenlab.io.errors import UserError
from frankenlab.io.files import content_hash, sha256_file, write_json
from frankenlab.io.fingerprints import code_fingerprint, library_versions
from frankenlab.io.progress import Progress
from frankenlab.io.records import is_record
from frankenlab.models.exl2.declaration import Declaration
from frankenlab.models.exl2.format import dequantize, pack
from frankenlab.models.exl2.options import (
    HEAD_OPTIONS,
    OPTIONS,
    Option,
    attainable_bits,
    check_shapes,
)
from frankenlab.models.exl2.reading import Exl2Directory
from frankenlab.models.exl2.writing import stored_tensors, write_exl2
from frankenlab.models.files import TOKENIZER_FILES, identity_files, read_json
from frankenlab.models.inspect import check_llama_shaped, model_info, weights_hash
from frankenlab.models.shape import HEAD, ModelShapes
from frankenlab.quantize.allocation import allocate
from frankenlab.quantize.gptq import (
    measure_errors,
    prepare_inputs,
    quantize_linears,
    sample_outputs,
)
from frankenlab.quantize.layerwise import LayerwiseModel, Shared
from frankenlab.quantize.tensor_parts import is_whole_part, load_part, save_part

logger = logging.getLogger(__name__)

METHODS = ("gptq", "rtn")
# What decides the numbers; the rest moves them around.
NUMERIC_CODE = (
    "frankenlab.quantize.allocation",
    "frankenlab.quantize.gptq",
    "frankenlab.quantize.layerwise",
)
# The linear layers whose outputs are added to the hidden states.
ADDED = ("o_proj", "down_proj")
# Files beside the weights that are as good for the quantized model.
COMPANIONS = (*TOKENIZER_FILES, "generation_config.json", "chat_template.jinja", "LICENSE")

Results = dict[str, torch.Tensor]


def measure(
    model: str | Path,
    target_json: str | Path,
    rows: torch.Tensor,
    work: str | Path,
    *,
    device: str = "cpu",
) -> dict[str, Any]:
    """Writes what every option of every linear layer would cost, unless it is there already.

    Args:
        model: a directory with unquantized weights.
        rows: tokens of the calibration text, int64 [rows, length].
        work: a directory for what a killed run goes on from; emptied of it at the end.

    Returns:
        What the file holds: `identity` (of model, rows and code), `attainable` ([lowest, highest]
        bits per weight), and `linears`: name -> `energy` and `errors` by option, the mean square
        of the layer's outputs and of their change.

    Raises:
        UserError: the model cannot be stored as EXL2, or the rows are not its tokens.
    """
    model, target_json = Path(model), Path(target_json)
    shapes = _check(model, rows)
    identity = _identity(model, rows)
    if target_json.is_file():
        found = read_json(target_json)
        if found.get("identity") == identity and _is_whole(found, shapes):
            return found
    folder = Path(work) / f"measuring-{identity}"
    layers = LayerwiseModel(model, torch.device(device))
    parts = _run(layers, rows, folder, f"{model.name}: measuring", _measure_linears, head=False)
    measured = {name: values for part in parts for name, values in load_part(part).items()}
    low, high = attainable_bits(shapes, min(HEAD_OPTIONS))
    found = {
        "identity": identity,
        "attainable": [low, high],
        "linears": {
            name: {"energy": float(measured[name][0]), "errors": measured[name][1:].tolist()}
            for name in shapes.linears
            if name != HEAD
        },
    }
    write_json(target_json, found)
    shutil.rmtree(folder)
    logger.info("%s: EXL2 from %s bits per weight", model, _range(low, high))
    return found


def quantize(
    model: str | Path,
    target: str | Path,
    bits: float,
    head_bits: int,
    rows: torch.Tensor,
    facts: Mapping[str, Any],
    work: str | Path,
    *,
    measurement: str | Path | None = None,
    method: str = "gptq",
    device: str = "cpu",
) -> dict[str, Any]:
    """Makes `target` an EXL2 directory of the model (see `directories.make_directory`).

    Args:
        bits: bits per weight of the decoder layers' linear layers, on disk.
        head_bits: of the head, which is stored apart from embeddings that it shares weights with.
        rows, work: as of `measure`.
        facts: of the manifest; `key` identifies what is in the directory, `calibration` (such as
            hashes of its texts) is declared in config.json too.
        measurement: what `measure` wrote; without it, it is made under `work`.
        method: "gptq", or "rtn" to round to nearest with the same options.

    Returns:
        The manifest, with `quantizer`, `quantizer_version`, `n_layers`, `shape` (of
        `models.ModelInfo`), `bits`, `bits_per_weight` and `head_bits` (on disk) and `attainable`
        ([lowest, highest]) added to the facts.

    Raises:
        UserError: as `measure`; a bitrate outside what the shapes allow; a measurement of another
            model or other rows.
    """
    model, work = Path(model), Path(work)
    if method not in METHODS:
        raise UserError(f'quantizer method "{method}": one of {", ".join(METHODS)} is expected')
    shapes = _check(model, rows, head_bits)
    low, high = attainable_bits(shapes, head_bits)
    if not low <= bits <= high:
        raise UserError(f"{bits} bits per weight: the shapes of {model} allow {_range(low, high)}")
    identity = _identity(model, rows)
    if measurement is not None and read_json(Path(measurement)).get("identity") != identity:
        raise UserError(
            f"{measurement}: measured with another model, other calibration rows or an earlier "
            "version of the quantizer; measure it again"
        )
    folder = work / f"{method}-{bits}-{head_bits}-{identity}"

    def fill(directory: Path) -> dict[str, Any]:
        path = Path(measurement or work / f"measurement-{identity}.json")
        options = _choose(shapes, measure(model, path, rows, work, device=device), bits)
        options[HEAD] = HEAD_OPTIONS[head_bits]
        layers = LayerwiseModel(model, torch.device(device))
        work_on = partial(_quantize_linears, options, method)
        title = f"{model.name}: {method} at {bits} bits"
        # A measurement made elsewhere may choose otherwise: its layers must not be mixed in.
        chosen = folder / content_hash({name: str(option) for name, option in options.items()})
        parts = _run(layers, rows, chosen, title, work_on, head=True)

        def tensors():  # noqa: ANN202
            for part in parts:
                yield from load_part(part).items()
            for name in shapes.others:
                yield name, layers.files.get(name)

        declaration = Declaration(
            quantizer=f"frankenlab-{method}",
            version=code_fingerprint(*NUMERIC_CODE),
            bits=bits,
            head_bits=head_bits,
            calibration={
                "rows": rows.shape[0],
                "length": rows.shape[1],
                **facts.get("calibration", {}),
            },
        )
        for name in COMPANIONS:
            if (model / name).is_file():
                shutil.copyfile(model / name, directory / name)
        write_exl2(directory, read_json(model / "config.json"), declaration, tensors())
        made = Exl2Directory(directory)
        return {
            "quantizer": declaration.quantizer,
            "quantizer_version": declaration.version,
            "n_layers": shapes.n_layers,
            "shape": asdict(model_info(directory)),
            "bits": bits,
            "bits_per_weight": round(made.bits_per_weight, 4),
            "head_bits": round(made.head_bits, 4),
            "attainable": [round(low, 4), round(high, 4)],
        }

    manifest = make_directory(target, facts, fill)
    shutil.rmtree(folder, ignore_errors=True)
    return manifest


def _check(model: Path, rows: torch.Tensor, head_bits: int = min(HEAD_OPTIONS)) -> ModelShapes:
    """The shapes of a model that can be quantized with these rows."""
    check_llama_shaped(model)
    config = read_json(model / "config.json")
    shapes = ModelShapes.from_config(config)
    try:
        check_shapes(shapes, head_bits)
    except UserError as error:
        raise UserError(f"{model}: {error}") from None
    vocab, context = config["vocab_size"], config.get("max_position_embeddings", rows.shape[-1])
    if rows.ndim != 2 or not rows.numel() or rows.dtype != torch.int64:
        raise UserError(
            f"calibration rows are {rows.dtype} {list(rows.shape)}, expected int64 [rows, length]"
        )
    if rows.min() < 0 or rows.max() >= vocab or rows.shape[1] > context:
        raise UserError(
            f"calibration rows: tokens {int(rows.min())} to {int(rows.max())}, {rows.shape[1]} a "
            f"row; {model} takes 0 to {vocab - 1}, at most {context} a row"
        )
    return shapes


def _identity(model: Path, rows: torch.Tensor) -> str:
    """Of everything that the numbers depend on, but for the bits."""
    manifest = complete_manifest(model)
    if manifest is None:
        files = identity_files(model).items()
        manifest = {"files": {name: {"sha256": sha256_file(path)} for name, path in files}}
    return content_hash(
        {
            "model": weights_hash(manifest),
            "rows": rows.tolist(),
            "code": code_fingerprint(*NUMERIC_CODE),
            "libraries": library_versions(("torch", "transformers")),
        }
    )


class Measured(TypedDict):
    """What `measure` writes about a linear layer."""

    energy: float
    errors: Annotated[list[float], Field(min_length=len(OPTIONS), max_length=len(OPTIONS))]


class Measurement(TypedDict):
    """What `measure` writes."""

    identity: str
    attainable: tuple[float, float]
    linears: dict[str, Measured]


def _is_whole(found: Any, shapes: ModelShapes) -> bool:
    """Tell whether a measurement has every linear layer of the decoder."""
    return is_record(found, Measurement) and found["linears"].keys() >= {*shapes.linears} - {HEAD}


def _choose(shapes: ModelShapes, measurement: Mapping[str, Any], bits: float) -> dict[str, Option]:
    """The option of each linear layer of the decoder: the least change of the hidden states.

    That is known for what is added to them (o_proj, down_proj). What comes before, with a relative
    error, is taken to change what is added by as much.
    """
    names = [name for name in shapes.linears if name != HEAD]
    sizes = [[option.size(*shapes.linears[name]) for option in OPTIONS] for name in names]
    measured = measurement["linears"]
    errors = []
    for name in names:
        parent = name.rpartition(".")[0]
        added = next(n for n in (f"{parent}.{last}" for last in ADDED) if n in measured)
        share = measured[added]["energy"] / (measured[name]["energy"] or 1.0)
        errors.append([error * share for error in measured[name]["errors"]])
    weights = sum(prod(shapes.linears[name]) for name in names)
    chosen = allocate(sizes, errors, weights, bits)
    return {name: OPTIONS[number] for name, number in zip(names, chosen, strict=True)}


def _measure_linears(shared: Shared) -> Results:
    """Name -> float64 [1 + options]: the energy, then the errors, both of a sample of outputs and
    scaled up."""
    weights, times = zip(*(sample_outputs(m.weight) for m in shared.modules), strict=True)
    inputs = prepare_inputs(shared.names[0], shared.hessian)
    errors = measure_errors(weights, inputs, OPTIONS)
    found = {}
    for name, weight, many, error in zip(shared.names, weights, times, errors, strict=True):
        energy = ((weight @ shared.hessian) * weight).sum(dtype=torch.float64)
        found[name] = many * torch.cat([energy.reshape(1), error]).cpu()
    return found


def _quantize_linears(options: Mapping[str, Option], method: str, shared: Shared) -> Results:
    """The tensors to be stored; from here on the modules compute what these will."""
    inputs = prepare_inputs(shared.names[0], shared.hessian)
    if method == "rtn":
        inputs = inputs.nearest()
    weights = [module.weight for module in shared.modules]
    codes = quantize_linears(weights, inputs, [options[name] for name in shared.names])
    found: Results = {}
    for name, module, code in zip(shared.names, shared.modules, codes, strict=True):
        bias = None if module.bias is None else module.bias.to(torch.float16)
        linear = pack(replace(code, bias=bias))
        stored = dequantize(linear, module.out_features, module.weight.dtype)
        module.weight = nn.Parameter(stored, requires_grad=False)
        found |= {key: value.cpu() for key, value in stored_tensors(name, linear).items()}
    return found


def _run(
    layers: LayerwiseModel,
    rows: torch.Tensor,
    folder: Path,
    title: str,
    work_on: Callable[[Shared], Results],
    head: bool,
) -> list[Path]:
    """Runs the model from where an earlier run in `folder` ended.

    Returns:
        Files with the results of each layer, and of the head where it is wanted.
    """
    parts = [folder / f"layer-{index:04d}.safetensors" for index in range(layers.n_layers)]
    parts += [folder / "head.safetensors"] if head else []
    first = _first_to_do(folder, parts)
    if first == len(parts):
        return parts
    if first:
        hidden = load_part(_hidden(folder, first))["hidden"].to(layers.device)
        logger.info("%s: goes on after %d of %d layers", title, first, len(parts))
    else:
        hidden = layers.embed(rows)
    progress = Progress(len(parts) - first, title, "layers")
    for index in range(first, len(parts)):
        found: Results = {}
        visit = partial(_collect, found, work_on)
        if index < layers.n_layers:
            hidden = layers.run_layer(index, hidden, visit)
        else:
            layers.run_head(hidden, visit)
        save_part(parts[index], found)
        if index + 1 < len(parts):
            save_part(_hidden(folder, index + 1), {"hidden": hidden.cpu()})
        _hidden(folder, index).unlink(missing_ok=True)
        progress.advance(1)
    progress.close()
    return parts


def _collect(found: Results, work_on: Callable[[Shared], Results], shared: Shared) -> None:
    found |= work_on(shared)


def _hidden(folder: Path, index: int) -> Path:
    """Hidden states that enter a layer."""
    return folder / f"hidden-{index:04d}.safetensors"


def _first_to_do(folder: Path, parts: list[Path]) -> int:
    """A layer's results are saved first, then the states that enter the next. What was damaged
    since counts as not there."""
    done = next((i for i, part in enumerate(parts) if not is_whole_part(part)), len(parts))
    if done == len(parts):
        return done
    return next((i for i in range(done, 0, -1) if is_whole_part(_hidden(folder, i))), 0)


def _range(low: float, high: float) -> str:
    """Rounded inwards, so that both ends can be asked for."""
    return f"{math.ceil(low * 100) / 100:.2f} to {math.floor(high * 100) / 100:.2f}"
