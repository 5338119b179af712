"""A plan as a standalone checkpoint that transformers, lm-eval or llama.cpp can load."""

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from frankenlab import __version__
from frankenlab.io.directories import complete_manifest, has_manifest, verify_directory
from frankenlab.io.errors import UserError, one_line
from frankenlab.io.files import share, write_json
from frankenlab.models.directory import check_llama_shaped
from frankenlab.models.exl2.declaration import is_exl2
from frankenlab.models.files import CONFIG, copy_companions, read_json
from frankenlab.models.franken import layer_tensors
from frankenlab.models.tensor_files import TensorFiles
from frankenlab.models.weight_writing import write_weights
from frankenlab.plans.plan import Plan
from frankenlab.plans.steps import Step
from frankenlab.plans.words import words

# The key of config.json that says what a checkpoint was made of.
MADE_FROM = "frankenlab"

# Zero, it makes a part's residual update vanish; scaled, it scales the update.
OUTPUTS = {"attn": "self_attn.o_proj", "mlp": "mlp.down_proj"}


def materialize(source: str | Path, plan: Plan, target: str | Path) -> None:
    """Write the franken `plan` of the model in `source` as a Hugging Face directory `target`.

    config.json and README.md say which plan of which base it is.

    Each occurrence becomes a layer with its own copy of the weights. A LLaMA layer is attention
    then MLP: an `attn` or `mlp` occurrence becomes a layer whose other part adds zero, and its
    scale goes into the part's output matrix.

    Two exports to one target at once do not touch each other's files: the first to end has it.

    Raises:
        UserError: an EXL2 directory, whose weights are codes that repeated layers would only copy;
            a scaled `block`, which no LLaMA layer computes (its MLP would see the scaled
            attention), or a damped window of several steps; the source is not what its manifest
            says; the target exists, or cannot be written.
    """
    source, target = Path(source), Path(target)
    if is_exl2(source):
        raise UserError(
            f"{source}: it is EXL2, and an export needs the unquantized model; the sweep runs "
            "plans of an EXL2 directory without one"
        )
    if has_manifest(source):
        verify_directory(source, every_hash=True)
    check_llama_shaped(source, plan.n_layers)
    for number, step in enumerate(plan.steps, start=1):
        if step.span > 1:
            raise UserError(
                f'plan "{plan}": steps {number + 1 - step.span} to {number} are a damped window, '
                "which a LLaMA checkpoint cannot express; it runs in the sweep, and the same "
                "layers undamped can be exported"
            )
        if step.part == "block" and step.scale != 1:
            raise UserError(
                f'plan "{plan}": step {number} scales a whole block, which a LLaMA checkpoint '
                "cannot express; it runs in the sweep, and scaled @attn or @mlp can be exported"
            )
    try:
        if os.path.lexists(target):
            raise UserError(f"{target}: exists already; name a new directory")
        with _unfinished(target) as partial:
            try:
                _write_checkpoint(source, plan, partial)
            except UserError as error:
                # A temporary directory means nothing to a user.
                raise UserError(str(error).replace(str(partial), str(target))) from error
            share(partial)
            _install(partial, target)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UserError(f"{target}: cannot be written ({reason})") from error


def _install(partial: Path, target: Path) -> None:
    try:
        partial.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise UserError(
            f"{target}: exists already; another export wrote it in the meantime"
        ) from error


@contextmanager
def _unfinished(target: Path) -> Iterator[Path]:
    """Yield an empty directory beside the target, which is removed unless it is renamed.

    Its lock, which the kernel takes back from a killed process, tells it from what killed exports
    left; that is removed first.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # mkdtemp's random part has no dot, so the leftovers of "a.b" are not taken for those of "a".
    pattern = re.compile(rf"\.{re.escape(target.name)}(\.[^.]+)?\.part")
    for path in target.parent.iterdir():
        if pattern.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            with _locked(path) as held:
                if held:
                    shutil.rmtree(path, ignore_errors=True)
    while True:
        partial = Path(
            tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        )
        try:
            with _locked(partial) as held:
                # Another export may have taken it for a leftover before it was locked.
                if held is not False and partial.is_dir():
                    yield partial
                    return
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _locked(directory: Path) -> Iterator[bool | None]:
    """Hold the lock of a directory; yield whether it is ours, None where there are no locks (as on
    some network file systems)."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield False
        return
    try:
        held: bool | None = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held = False
        except OSError:
            held = None
        yield held
    finally:
        os.close(descriptor)


def _write_checkpoint(source: Path, plan: Plan, target: Path) -> None:
    """Fill the empty directory `target`."""
    write_weights(target, _tensors(TensorFiles.of_model(source), plan))
    copy_companions(source, target)
    base = _base(source)
    config = _config(read_json(source / CONFIG), plan)
    made = {"plan": plan.text, "base": base, "base_layers": plan.n_layers}
    write_json(target / CONFIG, config | {MADE_FROM: made})
    (target / "README.md").write_text(_card(plan, base), encoding="utf-8")
    check_llama_shaped(target, len(plan.steps))


def _base(source: Path) -> str:
    """Return what the base is: where it is from, if a manifest says so, else its folder."""
    manifest = complete_manifest(source) or {}
    return str(manifest.get("source") or source.resolve().name)


def _card(plan: Plan, base: str) -> str:
    """Return the model card, which says what was made of what."""
    on_hub = re.fullmatch(r"Hugging Face hub (\S+) at \S+", base)
    named = f"base_model: {on_hub[1]}\n" if on_hub else ""
    return f"""\
---
{named}library_name: transformers
tags: [frankenlab, merge, passthrough]
---

# {plan.text}

{base}, with its {plan.n_layers} layers run in the order of the plan `{plan.text}`: {words(plan)}.
No weight was trained. Frankenlab {__version__} wrote this checkpoint, in which each of the
{len(plan.steps)} runs of a layer has its own copy of the weights.
"""


def _config(config: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """Return the base's config with the franken's depth, without which a reload would drop the
    copies."""
    changed = config | {"num_hidden_layers": len(plan.steps)}
    if config.get("layer_types"):
        changed["layer_types"] = [config["layer_types"][step.layer] for step in plan.steps]
    elif config["model_type"] == "qwen2":
        # Deeper layers would slide over a window, by default those from 28 on.
        changed["max_window_layers"] = len(plan.steps)
    return changed


def _tensors(stored: TensorFiles, plan: Plan) -> Iterator[tuple[str, torch.Tensor]]:
    for name in sorted(stored.names):
        if not name.startswith("model.layers."):
            yield name, stored.get(name)
    for number, step in enumerate(plan.steps):
        for part in ("attn", "mlp"):
            for module in layer_tensors(step.layer, part):
                short = module.removeprefix(f"model.layers.{step.layer}.")
                for kind in ("weight", "bias"):
                    if (name := f"{module}.{kind}") in stored:
                        scaled = _scaled(stored.get(name), short == OUTPUTS[part], part, step)
                        yield f"model.layers.{number}.{short}.{kind}", scaled


def _scaled(tensor: torch.Tensor, is_output: bool, part: str, step: Step) -> torch.Tensor:
    if not is_output:
        return tensor
    if part not in step.parts:
        return torch.zeros_like(tensor)
    return tensor * step.scale if step.scale != 1 else tensor
