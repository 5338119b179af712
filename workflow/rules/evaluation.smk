rule check_prompts:
    """Check other prompts before the search, which may take hours, and show what they are."""
    input:
        data=[
            data_input(EXPERIMENT.task_entry(name).data)
            for name in EXPERIMENT.variants
        ],
        tasks=lambda w: [
            RUN.task_stamp(Stage("confirm"), task, model.name, model.reference)
            for model in EXPERIMENT.models.values()
            for name, variant in EXPERIMENT.variants.items()
            for task in (variant.task, name)
        ],
        stamp=script_stamp("check_prompts"),
    output:
        f"{RESULTS}/prompts.json",
    log:
        f"{LOGS}/check_prompts.log",
    priority: SOON
    resources:
        mem_mb=by_attempt(4000),
        runtime=by_attempt(10),
    script:
        "../scripts/check_prompts.py"


rule evaluate_task:
    """Score the frankens of a shard, and the base, on a task in a stage."""
    input:
        frankens=f"{RESULTS}/frankens/{{model}}/{{quantization}}/{{stage}}.{{shard}}.json",
        model=lambda w: weights_manifest(w.model, w.quantization),
        data=lambda w: data_input(EXPERIMENT.task_entry(w.task).data),
        # Its text must be in no document.
        calibration=lambda w: (
            data_input(CALIBRATION) if w.quantization != "none" else []
        ),
        task=lambda w: RUN.task_stamp(
            Stage.parse(w.stage), w.task, w.model, w.quantization
        ),
        prompts=lambda w: (
            f"{RESULTS}/prompts.json" if w.task in EXPERIMENT.variants else []
        ),
        stamp=script_stamp("evaluate_task"),
    output:
        f"{RESULTS}/scores/{{stage}}/{{model}}/{{quantization}}/{{task}}.{{shard}}.parquet",
    log:
        f"{LOGS}/evaluate_task/{{stage}}.{{model}}.{{quantization}}.{{task}}.{{shard}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate_task/{{stage}}.{{model}}.{{quantization}}.{{task}}.{{shard}}.tsv"
    priority: longest_first("evaluate_task")
    threads: HALF
    resources:
        mem_mb=predicted("evaluate_task", "mem_mb"),
        runtime=predicted("evaluate_task", "runtime"),
        gpu=1 if SETTINGS.device == "cuda" else 0,
    params:
        store=STORE,
        ledger=LEDGER,
    script:
        "../scripts/evaluate_task.py"


rule measure_cost:
    """Measure speed and memory of the base, the frozen plan and its controls, each alone."""
    input:
        frankens=f"{RESULTS}/frankens/{{model}}/{{quantization}}/confirm.0.json",
        model=lambda w: weights_manifest(w.model, w.quantization),
        stamp=script_stamp(
            "measure_cost",
            cost=SETTINGS.cost.plain(),
            precisions=[
                EXPERIMENT.precision(Stage("search"), *cell)
                for cell in EXPERIMENT.cells
            ],
            engines=[EXPERIMENT.engine(*cell) for cell in EXPERIMENT.cells],
            device=SETTINGS.device,
            libraries=[
                fingerprints.engine_libraries(EXPERIMENT.engine(*cell))
                for cell in EXPERIMENT.cells
            ],
        ),
    output:
        f"{RESULTS}/costs/{{model}}/{{quantization}}.parquet",
    log:
        f"{LOGS}/measure_cost/{{model}}.{{quantization}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/measure_cost/{{model}}.{{quantization}}.tsv"
    # All cores: another job beside it would be measured too.
    threads: CORES
    resources:
        mem_mb=predicted("measure_cost", "mem_mb"),
        runtime=predicted("measure_cost", "runtime"),
        gpu=1 if SETTINGS.device == "cuda" else 0,
    script:
        "../scripts/measure_cost.py"


rule probe:
    """Measure what each layer does to the hidden state, on prompts of the search tasks."""
    input:
        model=lambda w: weights_manifest(w.model, w.quantization),
        data=[data_input(SETTINGS.tasks[task].data) for task in EXPERIMENT.search_tasks],
        tasks=lambda w: [
            RUN.task_stamp(Stage("search"), task, w.model, w.quantization)
            for task in EXPERIMENT.search_tasks
        ],
        stamp=script_stamp("probe", probe=SETTINGS.probe.plain()),
    output:
        **{
            name: f"{RESULTS}/probe/{{model}}/{{quantization}}/{name}.parquet"
            for name in PROBED
        },
    log:
        f"{LOGS}/probe/{{model}}.{{quantization}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/probe/{{model}}.{{quantization}}.tsv"
    priority: longest_first("probe")
    threads: HALF
    resources:
        mem_mb=predicted("probe", "mem_mb"),
        runtime=predicted("probe", "runtime"),
        gpu=1 if SETTINGS.device == "cuda" else 0,
    script:
        "../scripts/probe.py"
