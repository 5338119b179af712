SEARCH_FIGURES = catalogue.names("search", TABLES, EXPERIMENT.search_tasks)
CONFIRM_FIGURES = catalogue.names("confirm", TABLES)
# What the pictures of a search read; `tradeoff` and `race` are there if they were made.
SEARCH_TABLES = [
    name
    for name in [
        *(
            "comparisons",
            "verdicts",
            "path",
            "repetitions",
            "dose_response",
            "tradeoff",
            "plane",
        ),
        *("profile", "reliability", "race", "probe", "similarity", "predictors"),
        *("oracle", "prompts"),
    ]
    if name in TABLES
]
CASE = "{model}/{quantization}"
# Several models have a first page together, and a page each behind it.
SEVERAL = list(EXPERIMENT.models) if len(EXPERIMENT.models) > 1 else []
NOTEBOOK = NOTEBOOKS / "report.ipynb"
FIRST_NOTEBOOK = NOTEBOOKS / "overview.ipynb" if SEVERAL else NOTEBOOK
ACROSS_FIGURES = catalogue.names("models", TABLES)

# What people open, and the scores: a file that was lost is made again.
SHOWN = [
    f"{RESULTS}/report/index.html",
    f"{RESULTS}/report/answer.json",
    *expand(f"{RESULTS}/report/model.{{model}}.html", model=SEVERAL),
    *expand(
        f"{RESULTS}/tables/{{name}}.{{suffix}}",
        name=[*TABLES, *FLIPS],
        suffix=["csv", "parquet"],
    ),
    *expand(
        f"{RESULTS}/figures/{{name}}.{{suffix}}",
        name=ACROSS_FIGURES,
        suffix=["svg", "json", "png"],
    ),
    *(
        path
        for model in EXPERIMENT.models
        for path in drawn(model, ["svg", "json", "png"])
    ),
    *(
        path
        for model in EXPERIMENT.models
        for stage in ("search", "select", "confirm")
        for path in stage_scores(stage, model)
    ),
    *(path for model in EXPERIMENT.models for path in prompted_scores(model)),
]
# Targets other than `all` make them again too.
RUN.shown = list(map(RUN.placed, SHOWN))


rule plot_search:
    """Draw the figures of a search."""
    input:
        expand(
            f"{RESULTS}/tables/{{name}}.parquet",
            name=SEARCH_TABLES,
        ),
        stamp=script_stamp("plot", statistics=RULES),
    output:
        figures(SEARCH_FIGURES, CASE),
    log:
        f"{LOGS}/plot_search/{{model}}.{{quantization}}.log",
    resources:
        mem_mb=by_attempt(2000),
        runtime=by_attempt(10),
    script:
        "../scripts/plot.py"


rule plot_confirm:
    """Draw the figures of what was confirmed, at one quantization."""
    input:
        expand(
            f"{RESULTS}/tables/{{name}}.parquet",
            name=["comparisons", "verdicts", "costs"],
        ),
        stamp=script_stamp("plot", statistics=RULES),
    output:
        figures(CONFIRM_FIGURES, CASE),
    log:
        f"{LOGS}/plot_confirm/{{model}}.{{quantization}}.log",
    resources:
        mem_mb=by_attempt(2000),
        runtime=by_attempt(10),
    script:
        "../scripts/plot.py"


rule plot_bits:
    """Draw the figures of a model at all of its quantizations."""
    input:
        f"{RESULTS}/tables/bits.parquet",
        stamp=script_stamp("plot", statistics=RULES),
    output:
        figures(["bits"], "{model}"),
    log:
        f"{LOGS}/plot_bits/{{model}}.log",
    resources:
        mem_mb=by_attempt(2000),
        runtime=by_attempt(10),
    script:
        "../scripts/plot.py"


rule provenance:
    """Record versions, hashes and settings of all that the page shows."""
    input:
        [model_manifest(model) for model in EXPERIMENT.models],
        DATA_MANIFESTS,
        expand(f"{RESULTS}/tables/{{name}}.parquet", name=TABLES),
        stamp=script_stamp("provenance", whole=True, config=SETTINGS.plain()),
    output:
        f"{RESULTS}/provenance.json",
    log:
        f"{LOGS}/provenance.log",
    resources:
        mem_mb=by_attempt(1000),
        runtime=by_attempt(10),
    script:
        "../scripts/provenance.py"


rule plot_models:
    """Draw the figures that compare models."""
    input:
        expand(
            f"{RESULTS}/tables/{{name}}.parquet",
            name=[
                name for name in ["comparisons", "sizes", "transfer"] if name in TABLES
            ],
        ),
        stamp=script_stamp("plot", statistics=RULES),
    output:
        figures(ACROSS_FIGURES, "") or f"{RESULTS}/figures/none",
    log:
        f"{LOGS}/plot_models.log",
    resources:
        mem_mb=by_attempt(2000),
        runtime=by_attempt(10),
    script:
        "../scripts/plot.py"


rule render_notebook:
    """Run the notebook and render it as the page, the first one of several models."""
    input:
        notebook=lambda w: RUN.page_stamp(FIRST_NOTEBOOK, CAPTIONS),
        tables=expand(f"{RESULTS}/tables/{{name}}.parquet", name=[*TABLES, *FLIPS]),
        frozen=expand(f"{RESULTS}/frozen/{{model}}.json", model=EXPERIMENT.models),
        figures=[
            path for model in EXPERIMENT.models for path in drawn(model) if not SEVERAL
        ],
        across=[
            f"{RESULTS}/figures/{name}.{suffix}"
            for name in ACROSS_FIGURES
            for suffix in ["svg", "json"]
        ],
        pages=expand(f"{RESULTS}/report/model.{{model}}.html", model=SEVERAL),
        provenance=f"{RESULTS}/provenance.json",
        stamp=script_stamp("render_notebook", whole=True),
    output:
        html=report(
            f"{RESULTS}/report/index.html",
            caption="../report/report.rst",
            category=catalogue.ANSWER,
            labels={"page": "the answer"},
        ),
        answer=f"{RESULTS}/report/answer.json",
    log:
        f"{LOGS}/render_notebook.log",
        notebook=f"{RESULTS}/report/report.ipynb",
    resources:
        mem_mb=by_attempt(2000),
        runtime=by_attempt(20),
    params:
        notebook=FIRST_NOTEBOOK.name,
    script:
        "../scripts/render_notebook.py"


rule render_model:
    """Render the page of one of several models."""
    input:
        notebook=lambda w: RUN.page_stamp(NOTEBOOK, CAPTIONS),
        tables=expand(f"{RESULTS}/tables/{{name}}.parquet", name=[*TABLES, *FLIPS]),
        frozen=expand(f"{RESULTS}/frozen/{{model}}.json", model=EXPERIMENT.models),
        figures=lambda w: drawn(w.model),
        provenance=f"{RESULTS}/provenance.json",
        stamp=script_stamp("render_notebook", whole=True),
    output:
        html=report(
            f"{RESULTS}/report/model.{{model}}.html",
            caption="../report/report.rst",
            category=catalogue.ANSWER,
            labels={"page": "{model}"},
        ),
    log:
        f"{LOGS}/render_model/{{model}}.log",
        notebook=f"{RESULTS}/report/model.{{model}}.ipynb",
    resources:
        mem_mb=by_attempt(2000),
        runtime=by_attempt(20),
    params:
        notebook=NOTEBOOK.name,
    script:
        "../scripts/render_notebook.py"
