"""Writes the tables that people open."""

from pathlib import Path

import pandas as pd

from frankenlab.analyse import error_budget, ledger
from frankenlab.analyse.beam import beam
from frankenlab.analyse.comparisons import concatenated, pairs
from frankenlab.analyse.controls import against_controls
from frankenlab.analyse.family import family
from frankenlab.analyse.interaction import bitrates
from frankenlab.analyse.oracle import oracle
from frankenlab.analyse.plane import plane
from frankenlab.analyse.prediction import prediction
from frankenlab.analyse.predictors import single_layers
from frankenlab.analyse.profile import profile, reliability
from frankenlab.analyse.prompts import prompts
from frankenlab.analyse.race_rounds import Round, all_rounds, grown_plans
from frankenlab.analyse.repetitions import dose_response, repetitions
from frankenlab.analyse.search_test import search
from frankenlab.analyse.selection import Frozen, without_finalists
from frankenlab.analyse.shrinkage import paths
from frankenlab.analyse.sizes import sizes
from frankenlab.analyse.tradeoff import tradeoff
from frankenlab.analyse.transfer import transfer, transfers
from frankenlab.analyse.verdicts import verdicts
from frankenlab.io.directories import read_manifest
from frankenlab.io.files import atomic_path
from frankenlab.io.parquet import read_parquet, write_parquet
from frankenlab.io.records import read_record
from frankenlab.models.footprint import Footprint, weights_row
from frankenlab.plans.designs import shared
from frankenlab.plans.plan import BASE
from frankenlab.runtime.job import job

with job(snakemake) as experiment:
    rules = experiment.settings.statistics
    depths = {name: model.n_layers for name, model in experiment.models.items()}
    folders = {cell: experiment.weights_folder(*cell) for cell in experiment.cells}
    footprints = {cell: Footprint.of_directory(folder) for cell, folder in folders.items()}
    freezes = [read_record(path, Frozen) for path in snakemake.input.frozen]
    frozen = {freeze["model"]: freeze for freeze in freezes}
    compared = concatenated(map(read_parquet, snakemake.input.comparisons))
    scores = concatenated(map(read_parquet, snakemake.input.scores))
    plans = {name: freeze["frozen"] for name, freeze in frozen.items()}
    choice = concatenated(map(read_parquet, snakemake.input.choice))
    searched, selected = (choice[choice["stage"] == stage] for stage in ("search", "select"))
    races = [read_record(path, Round) for path in snakemake.input.races]
    grown = grown_plans(races)
    # What was grown for its parents' effects would bias what the grid's design shows.
    own = zip(searched["model"], searched["plan"], strict=True)
    grid = searched[[plan not in grown.get(model, ()) for model, plan in own]]
    level = error_budget.level(rules.alpha, "search", error_budget.SEARCH_TESTS * len(depths))
    prompted = concatenated(map(read_parquet, snakemake.input.prompted))
    variants = {name: variant[:2] for name, variant in experiment.variants.items()}
    moved = transfers(frozen, depths) if experiment.settings.stages.confirm.transfer else {}
    other_plans = {model: [item.plan for item in items] for model, items in moved.items()}
    claimed = without_finalists(scores, frozen, other_plans)
    costs = concatenated(map(read_parquet, snakemake.input.costs))
    made = {
        "comparisons": compared,
        "pairs": pairs(scores, experiment.tasks, rules),
        "verdicts": verdicts(
            without_finalists(compared, frozen, other_plans),
            claimed,
            experiment.tasks,
            plans,
            rules,
        ),
        "costs": costs,
        "ledger": ledger.table(
            snakemake.params.ledger, list(experiment.models), list(experiment.tasks)
        ),
        "search": search(searched, experiment.tasks, level, rules, grown, selected),
        "plane": plane(compared, scores, experiment.tasks, frozen, footprints, depths, rules),
        "path": paths(compared, choice, experiment.tasks, frozen, grown),
        "repetitions": repetitions(grid, experiment.tasks, depths, rules),
        "dose_response": dose_response(grid, experiment.tasks, depths, rules),
        "profile": profile(grid, experiment.tasks, depths, rules),
        "reliability": reliability(grid, experiment.tasks, depths, rules),
        "oracle": oracle(
            concatenated([grid, scores]), prompted, variants, experiment.tasks, frozen, rules
        ),
    }
    wanted = snakemake.output.keys()
    if "against_controls" in wanted:
        made["against_controls"] = against_controls(claimed, experiment.tasks, plans, rules)
    if "tradeoff" in wanted:
        made["tradeoff"] = tradeoff(compared, scores, experiment.tasks, frozen, rules)
    if "prompts" in wanted:
        made["prompts"] = prompts(scores, prompted, variants, experiment.tasks, frozen, rules)
    if "sizes" in wanted:
        bases = costs[costs["plan"] == BASE]
        parameters = bases.groupby("model")["parameters"].first().to_dict()
        designs = shared({name: experiment.generators(name)[0] for name in depths}, depths)
        made["sizes"] = sizes(
            *(grid, scores, experiment.tasks, designs, frozen, moved),
            *(parameters, rules),
        )
        made["family"] = family(made["pairs"], experiment.tasks, frozen, parameters, rules)
    if "transfer" in wanted:
        made["transfer"] = transfer(scores, experiment.tasks, frozen, depths, rules)
    if "bits" in wanted:
        by_model = {
            model: {q: size for (m, q), size in footprints.items() if m == model}
            for model in snakemake.params.models
        }
        made["bits"] = bitrates(claimed, experiment.tasks, frozen, by_model, depths, rules)
    if "quantizations" in wanted:
        made["quantizations"] = pd.DataFrame(
            weights_row(*cell, folder, read_manifest(folder)) for cell, folder in folders.items()
        )
    if "race" in wanted:
        made["race"] = all_rounds(races, compared, depths)
    if "beam" in wanted:
        made["beam"] = beam(searched, experiment.tasks, races, rules)
    if "predictors" in wanted:
        names = ("layers", "similarity", "documents")
        probes = [concatenated(map(read_parquet, snakemake.input[name])) for name in names]
        made["probe"], made["similarity"] = single_layers(*probes[:2]), probes[1]
        made["predictors"] = prediction(grid, *probes, experiment.tasks, depths, rules)
    for name, table in made.items():
        path = Path(snakemake.output[name])
        with atomic_path(path) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")
        write_parquet(table, path.with_suffix(".parquet"))
