"""Checks the other prompts of tasks, and writes down an example of each."""

from frankenlab.config.experiment import TASKS_FOLDER
from frankenlab.config.stages import CONFIRM, Stage
from frankenlab.io.files import write_json
from frankenlab.runtime.job import job
from frankenlab.tasks.prompts import check_prompts

with job(snakemake) as experiment:
    checked = {}
    for name in dict.fromkeys(variant.task for variant in experiment.variants.values()):
        others = {
            each: variant.settings
            for each, variant in experiment.variants.items()
            if variant.task == name
        }
        limit, draw = experiment.limit(Stage(CONFIRM), name), experiment.settings.stages.seed
        checked |= check_prompts(experiment.tasks[name], others, TASKS_FOLDER, limit, draw)
    write_json(snakemake.output[0], checked)
