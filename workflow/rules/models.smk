rule download_model:
    """Download a model, or convert it from GGUF, as a verified Hugging Face directory."""
    input:
        lambda w: RUN.source_stamp(
            w.folder, EXPERIMENT.models[model_in(w.folder)].source, "model"
        ),
        conversion=lambda w: RUN.conversion_stamp(
            EXPERIMENT.models[model_in(w.folder)].source
        ),
    output:
        manifest=local("resources/models/{folder}/manifest.json"),
    log:
        f"{LOGS}/download_model/{{folder}}.log",
    localrule: downloads_here("download_model")
    resources:
        mem_mb=by_attempt(4000),
        runtime=by_attempt(120),
    params:
        model=lambda w: model_in(w.folder),
    script:
        "../scripts/download_model.py"


rule download_data:
    """Download a package or folder of data sets, and verify it."""
    input:
        lambda w: RUN.source_stamp(w.folder, EXPERIMENT.downloads[w.folder], "data"),
    output:
        manifest=local("resources/data/{folder}/manifest.json"),
    log:
        f"{LOGS}/download_data/{{folder}}.log",
    localrule: downloads_here("download_data")
    resources:
        mem_mb=by_attempt(2000),
        runtime=by_attempt(60),
    script:
        "../scripts/download_data.py"
