TABLES = ["comparisons", "pairs", "verdicts", "costs", "ledger"]
TABLES += ["search", "path", "repetitions", "dose_response", "profile", "reliability"]
TABLES += ["plane", "oracle"]

# Models of several quantizations have a table and a picture of what those change.
BITS_MODELS = [m.name for m in EXPERIMENT.models.values() if len(m.quantizations) > 1]
TABLES += ["bits"] if BITS_MODELS else []

# Where any weights are EXL2, a table says who made them.
QUANTIZED = [
    cell
    for cell in EXPERIMENT.cells
    if EXPERIMENT.models[cell[0]].weights_at(cell[1]).bits is not None
]
TABLES += ["quantizations"] if QUANTIZED else []

# A search that drops plans on its way has a table of its rounds.
TABLES += ["race"] if EXPERIMENT.raced else []

# A search that grows plans has a table of these.
TABLES += ["beam"] if EXPERIMENT.beam else []

# Where controls run, a table compares the frozen plans with them.
TABLES += ["against_controls"] if SETTINGS.stages.confirm.controls else []

# Where several plans are confirmed on guard tasks, a table has gain against loss.
GUARDED = any(task.role == "guard" for task in EXPERIMENT.tasks.values())
TABLES += ["tradeoff"] if SETTINGS.stages.confirm.most_finalists and GUARDED else []
# Where the layers are probed, tables say what they do and how well that predicts the effects.
TABLES += ["probe", "similarity", "predictors"] if SETTINGS.probe.documents else []

# Where tasks have other prompts, a table has the effects under each.
TABLES += ["prompts"] if EXPERIMENT.variants else []

# Several models are compared with each other, and their frozen plans may be transferred.
TABLES += ["sizes", "family"] if len(EXPERIMENT.models) > 1 else []
TABLES += ["transfer"] if SETTINGS.stages.confirm.transfer else []

# Which documents changed, for the page alone.
FLIPS = ["flips", "documents"]

RULES = SETTINGS.statistics.plain()
# Versions of what computes statistics.
STATISTICS = fingerprints.library_versions(fingerprints.STATISTICS_LIBRARIES)


rule race:
    """Decide which plans go on after a round of a search, and grow new ones from the best."""
    input:
        scores=lambda w: [
            path
            for task in EXPERIMENT.search_tasks
            for path in scores(
                [Stage("search", int(w.round))],
                w.model,
                EXPERIMENT.models[w.model].reference,
                task,
            )
        ],
        earlier=earlier_race,
        stamp=script_stamp(
            "race",
            search=SETTINGS.stages.search.plain(),
            shortlist=SETTINGS.stages.select.shortlist,
            steps=[EXPERIMENT.steps_before(s) for s in EXPERIMENT.rounds("search")],
            libraries=STATISTICS,
        ),
    output:
        f"{RESULTS}/races/{{model}}.{{round}}.json",
    log:
        f"{LOGS}/race/{{model}}.{{round}}.log",
    priority: SOON
    resources:
        mem_mb=by_attempt(4000),
        runtime=by_attempt(10),
    script:
        "../scripts/race.py"


rule aggregate:
    """Compare every plan of a stage with the base, document by document."""
    input:
        scores=lambda w: [
            path
            for task in stage_tasks(w.stage)
            for path in scores(
                EXPERIMENT.rounds(w.stage), w.model, w.quantization, task
            )
        ],
        frankens=lambda w: stage_frankens(w.stage, w.model),
        races=lambda w: race_files(w.model) if w.stage == "search" else [],
        chosen=chosen,
        stamp=script_stamp(
            "aggregate",
            **{key: RULES[key] for key in ("fdr", "resamples", "seed")},
            libraries=STATISTICS,
        ),
    output:
        f"{RESULTS}/comparisons/{{stage}}/{{model}}/{{quantization}}.parquet",
    log:
        f"{LOGS}/aggregate/{{stage}}.{{model}}.{{quantization}}.log",
    priority: SOON
    resources:
        mem_mb=by_attempt(4000),
        runtime=by_attempt(30),
    script:
        "../scripts/aggregate.py"


