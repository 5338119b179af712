# Downloads run where the workflow was started, for nodes of a cluster often have no network; unless
# the profile gives them a partition that has one.
for _rule in ("download_model", "download_data"):
    if "slurm_partition" not in workflow.resource_settings.overwrite_resources.get(
        _rule, {}
    ):
        workflow.localrules(_rule)


rule download_model:
    input:
        lambda w: RUN.source_stamp(
            w.folder, EXPERIMENT.models[model_in(w.folder)].source, "model"
        ),
        conversion=lambda w: RUN.conversion_stamp(
            EXPERIMENT.models[model_in(w.folder)].source
        ),
    output:
        manifest="resources/models/{folder}/manifest.json",
    log:
        f"{LOGS}/download_model/{{folder}}.log",
    resources:
        mem_mb=by_attempt(4000),
        runtime=by_attempt(120),
    params:
        model=lambda w: model_in(w.folder),
    script:
        "../scripts/download_model.py"


rule download_data:
    input:
        lambda w: RUN.source_stamp(w.folder, EXPERIMENT.downloads[w.folder], "data"),
    output:
        manifest="resources/data/{folder}/manifest.json",
    log:
        f"{LOGS}/download_data/{{folder}}.log",
    resources:
        mem_mb=by_attempt(2000),
        runtime=by_attempt(60),
    script:
        "../scripts/download_data.py"
