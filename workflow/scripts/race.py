"""Decides which plans of a search go on after a round of its race."""

from frankenlab.analyse import race_rounds as races
from frankenlab.analyse.comparisons import concatenated
from frankenlab.analyse.race_rounds import Round
from frankenlab.analyse.race_rule import Rule
from frankenlab.config.stages import named
from frankenlab.io.files import write_json
from frankenlab.io.parquet import read_parquet
from frankenlab.io.records import read_record
from frankenlab.plans.plan import BASE
from frankenlab.runtime.job import job

with job(snakemake) as experiment:
    where = snakemake.wildcards
    settings = experiment.raw["stages"]["search"]
    race = settings["racing"]
    earlier = snakemake.input.earlier
    leaders = read_record(earlier, Round)["leaders"] if earlier else []
    rule = Rule(
        error=race["error"],
        margin=race["margin"],
        decisions=len(race["rounds"]),
        # The select stage wants so many, whatever is known of them.
        keep=experiment.raw["stages"]["select"]["shortlist"] + 1,
    )
    scores = concatenated(map(read_parquet, snakemake.input.scores))
    # Of plans that tie the first one leads: the base, else the same whatever the shards.
    plans = sorted(scores["plan"].unique(), key=lambda plan: (plan != BASE, plan))
    name = named(where.round)
    samples, documents = {}, {}
    for task, rows in scores.groupby("task", sort=False, observed=True):
        limits = (experiment.limit(stage, task) for stage in (name, "search"))
        samples[task] = races.sample(rows, experiment.tasks[task].metric, plans, *limits)
        documents[task] = int(rows["document"].nunique())
    n_layers = experiment.models[where.model].n_layers
    made = races.record(samples, documents, plans, leaders, rule, n_layers)
    write_json(snakemake.output[0], {"model": where.model, "round": int(where.round), **made})
