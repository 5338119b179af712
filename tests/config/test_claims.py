"""The experiments that test the field's claims are whole configs, small and full."""

from copy import deepcopy

import pytest
import yaml
from snakemake.utils import update_config

from frankenlab.config import experiment as config
from tests.support.paths import ROOT

CLAIMS = ROOT / "config" / "experiments" / "claims"
VERSIONS = {"small": ["small"], "sizes": ["small", "sizes"], "full": ["full"]}
# What a claim is tested on stands in these files, and its plans in all others.
NAMES = sorted({path.stem for path in CLAIMS.glob("*.yaml")} - {"small", "sizes", "full"})
READ = {path.stem: yaml.safe_load(path.read_text()) for path in CLAIMS.glob("*.yaml")}


def merged(*names: str) -> dict:
    """Merge files as Snakemake does with several of --configfile."""
    whole: dict = {}
    for name in names:
        update_config(whole, deepcopy(READ[name]))
    return whole


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("claim", NAMES)
def test_a_claim_is_an_experiment_whose_plans_fit_every_model(claim, version):
    experiment = config.check(merged(*VERSIONS[version], claim))
    assert experiment.name == f"claim-{claim}"
    assert experiment.search_tasks and len(experiment.search_tasks) < len(experiment.tasks)
    for model in experiment.models.values():
        assert len(experiment.grid(model.name).plans) > 2


@pytest.mark.slow
def test_the_small_and_the_full_version_search_the_same_tasks():
    for claim in NAMES:
        small, full = (config.check(merged(*VERSIONS[v], claim)) for v in ("small", "full"))
        assert small.search_tasks == full.search_tasks
        assert set(small.tasks) <= set(full.tasks)


def test_the_readme_names_every_claim_and_none_that_is_not_there():
    lines = (CLAIMS / "README.md").read_text().splitlines()
    named = {line.split("`")[1] for line in lines if line.startswith("| `")}
    alone = {name for name in named if " " not in name}
    assert alone == {f"{name}.yaml" for name in [*NAMES, "small", "full"]}
