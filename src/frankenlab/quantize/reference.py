"""Quantize into EXL2 by GPTQ in plain torch, on any device: the reference quantizer.

It runs over the layers twice. `measure` finds the error of every option of every linear layer, with
the outputs of the layers before unquantized. `quantize` chooses an option for each, and quantizes
in the order in which the model runs, every layer on what the quantized layers before it give.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from frankenlab.io.errors import UserError
from frankenlab.io.files import content_hash
from frankenlab.io.fingerprints import code_fingerprint, library_versions
from frankenlab.io.records import check_record
from frankenlab.models.exl2.declaration import Declaration
from frankenlab.models.exl2.format import dequantize, pack
from frankenlab.models.exl2.options import HEAD_OPTIONS, OPTIONS, Option, attainable_bits
from frankenlab.models.exl2.writing import stored_tensors, write_exl2
from frankenlab.models.files import read_json
from frankenlab.models.shape import HEAD, ModelShape
from frankenlab.quantize.allocation import choose_options
from frankenlab.quantize.gptq import (
    measure_errors,
    prepare_inputs,
    quantize_linears,
    sample_outputs,
)
from frankenlab.quantize.layerwise import LayerwiseModel, SharedInput
from frankenlab.quantize.quantizer import model_hash
from frankenlab.quantize.resume import Tensors, load_tensors, run_layers

# What decides the numbers; the rest moves them around.
NUMERIC_CODE = (
    "frankenlab.quantize.allocation",
    "frankenlab.quantize.gptq",
    "frankenlab.quantize.layerwise",
)

Method = Literal["gptq", "rtn"]


class MeasuredLinear(TypedDict):
    """What is measured of a linear layer: the mean square of its outputs, and of their change by
    each option."""

    energy: float
    errors: Annotated[list[float], Field(min_length=len(OPTIONS), max_length=len(OPTIONS))]


class Measured(TypedDict):
    """What is measured of a model."""

    linears: dict[str, MeasuredLinear]


@dataclass(frozen=True)
class ReferenceQuantizer:
    """See `quantizer.Quantizer` for the methods.

    Attributes:
        rows: tokens of the calibration text, int64 [rows, length].
        measured_rows: how many of the first rows the options are measured on. Choosing among
            options needs less text than rounding with one; exllamav2's converter takes 16, too.
        calibration: what config.json says about that text.
        method: "rtn" rounds to nearest with the options that "gptq" has, to compare with.
    """

    rows: torch.Tensor
    calibration: Mapping[str, Any]
    device: str = "cpu"
    method: Method = "gptq"
    measured_rows: int = 16

    @property
    def name(self) -> str:
        return f"frankenlab-{self.method}"

    def why_unusable(self) -> None:
        """Return None: it runs everywhere."""

    def identity(self, model: Path) -> str:
        return content_hash(
            {
                "model": model_hash(model),
                "rows": self.rows.tolist(),
                "measured_rows": self.measured_rows,
                "code": code_fingerprint(*NUMERIC_CODE),
                "libraries": library_versions(("torch", "transformers")),
            }
        )

    def measure(self, model: Path, work: Path) -> dict[str, Any]:
        """Return a `Measured`."""
        self._check_rows(model)
        layers = LayerwiseModel(model, torch.device(self.device))
        folder = work / f"measuring-{self.identity(model)}"
        title = f"{model.name}: measuring"
        rows = self.rows[: self.measured_rows]
        parts = run_layers(layers, rows, folder, title, _measure_linears, head=False)
        measured = {name: values for part in parts for name, values in load_tensors(part).items()}
        linears = {
            name: {"energy": float(values[0]), "errors": values[1:].tolist()}
            for name, values in measured.items()
        }
        return {"linears": linears}

    def attainable(self, model: Path, measured: Mapping[str, Any]) -> tuple[float, float]:
        shape = _shape(model)
        check_record(f"{model}: its measurement", measured, Measured)
        if missing := {*shape.linears} - {HEAD, *measured["linears"]}:
            raise UserError(f"{model}: its measurement lacks '{min(missing)}'; measure again")
        return attainable_bits(shape, min(HEAD_OPTIONS))

    def quantize(
        self,
        model: Path,
        directory: Path,
        bits: float,
        head_bits: int,
        measurement: Path,
        work: Path,
    ) -> dict[str, Any]:
        shape = _shape(model)
        options = choose_options(shape, read_json(measurement)["linears"], bits)
        options[HEAD] = HEAD_OPTIONS[head_bits]
        # Layers with other options, or of another model, must not be mixed in.
        chosen = {name: [option.group, option.widths] for name, option in options.items()}
        folder = work / f"{self.method}-{content_hash([self.identity(model), chosen])}"
        layers = LayerwiseModel(model, torch.device(self.device))
        work_on = partial(_quantize_linears, options, self.method)
        title = f"{model.name}: {self.method} at {bits} bits"
        parts = run_layers(layers, self.rows, folder, title, work_on, head=True)

        def tensors() -> Iterator[tuple[str, torch.Tensor]]:
            for part in parts:
                yield from load_tensors(part).items()
            for name in shape.others:
                yield name, layers.files.get(name)

        rows, length = self.rows.shape
        declaration = Declaration(
            quantizer=self.name,
            version=code_fingerprint(*NUMERIC_CODE),
            bits=bits,
            head_bits=head_bits,
            calibration={"rows": rows, "length": length, **self.calibration},
        )
        write_exl2(directory, read_json(model / "config.json"), declaration, tensors())
        return {}

    def _check_rows(self, model: Path) -> None:
        config, rows = read_json(model / "config.json"), self.rows
        if rows.ndim != 2 or not rows.numel() or rows.dtype != torch.int64:
            raise UserError(
                f"calibration rows are {rows.dtype} {list(rows.shape)}, expected int64 "
                "[rows, length]"
            )
        vocab, context = config["vocab_size"], config.get("max_position_embeddings", rows.shape[1])
        if rows.min() < 0 or rows.max() >= vocab or rows.shape[1] > context:
            raise UserError(
                f"calibration rows: tokens {int(rows.min())} to {int(rows.max())}, {rows.shape[1]} "
                f"a row; {model} takes 0 to {vocab - 1}, at most {context} a row"
            )


def _shape(model: Path) -> ModelShape:
    return ModelShape.from_config(read_json(model / "config.json"))


def _measure_linears(shared: SharedInput) -> Tensors:
    """Return by name, float64 [1 + options], the energy and the errors, both of a sample of the
    outputs and scaled up."""
    weights, times = zip(*(sample_outputs(m.weight) for m in shared.modules), strict=True)
    inputs = prepare_inputs(shared.names[0], shared.hessian)
    errors = measure_errors(weights, inputs, OPTIONS)
    found = {}
    for name, weight, many, error in zip(shared.names, weights, times, errors, strict=True):
        energy = ((weight @ shared.hessian) * weight).sum(dtype=torch.float64)
        found[name] = many * torch.cat([energy.reshape(1), error]).cpu()
    return found


def _quantize_linears(
    options: Mapping[str, Option], method: Method, shared: SharedInput
) -> Tensors:
    """Return the tensors to be stored; from here on the modules compute what these will."""
    inputs = prepare_inputs(shared.names[0], shared.hessian)
    if method == "rtn":
        inputs = inputs.nearest()
    weights = [module.weight for module in shared.modules]
    codes = quantize_linears(weights, inputs, [options[name] for name in shared.names])
    found: Tensors = {}
    for name, module, code in zip(shared.names, shared.modules, codes, strict=True):
        bias = None if module.bias is None else module.bias.to(torch.float16)
        linear = pack(replace(code, bias=bias))
        stored = dequantize(linear, module.out_features, module.weight.dtype)
        module.weight = nn.Parameter(stored, requires_grad=False)
        found |= {key: value.cpu() for key, value in stored_tensors(name, linear).items()}
    return found
