rule download_model:
    output:
        manifest="resources/models/{folder}/manifest.json",
    log:
        f"{LOGS}/download_model/{{folder}}.log",
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        model=lambda w: next(
            m.name for m in EXPERIMENT.models.values() if m.folder == w.folder
        ),
    script:
        "../scripts/download_model.py"


rule download_data:
    output:
        manifest="resources/data/{folder}/manifest.json",
    log:
        f"{LOGS}/download_data/{{folder}}.log",
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        name=lambda w: next(
            name
            for name, source in EXPERIMENT.data.items()
            if configuration.data_folder(name, source) == w.folder
        ),
    script:
        "../scripts/download_data.py"
