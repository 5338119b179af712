"""What results were made with: settings, inputs, code, versions, machine."""

import os
import platform
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from frankenlab import __version__
from frankenlab.config.experiment import RESOURCES, Experiment, data_folder
from frankenlab.config.stages import STAGES
from frankenlab.engines.devices import processor_name
from frankenlab.evaluate.model_spec import scoring_fingerprint
from frankenlab.io.directories import read_manifest
from frankenlab.io.files import content_hash
from frankenlab.io.fingerprints import code_fingerprint, library_versions
from frankenlab.models.directory import weights_hash

LIBRARIES = (
    *("torch", "transformers", "tokenizers", "datasets", "lm-eval", "snakemake", "numpy"),
    *("scipy", "statsmodels", "pandas", "matplotlib", "papermill"),
)


def provenance(experiment: Experiment) -> dict[str, Any]:
    """Return, JSON-able, what one needs to know in a year to get the same numbers."""
    settings = experiment.settings
    grids = [experiment.grid(name) for name in experiment.models]
    return {
        "experiment": experiment.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "frankenlab": __version__,
        "engine": settings.engine,
        "precisions": {name: settings.stages[name].precision for name in STAGES},
        "grid": {
            "plans": sum(len(grid.plans) for grid in grids),
            "duplicates_folded": sum(len(grid.folded) for grid in grids),
            "generators": dict(Counter(item.group for grid in grids for item in grid.plans)),
        },
        "models": {name: _model(experiment, name) for name in experiment.models},
        "data": {
            name: _data(RESOURCES / "data" / data_folder(name, source))
            for name, source in experiment.data.items()
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
    return {"source": manifest["source"], "files": content_hash(manifest["files"])}
