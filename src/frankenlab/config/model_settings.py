"""A model of an experiment: what its entry in the config means."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from frankenlab.config.settings import ModelEntry, Settings, SourceEntry
from frankenlab.io.errors import UserError
from frankenlab.models.exl2.options import attainable_bits
from frankenlab.models.quantization import NONE, Quantization
from frankenlab.models.shape import ModelShape
from frankenlab.models.sources import Source, Use, source_from_config, source_key

# Keys of a model's `shapes` that config.json spells otherwise.
SHAPE_KEYS = {
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "tied": "tie_word_embeddings",
}


@dataclass(frozen=True)
class ModelSettings:
    """A model of the config.

    Attributes:
        quantizations: names at which it is evaluated; the grid is searched at the first.
        stored: what its weights are as distributed; "none" for floats.
        head_bits: of a model distributed as EXL2, else None.
        sizes: None where the config has no `shapes`.
        gpus: of a job on CUDA at any quantization, or at those that are named.
    """

    name: str
    source: Source
    n_layers: int
    description: str
    quantizations: tuple[str, ...]
    stored: Quantization
    head_bits: int | None
    sizes: ModelShape | None
    gpus: int | Mapping[str, int] = 1

    @property
    def folder(self) -> str:
        """The name of its directory below resources/models."""
        return f"{self.name}-{source_key(self.source)}"

    @property
    def reference(self) -> str:
        """The quantization at which the franken is searched, selected and frozen."""
        return self.quantizations[0]

    def weights_at(self, quantization: str) -> Quantization:
        """Return what the weights are; at "none" they are as distributed."""
        asked = Quantization.parse(quantization)
        return self.stored if asked == NONE else asked

    def gpus_at(self, quantization: str) -> int:
        """Return over how many GPUs it is split at a quantization."""
        return self.gpus if isinstance(self.gpus, int) else self.gpus.get(quantization, 1)

    @property
    def to_quantize(self) -> tuple[str, ...]:
        """The quantizations that have to be made."""
        return tuple(q for q in self.quantizations if q != NONE.text)


def all_models(settings: Settings) -> dict[str, ModelSettings]:
    """Return the models of a config by their names.

    Raises:
        UserError: one line with the place and what is wrong with a model.
    """
    shared = _quantizations(settings.quantizations, "config: quantizations")
    head_bits = settings.exl2.head_bits
    return {name: _model(name, entry, shared, head_bits) for name, entry in settings.models.items()}


def source(entry: SourceEntry, where: str, use: Use) -> Source:
    """Return the source that a config describes at the place `where`."""
    return source_from_config(entry.plain(), where, use)


def _model(name: str, entry: ModelEntry, shared: tuple[str, ...], head_bits: int) -> ModelSettings:
    """Return a model; without quantizations of its own it has the shared ones, and what is
    quantized here has a head of `head_bits`."""
    where = f"config: models.{name}"
    own, shapes = entry.quantizations, _as_config(entry)
    model = ModelSettings(
        name=name,
        source=source(entry.source, f"{where}.source", "model"),
        n_layers=entry.n_layers,
        description=entry.description,
        quantizations=_quantizations(own, f"{where}.quantizations") if own else shared,
        stored=_stored(entry, where),
        head_bits=(entry.head_bits or 6) if entry.format == "exl2" else None,
        sizes=_sizes(shapes, where),
        gpus=_gpus(entry, f"{where}.gpus"),
    )
    _check_gpus(model, f"{where}.gpus")
    if model.stored != NONE and model.to_quantize:
        raise UserError(
            f"{where}: it is EXL2 as distributed and cannot be quantized to "
            f"{model.to_quantize[0]}; write quantizations: [none] to evaluate it as it is"
        )
    if shapes and model.to_quantize:
        _check_bits(model, shapes, head_bits, where)
    return model


def _gpus(entry: ModelEntry, where: str) -> int | Mapping[str, int]:
    """Return the numbers of GPUs, by the one spelling of a quantization."""
    if isinstance(entry.gpus, int):
        return entry.gpus
    _quantizations(list(entry.gpus), where)
    return {Quantization.parse(text).text: count for text, count in entry.gpus.items()}


def _check_gpus(model: ModelSettings, where: str) -> None:
    """Check that the quantizations are the model's own, and that each GPU can have a layer."""
    if not isinstance(model.gpus, int):
        for name in model.gpus:
            if name not in model.quantizations:
                raise UserError(
                    f"{where}: {model.name} is not evaluated at {name}; allowed are "
                    f"{', '.join(model.quantizations)}"
                )
    for name in model.quantizations:
        if model.gpus_at(name) > model.n_layers:
            raise UserError(
                f"{where}: {model.gpus_at(name)} GPUs are more than the model's {model.n_layers} "
                "layers, over which it is split"
            )


def _check_bits(
    model: ModelSettings, shapes: Mapping[str, Any], head_bits: int, where: str
) -> None:
    """Check that the model's shapes allow its bitrates."""
    try:
        low, high = attainable_bits(ModelShape.from_config(shapes), head_bits)
    except UserError as error:
        raise UserError(f"{where}.shapes: {error}") from None
    for text in model.to_quantize:
        if not low <= (Quantization.parse(text).bits or 0) <= high:
            allowed = f"{low:.2f} to {high:.2f} bits per weight"
            raise UserError(f"{where}: {text} is not attainable, its shapes allow {allowed}")


def _quantizations(texts: list[str], where: str) -> tuple[str, ...]:
    """Return the names in their one spelling."""
    names = [Quantization.parse(text, where).text for text in texts]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"{where}: {twice[0]} is there {len(twice)} times")
    return tuple(names)


def _stored(model: ModelEntry, where: str) -> Quantization:
    if model.format == "float":
        for key, value in (("bits", model.bits), ("head_bits", model.head_bits)):
            if value is not None:
                raise UserError(f"{where}.{key}: it is for a model with format: exl2 only")
        return NONE
    if model.bits is None:
        raise UserError(f"{where}: with format: exl2 it needs bits, its bits per weight")
    return Quantization("exl2", model.bits)


def _as_config(model: ModelEntry) -> dict[str, Any] | None:
    """Return the declared shapes, spelled as in config.json."""
    if model.shapes is None:
        return None
    spelled = {SHAPE_KEYS.get(key, key): value for key, value in model.shapes.plain().items()}
    return {**spelled, "num_hidden_layers": model.n_layers}


def _sizes(shapes: Mapping[str, Any] | None, where: str) -> ModelShape | None:
    if shapes is None:
        return None
    try:
        return ModelShape.from_config(shapes)
    except UserError as error:
        raise UserError(f"{where}.shapes: {error}") from None
