"""A plan on a model: its size and cost, and the stored tensors that each occurrence uses."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pydantic import NonNegativeInt, PositiveInt
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from frankenlab.io.errors import UserError
from frankenlab.models.shape import NORMS, PARTS, ModelShape
from frankenlab.plans.plan import Plan, parse

KV_BYTES = 2  # of a value in a 16-bit cache

# The group of the random plans that cost what the frozen one does.
CONTROL = "control"
# The group of plans that a search grew from its best.
GROWN = "beam"
# The group of plans that are confirmed beside the frozen one, of which nothing is claimed.
FINALIST = "finalist"
# The group of the frozen plans of other models, of which nothing is claimed either.
TRANSFERRED = "transferred"


class ManifestEntry(TypedDict):
    """A plan on a model.

    `depth` is the number of layers run, an `attn` or `mlp` occurrence counting as half;
    `parameters` are those of the standalone checkpoint, which has each occurrence's own;
    `stored_parameters` those in memory, where each used layer is once, as the base has them;
    `kv_bytes_per_token` the keys and values of every attending occurrence, with 16 bits;
    `occurrences` are [layer, part, scale] and, at the end of a window, its span; `plans_of` checks
    them.
    """

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
    """What readers use of what `manifest` returns."""

    model: str
    quantization: str
    n_layers: PositiveInt
    frankens: list[ManifestEntry]


def franken(plan: Plan, group: str, shape: ModelShape) -> ManifestEntry:
    """Return the size and the cost of a plan on a model of that shape."""
    used = {(step.layer, part) for step in plan.steps for part in step.parts}
    run = sum(shape.part_parameters(part) for step in plan.steps for part in step.parts)
    stored = sum(shape.part_parameters(part) for _, part in used)
    attending = sum(step.attends for step in plan.steps)
    return {
        "plan": plan.text,
        "key": plan.key,
        "group": group,
        "loop": plan.loop,
        "depth": plan.depth,
        "relative_depth": plan.depth / plan.n_layers,
        "parameters": shape.parameters_outside + run,
        "stored_parameters": shape.parameters_outside + stored,
        "kv_bytes_per_token": attending * 2 * shape.kv_size * KV_BYTES,
        "occurrences": _occurrences(plan),
    }


def layer_tensors(layer: int, part: str) -> list[str]:
    """Return the modules that one part of a layer uses, without `.weight` or `.bias`."""
    return [f"model.layers.{layer}.{name}" for name in (NORMS[part], *PARTS[part])]


def manifest(
    model: str, quantization: str, shape: ModelShape, plans: Iterable[tuple[Plan, str]]
) -> dict[str, Any]:
    """Return a JSON-able description of frankens: no weights, for a franken is its base's layers
    in another order. `tensors[layer][part]` names the stored tensors.
    """
    pairs = list(plans)
    used = sorted({step.layer for plan, _ in pairs for step in plan.steps})
    return {
        "model": model,
        "quantization": quantization,
        "n_layers": shape.n_layers,
        "frankens": [franken(plan, group, shape) for plan, group in pairs],
        "tensors": {
            str(layer): {part: layer_tensors(layer, part) for part in PARTS} for layer in used
        },
    }


def plans_of(manifest: Mapping[str, Any], without: Collection[str] = ()) -> list[Plan]:
    """Return the plans of a manifest, without those of some groups.

    Raises:
        UserError: a text is no plan, or the steps written there are not those of its plan.
    """
    try:
        plans = [parse(entry["plan"], manifest["n_layers"]) for entry in manifest["frankens"]]
    except UserError as error:
        raise UserError(f"manifest of frankens: {str(error).splitlines()[0]}") from None
    for plan, entry in zip(plans, manifest["frankens"], strict=True):
        if list(entry["occurrences"]) != _occurrences(plan):
            raise UserError(f'manifest of frankens: plan "{plan}" does not match its occurrences')
    groups = [entry["group"] for entry in manifest["frankens"]]
    return [plan for plan, group in zip(plans, groups, strict=True) if group not in without]


def _occurrences(plan: Plan) -> list[list[Any]]:
    return [
        [step.layer, step.part, step.scale, *([step.span] if step.span > 1 else [])]
        for step in plan.steps
    ]
