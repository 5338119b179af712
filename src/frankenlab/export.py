"""A plan as a standalone checkpoint that transformers, lm-eval or llama.cpp can load."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from frankenlab.directories import has_manifest, verify_directory
from frankenlab.errors import UserError
from frankenlab.frankens import layer_tensors, parts
from frankenlab.models import TOKENIZER_FILES, check_llama_shaped
from frankenlab.plans import Plan, Step

SHARD_BYTES = 2 << 30

# Files beside the weights that a checkpoint keeps from its base.
COMPANIONS = (*TOKENIZER_FILES, "generation_config.json", "chat_template.jinja")

# What makes a part's residual update vanish when it is zero, and scales it when it is scaled.
OUTPUTS = {"attn": "self_attn.o_proj", "mlp": "mlp.down_proj"}


def materialize(source: str | Path, plan: Plan, target: str | Path) -> None:
    """Writes the franken `plan` of the model in `source` as a Hugging Face directory `target`.

    Each occurrence becomes a layer with its own copy of the weights. A LLaMA layer is attention
    then MLP: an `attn` or `mlp` occurrence becomes a layer whose other part adds zero, and its
    scale goes into the part's output matrix.

    Raises:
        UserError: a scaled `block`, which no LLaMA layer computes (its MLP would see the scaled
            attention); the source is not what its manifest says; the target exists, or cannot be
            written.
    """
    source, target = Path(source), Path(target)
    if has_manifest(source):
        verify_directory(source, every_hash=True)
    check_llama_shaped(source, plan.n_layers)
    for number, step in enumerate(plan.steps):
        if step.part == "block" and step.scale != 1:
            raise UserError(
                f'plan "{plan}": step {number + 1} scales a whole block, which a LLaMA checkpoint '
                "cannot express; it runs in the sweep, and scaled @attn or @mlp can be exported"
            )
    if target.exists():
        raise UserError(f"{target}: exists already; name a new directory")
    partial = target.with_name(f".{target.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        _write_checkpoint(source, plan, partial)
        partial.rename(target)
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{target}: cannot be written: {reason}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_checkpoint(source: Path, plan: Plan, target: Path) -> None:
    """Fills the empty directory `target`."""
    _write_weights(source, plan, target)
    for name in COMPANIONS:
        if (source / name).is_file():
            shutil.copy(source / name, target / name)
    config = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(_config(config, plan), indent=2) + "\n")
    check_llama_shaped(target, len(plan.steps))


def _config(config: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """The base's config with the franken's depth. Without it, a reload would drop the copies."""
    changed = config | {"num_hidden_layers": len(plan.steps)}
    if config.get("layer_types"):
        changed["layer_types"] = [config["layer_types"][step.layer] for step in plan.steps]
    if "max_window_layers" in config:
        changed["max_window_layers"] = len(plan.steps)
    return changed


def _write_weights(source: Path, plan: Plan, target: Path) -> None:
    """Shards of at most `SHARD_BYTES`, so that memory stays far below the model's size."""
    where = {}
    for path in sorted(source.glob("*.safetensors")):
        file = safe_open(path, framework="pt")
        where |= {name: file for name in file.keys()}  # noqa: SIM118
    shards: list[list[str]] = []
    index: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    size = total = 0

    def close() -> None:
        name = f"part-{len(shards)}.safetensors"
        save_file(shard, target / name, metadata={"format": "pt"})
        shards.append(list(shard))
        shard.clear()

    for name, tensor in _tensors(where, plan):
        # Occurrences of one layer share memory, which safetensors refuses to save.
        shard[name] = tensor.clone(memory_format=torch.contiguous_format)
        size += tensor.nbytes
        total += tensor.nbytes
        if size >= SHARD_BYTES:
            close()
            size = 0
    if shard:
        close()
    for i, names in enumerate(shards):
        final = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        if len(shards) == 1:
            final = "model.safetensors"
        (target / f"part-{i}.safetensors").rename(target / final)
        index |= dict.fromkeys(names, final)
    if len(shards) > 1:
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=1)
        (target / "model.safetensors.index.json").write_text(text + "\n")


def _tensors(where: dict[str, Any], plan: Plan) -> Iterator[tuple[str, torch.Tensor]]:
    for name in where:
        if not name.startswith("model.layers."):
            yield name, where[name].get_tensor(name)
    for number, step in enumerate(plan.steps):
        for part in ("attn", "mlp"):
            for module in layer_tensors(step.layer, part):
                short = module.removeprefix(f"model.layers.{step.layer}.")
                for kind in ("weight", "bias"):
                    if (stored := f"{module}.{kind}") in where:
                        tensor = where[stored].get_tensor(stored)
                        scaled = _scaled(tensor, short == OUTPUTS[part], part, step)
                        yield f"model.layers.{number}.{short}.{kind}", scaled


def _scaled(tensor: torch.Tensor, is_output: bool, part: str, step: Step) -> torch.Tensor:
    if not is_output:
        return tensor
    if part not in parts(step):
        return torch.zeros_like(tensor)
    return tensor * step.scale if step.scale != 1 else tensor