# These are checkpoints, so that the stages behind them run only where other plans were chosen.
checkpoint shortlist:
    """Choose the plans of a search that are scored on fresh documents."""
    input:
        lambda w: reference_comparisons("search", w.model),
        stamp=script_stamp(
            "shortlist",
            count=SETTINGS.stages.select.shortlist,
            best_of=SETTINGS.stages.confirm.best_of,
            libraries=STATISTICS,
        ),
    output:
        f"{RESULTS}/shortlist/{{model}}.json",
    log:
        f"{LOGS}/shortlist/{{model}}.log",
    priority: SOON
    # Seconds: less than a queue takes.
    localrule: True
    resources:
        mem_mb=by_attempt(1000),
        runtime=by_attempt(10),
    script:
        "../scripts/shortlist.py"


checkpoint freeze:
    """Choose the one plan of a model that is confirmed, with its controls and finalists."""
    input:
        shortlist=f"{RESULTS}/shortlist/{{model}}.json",
        scores=lambda w: choice_scores(["search", "select"], w.model),
        stamp=script_stamp(
            "freeze",
            controls=SETTINGS.stages.confirm.controls,
            finalists=SETTINGS.stages.confirm.finalists,
            seed=SETTINGS.statistics.seed,
            libraries=STATISTICS,
        ),
    output:
        f"{RESULTS}/frozen/{{model}}.json",
    log:
        f"{LOGS}/freeze/{{model}}.log",
    priority: SOON
    # Seconds: less than a queue takes.
    localrule: True
    resources:
        mem_mb=by_attempt(1000),
        runtime=by_attempt(10),
    script:
        "../scripts/freeze.py"


rule tables:
    """Write the tables that people open, as Parquet and as CSV."""
    input:
        comparisons=[
            f"{RESULTS}/comparisons/{stage}/{model}/{quantization}.parquet"
            for stage in ["search", "select", "confirm"]
            for model in EXPERIMENT.models
            for quantization in EXPERIMENT.stage_quantizations(Stage(stage), model)
        ],
        scores=[
            path
            for model in EXPERIMENT.models
            for path in stage_scores("confirm", model)
        ],
        prompted=[
            path for model in EXPERIMENT.models for path in prompted_scores(model)
        ],
        choice=[
            path
            for model in EXPERIMENT.models
            for path in choice_scores(["search", "select"], model)
        ],
        frozen=expand(f"{RESULTS}/frozen/{{model}}.json", model=EXPERIMENT.models),
        costs=[
            f"{RESULTS}/costs/{model}/{quantization}.parquet"
            for model, quantization in EXPERIMENT.cells
        ],
        weights=[weights_manifest(*cell) for cell in EXPERIMENT.cells],
        races=[path for model in EXPERIMENT.models for path in race_files(model)],
        layers=probed("layers"),
        similarity=probed("similarity"),
        documents=probed("documents"),
        stamp=script_stamp(
            "tables",
            statistics=RULES,
            libraries=STATISTICS,
            transfer=SETTINGS.stages.confirm.transfer,
            # Designs that models share are told by the lines of their grids.
            grids=[
                [line.plain() for line in EXPERIMENT.generators(model)[0]]
                for model in EXPERIMENT.models
                if len(EXPERIMENT.models) > 1
            ],
        ),
    output:
        **{
            name: report(
                f"{RESULTS}/tables/{name}.csv",
                caption=f"../report/tables/{name}.rst",
                category=catalogue.TABLES,
                labels={"table": name},
            )
            for name in TABLES
        },
        parquet=expand(f"{RESULTS}/tables/{{name}}.parquet", name=TABLES),
    log:
        f"{LOGS}/tables.log",
    resources:
        mem_mb=by_attempt(4000),
        runtime=by_attempt(30),
    params:
        ledger=LEDGER,
        models=BITS_MODELS,
    script:
        "../scripts/tables.py"


rule flips:
    """Write which documents the plans flipped, and excerpts of these documents."""
    input:
        scores=[
            path
            for model in EXPERIMENT.models
            for stage in ["search", "confirm"]
            for path in stage_scores(stage, model)
        ],
        frozen=expand(f"{RESULTS}/frozen/{{model}}.json", model=EXPERIMENT.models),
        data=[task_data(task) for task in EXPERIMENT.tasks],
        stamp=script_stamp("flips", libraries=STATISTICS),
    output:
        **{name: f"{RESULTS}/tables/{name}.csv" for name in FLIPS},
        parquet=expand(f"{RESULTS}/tables/{{name}}.parquet", name=FLIPS),
    log:
        f"{LOGS}/flips.log",
    resources:
        mem_mb=by_attempt(4000),
        runtime=by_attempt(30),
    script:
        "../scripts/flips.py"
