"""Decides which plans of a search go on after a round of its race."""

from frankenlab.analyse.comparisons import concatenated
from frankenlab.analyse.race_rounds import Round, decide
from frankenlab.analyse.race_rule import Rule
from frankenlab.config.stages import SEARCH, Stage
from frankenlab.io.files import write_json
from frankenlab.io.parquet import read_parquet
from frankenlab.io.records import read_record
from frankenlab.runtime.job import job

with job(snakemake) as experiment:
    where = snakemake.wildcards
    stages = experiment.settings.stages
    race = stages.search.racing
    rule = Rule(
        error=race.error,
        margin=race.margin,
        decisions=len(race.rounds),
        # The select stage wants so many, whatever is known of them.
        keep=stages.select.shortlist + 1,
    )
    stage, earlier = Stage(SEARCH, int(where.round)), snakemake.input.earlier
    made = decide(
        concatenated(map(read_parquet, snakemake.input.scores)),
        experiment.tasks,
        {
            task: (experiment.limit(stage, task), stages.search.limit)
            for task in experiment.search_tasks
        },
        read_record(earlier, Round)["leaders"] if earlier else [],
        rule,
        experiment.models[where.model].n_layers,
    )
    write_json(snakemake.output[0], {"model": where.model, "round": stage.round, **made})
