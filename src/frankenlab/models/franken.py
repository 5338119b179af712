"""A plan on a model: its size and cost, and the stored tensors that each occurrence uses."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import NonNegativeInt, PositiveInt
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from frankenlab.io.errors import UserError
from frankenlab.models.inspect import ModelInfo
from frankenlab.plans.plan import Plan, Step, parse

ATTENTION = tuple(f"self_attn.{name}_proj" for name in "qkvo")
MLP = tuple(f"mlp.{name}_proj" for name in ("gate", "up", "down"))
NORMS = {"attn": "input_layernorm", "mlp": "post_attention_layernorm"}


@dataclass(frozen=True)
class Franken:
    """A plan on a model.

    Attributes:
        depth: layers run, an `attn` or `mlp` occurrence counting as half.
        relative_depth: depth relative to the base.
        parameters: of the standalone checkpoint (each occurrence counted).
        stored_parameters: of the weights in memory (each used layer once, as the base has them).
        kv_bytes_per_token: keys and values of every attending occurrence, 16-bit.
    """

    plan: Plan
    group: str
    depth: float
    relative_depth: float
    parameters: int
    stored_parameters: int
    kv_bytes_per_token: int


def franken(plan: Plan, group: str, info: ModelInfo, bytes_per_value: int = 2) -> Franken:
    """Size and cost of a plan on a model of shape `info`."""
    sizes = part_parameters(info)
    outside = info.parameters_embeddings + info.parameters_head + info.hidden_size
    used = {(step.layer, part) for step in plan.steps for part in parts(step)}
    return Franken(
        plan=plan,
        group=group,
        depth=plan.depth,
        relative_depth=plan.depth / plan.n_layers,
        parameters=outside + sum(sizes[part] for step in plan.steps for part in parts(step)),
        stored_parameters=outside + sum(sizes[part] for _, part in used),
        kv_bytes_per_token=sum(step.attends for step in plan.steps)
        * (2 * info.n_kv_heads * info.head_dim * bytes_per_value),
    )


def part_parameters(info: ModelInfo) -> dict[str, int]:
    """Parameters of a layer's two parts, each with its norm; biases go with their matrix."""
    return {
        "attn": info.parameters_per_layer - info.parameters_mlp,
        "mlp": info.parameters_mlp,
    }


def parts(step: Step) -> tuple[str, ...]:
    """The parts of a layer that a step runs."""
    return ("attn", "mlp") if step.part == "block" else (step.part,)


def layer_tensors(layer: int, part: str) -> list[str]:
    """Names of the modules that one part of a layer uses, without `.weight` or `.bias`."""
    names = ATTENTION if part == "attn" else MLP
    return [f"model.layers.{layer}.{name}" for name in (NORMS[part], *names)]


class ManifestEntry(TypedDict):
    """A franken in a manifest; `plans_of` checks its occurrences."""

    plan: str
    key: str
    group: str
    loop: Any
    depth: float
    relative_depth: float
    parameters: NonNegativeInt
    stored_parameters: NonNegativeInt
    kv_bytes_per_token: NonNegativeInt
    occurrences: list[Any]


class Manifest(TypedDict):
    """What readers use of the file that `manifest` describes."""

    model: str
    quantization: str
    n_layers: PositiveInt
    frankens: list[ManifestEntry]


def manifest(
    model: str, quantization: str, info: ModelInfo, plans: Iterable[tuple[Plan, str]]
) -> dict[str, Any]:
    """JSON-able description of frankens. No weights: a franken is its base's, in another order.

    `tensors[layer][part]` names the stored tensors; an occurrence is [layer, part, scale].
    """
    made = [franken(plan, group, info) for plan, group in plans]
    used = sorted({step.layer for f in made for step in f.plan.steps})
    return {
        "model": model,
        "quantization": quantization,
        "n_layers": info.n_layers,
        "frankens": [
            {
                "plan": f.plan.text,
                "key": f.plan.key,
                "group": f.group,
                "loop": f.plan.loop,
                "depth": f.depth,
                "relative_depth": f.relative_depth,
                "parameters": f.parameters,
                "stored_parameters": f.stored_parameters,
                "kv_bytes_per_token": f.kv_bytes_per_token,
                "occurrences": [[s.layer, s.part, s.scale] for s in f.plan.steps],
            }
            for f in made
        ],
        "tensors": {
            str(layer): {part: layer_tensors(layer, part) for part in ("attn", "mlp")}
            for layer in used
        },
    }


def plans_of(manifest: Mapping[str, Any]) -> list[Plan]:
    """Return the plans of a manifest.

    Raises:
        UserError: a text is no plan, or the steps written there are not those of its plan.
    """
    try:
        plans = [parse(entry["plan"], manifest["n_layers"]) for entry in manifest["frankens"]]
    except UserError as error:
        raise UserError(f"manifest of frankens: {str(error).splitlines()[0]}") from None
    for plan, entry in zip(plans, manifest["frankens"], strict=True):
        if not _same(plan.steps, entry["occurrences"]):
            raise UserError(f'manifest of frankens: plan "{plan}" does not match its occurrences')
    return plans


def _same(steps: Sequence[Step], occurrences: Sequence[Sequence[Any]]) -> bool:
    return [[step.layer, step.part, step.scale] for step in steps] == list(occurrences)
