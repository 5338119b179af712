"""Decides which plans of a search go on after a round, and which new ones are grown."""

import sys

from frankenlab.analyse.comparisons import concatenated
from frankenlab.analyse.race_rounds import Round, Step, decide
from frankenlab.analyse.race_rule import Rule
from frankenlab.config.stages import SEARCH, Stage
from frankenlab.io.files import write_json
from frankenlab.io.parquet import read_parquet
from frankenlab.io.records import read_record
from frankenlab.runtime.job import job

with job(snakemake) as experiment:
    where = snakemake.wildcards
    stages = experiment.settings.stages
    race, beam = stages.search.racing, stages.search.beam
    stage, earlier = Stage(SEARCH, int(where.round)), snakemake.input.earlier
    following = Stage(SEARCH, stage.round + 1)
    grid = [item.plan for item in experiment.grid(where.model).plans]
    rule = Rule(
        error=race.error if race else 0.5,
        margin=race.margin if race else 0.0,
        decisions=len(experiment.rounds(SEARCH)) - 1,
        # The select stage wants so many, whatever is known of them. Without a race all go on.
        keep=stages.select.shortlist + 1 if race else sys.maxsize,
    )
    before = read_record(earlier, Round) if earlier else None
    grows = experiment.steps_before(following) > experiment.steps_before(stage)
    made = decide(
        concatenated(map(read_parquet, snakemake.input.scores)),
        experiment.tasks,
        {
            # Without a limit a round asks for all.
            task: (experiment.limit(stage, task) or sys.maxsize, stages.search.limit)
            for task in experiment.search_tasks
        },
        before["leaders"] if before else [],
        rule,
        experiment.models[where.model].n_layers,
        before["grown"] if before else [],
        Step(stage.round, grid, beam.width, beam.most) if grows else None,
    )
    write_json(snakemake.output[0], {"model": where.model, "round": stage.round, **made})
