"""What results were made with: command, commit, settings, inputs, code, versions, machine."""

import os
import platform
import subprocess
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from frankenlab import __version__
from frankenlab.config.experiment import RESOURCES, Experiment, data_folder
from frankenlab.config.stages import STAGES, Stage
from frankenlab.engines.devices import processor_name
from frankenlab.evaluate.model_spec import scoring_fingerprint
from frankenlab.io.directories import read_manifest
from frankenlab.io.files import content_hash
from frankenlab.io.fingerprints import code_fingerprint, library_versions
from frankenlab.models.directory import weights_hash
from frankenlab.models.quantization import NONE

LIBRARIES = (
    *("torch", "transformers", "tokenizers", "datasets", "lm-eval", "snakemake", "numpy"),
    *("scipy", "pandas", "altair", "vl-convert-python", "papermill"),
)


# The folder of the package's checkout, where it has one.
CHECKOUT = Path(__file__).resolve().parents[3]
GIT_SECONDS = 10


def provenance(experiment: Experiment, command: str | None = None) -> dict[str, Any]:
    """Return, JSON-able, what one needs to know in a year to get the same numbers.

    Args:
        command: what the workflow was started with.
    """
    settings = experiment.settings
    names = {data_folder(name, source): name for name, source in experiment.data.items()}
    grids = [experiment.grid(name) for name in experiment.models]
    return {
        "experiment": experiment.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "frankenlab": __version__,
        "commit": commit(CHECKOUT),
        "command": command,
        "resolved": resolved(experiment),
        "grid": {
            "plans": sum(len(grid.plans) for grid in grids),
            "duplicates_folded": sum(len(grid.folded) for grid in grids),
            "generators": dict(Counter(item.group for grid in grids for item in grid.plans)),
        },
        "models": {name: _model(experiment, name) for name in experiment.models},
        "data": {
            names.get(folder, folder): _data(RESOURCES / "data" / folder)
            for folder in experiment.downloads
        },
        "code": {
            "scoring": scoring_fingerprint(),
            "analysis": code_fingerprint(
                "frankenlab.analyse.controls",
                "frankenlab.analyse.interaction",
                "frankenlab.analyse.race_rounds",
            ),
            "figures": code_fingerprint("frankenlab.report.figures.catalogue"),
        },
        "versions": {"python": platform.python_version(), **library_versions(LIBRARIES)},
        "machine": {
            "processor": processor_name(),
            "cpu_count": os.cpu_count(),
            "system": platform.platform(terse=True),
            "device": settings.device,
        },
        "config": settings.plain(),
    }


def resolved(experiment: Experiment) -> dict[str, Any]:
    """Return the settings that a config may leave to be decided, as they were decided."""
    settings, cells = experiment.settings, experiment.cells
    found: dict[str, Any] = {
        "device": settings.device,
        "engine": _alike({_cell(*cell): experiment.engine(*cell) for cell in cells}),
        "precision": {
            name: _alike(
                {
                    _cell(model, quantization): experiment.precision(
                        Stage.parse(name), model, quantization
                    )
                    for model, quantization in cells
                    if quantization in experiment.stage_quantizations(Stage.parse(name), model)
                }
            )
            for name in STAGES
        },
    }
    if experiment.calibration:
        found["quantizer"] = experiment.quantizer
    seeds = {"statistics": settings.statistics.seed}
    if (split := getattr(settings.stages, "seed", None)) is not None:
        seeds["split of documents"] = split
    return found | {"seeds": seeds}


def _cell(model: str, quantization: str) -> str:
    return f"{model} {'unquantized' if quantization == NONE.text else f'at {quantization}'}"


def _alike(values: dict[str, str]) -> Any:
    """Return the one value that all have, or the values by their names."""
    found = set(values.values())
    return found.pop() if len(found) == 1 else values


def commit(folder: Path) -> str | None:
    """Return the commit of a checkout, and whether its files differ from it; None where there is
    none, or no git."""
    if not (folder / ".git").exists():
        return None
    with suppress(OSError, subprocess.SubprocessError):
        found = _git(folder, "rev-parse", "HEAD").strip()
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no").strip()
        return f"{found}, with uncommitted changes" if changed else found
    return None


def _git(folder: Path, *arguments: str) -> str:
    # Without optional locks, git only reads.
    return subprocess.run(
        ["git", "-C", str(folder), *arguments],
        env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
        capture_output=True,
        check=True,
        text=True,
        timeout=GIT_SECONDS,
    ).stdout


def _model(experiment: Experiment, name: str) -> dict[str, Any]:
    manifest = read_manifest(RESOURCES / "models" / experiment.models[name].folder)
    return {
        "description": manifest["description"],
        "source": manifest["source"],
        "made": manifest["made"],
        "n_layers": manifest["n_layers"],
        "weights_hash": weights_hash(manifest),
    }


def _data(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    # The commit of a data set of the hub, whether the config names it or not.
    revision = {"revision": manifest["revision"]} if manifest.get("revision") else {}
    return {"source": manifest["source"], **revision, "files": content_hash(manifest["files"])}
