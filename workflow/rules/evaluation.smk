rule check_prompts:
    """Check other prompts before the search, which may take hours, and show what they are."""
    input:
        data=[task_data(name) for name in EXPERIMENT.variants],
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


rule evaluate:
    """Score the plans of a shard on the tasks of a stage: search, a round of it, select, confirm."""
    input:
        frankens=f"{RESULTS}/frankens/{{model}}/{{quantization}}/{{stage}}.{{shard}}.json",
        model=lambda w: weights_manifest(w.model, w.quantization),
        data=lambda w: sorted(
            {path for task in job_tasks(w) for path in task_data(task)}
        ),
        # Its text must be in no document.
        calibration=lambda w: (
            data_input(CALIBRATION) if w.quantization != "none" else []
        ),
        tasks=lambda w: [
            RUN.task_stamp(Stage.parse(w.stage), task, w.model, w.quantization)
            for task in job_tasks(w)
        ],
        prompts=lambda w: (
            f"{RESULTS}/prompts.json"
            if EXPERIMENT.variants.keys() & job_tasks(w)
            else []
        ),
        chosen=chosen,
        stamp=cell_stamp("evaluate"),
    output:
        score_files(EXPERIMENT.search_tasks),
    log:
        f"{LOGS}/evaluate/{{stage}}.{{model}}.{{quantization}}.{{shard}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate/{{stage}}.{{model}}.{{quantization}}.{{shard}}.tsv"
    wildcard_constraints:
        stage=r"search|search-\d+|select",
    priority: longest_first("evaluate")
    threads: HALF
    resources:
        mem_mb=predicted("evaluate", "mem_mb"),
        runtime=predicted("evaluate", "runtime"),
        gpu=gpus_of_model,
        # All its GPUs are in one machine.
        nodes=1,
    params:
        store=STORE,
        ledger=LEDGER,
    script:
        "../scripts/evaluate.py"


use rule evaluate as confirm with:
    output:
        score_files(EXPERIMENT.tasks),
    log:
        f"{LOGS}/confirm/{{stage}}.{{model}}.{{quantization}}.{{shard}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/confirm/{{stage}}.{{model}}.{{quantization}}.{{shard}}.tsv"
    wildcard_constraints:
        stage="confirm",


# Other prompts of the tasks are scored by the same job, at each model's reference alone.
if EXPERIMENT.variants:

    ruleorder: confirm_prompts > confirm

    use rule evaluate as confirm_prompts with:
        output:
            score_files([*EXPERIMENT.tasks, *EXPERIMENT.variants]),
        log:
            f"{LOGS}/confirm_prompts/{{stage}}.{{model}}.{{quantization}}.{{shard}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/confirm_prompts/{{stage}}.{{model}}.{{quantization}}.{{shard}}.tsv"
        wildcard_constraints:
            stage="confirm",
            model="|".join(
                f"{re.escape(model.name)}(?=/{re.escape(model.reference)}/)"
                for model in EXPERIMENT.models.values()
            ),


rule measure_cost:
    """Measure speed and memory of the base and the frozen plan, each alone."""
    input:
        frankens=f"{RESULTS}/frankens/{{model}}/{{quantization}}/confirm.0.json",
        model=lambda w: weights_manifest(w.model, w.quantization),
        chosen=chosen,
        stamp=cell_stamp(
            "measure_cost",
            lambda *cell: {
                "cost": SETTINGS.cost.plain(),
                "precision": EXPERIMENT.precision(Stage("search"), *cell),
                "seed": SETTINGS.statistics.seed,
                "gpus": EXPERIMENT.gpus(*cell),
            },
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
        gpu=gpus_of_model,
        # All its GPUs are in one machine.
        nodes=1,
    script:
        "../scripts/measure_cost.py"


rule probe:
    """Measure what each layer does to the hidden state, on prompts of the search tasks."""
    input:
        model=lambda w: weights_manifest(w.model, w.quantization),
        data=[task_data(task) for task in EXPERIMENT.search_tasks],
        tasks=lambda w: [
            RUN.prompts_stamp(task, w.model, w.quantization)
            for task in EXPERIMENT.search_tasks
        ],
        stamp=cell_stamp("probe", lambda *cell: {"probe": SETTINGS.probe.plain()}),
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
        gpu=gpus_of_model,
        # All its GPUs are in one machine.
        nodes=1,
    script:
        "../scripts/probe.py"
