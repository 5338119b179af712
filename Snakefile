from snakemake.utils import min_version

min_version("9.27")


# A config given with --configfile is a whole experiment, not a change of the default one.
if "models" not in config:

    configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


# Used with --software-deployment-method apptainer only; otherwise jobs run in the environment that
# `make` built. Python alone: `make` inside it adds the pinned packages.
container: "docker://python:3.11"


include: "workflow/rules/common.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/quantization.smk"
include: "workflow/rules/frankens.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/analysis.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        SHOWN,
        # Otherwise a table that was lost would be missed only by the next change.
        [
            path
            for model in EXPERIMENT.models
            for stage in ("search", "select", "confirm")
            for path in stage_scores(stage, model)
        ],
        [path for model in EXPERIMENT.models for path in prompted_scores(model)],


rule fetch:
    """Everything that needs a network."""
    input:
        downloads,


rule materialize:
    """Standalone checkpoints of the frozen frankens."""
    input:
        expand(f"{RESULTS}/checkpoints/{{model}}/frozen", model=EXPERIMENT.models),
