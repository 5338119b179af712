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
    ]
    if name in TABLES
]
CASE = "{model}/{quantization}"
CAPTIONS = Path(workflow.basedir) / "workflow" / "report"
NOTEBOOK = Path(workflow.basedir) / "notebooks" / "report.ipynb"


rule plot_search:
    input:
        expand(
            f"{RESULTS}/tables/{{name}}.parquet",
            name=SEARCH_TABLES,
        ),
        stamp=script_stamp("plot", statistics=SETTINGS.statistics.plain()),
    output:
        figures(SEARCH_FIGURES, CASE),
    log:
        f"{LOGS}/plot_search/{{model}}.{{quantization}}.log",
    resources:
        mem_mb=by_attempt(2000),
        runtime=by_attempt(20),
    script:
        "../scripts/plot.py"


rule plot_confirm:
    input:
        expand(
            f"{RESULTS}/tables/{{name}}.parquet",
            name=["comparisons", "verdicts", "costs"],
        ),
        stamp=script_stamp("plot", statistics=SETTINGS.statistics.plain()),
    output:
        figures(CONFIRM_FIGURES, CASE),
    log:
        f"{LOGS}/plot_confirm/{{model}}.{{quantization}}.log",
    resources:
        mem_mb=by_attempt(2000),
        runtime=by_attempt(20),
    script:
        "../scripts/plot.py"


rule plot_bits:
    """Draw the figures of a model at all of its quantizations."""
    input:
        f"{RESULTS}/tables/bits.parquet",
        stamp=script_stamp("plot", statistics=SETTINGS.statistics.plain()),
    output:
        figures(["bits"], "{model}"),
    log:
        f"{LOGS}/plot_bits/{{model}}.log",
    resources:
        mem_mb=by_attempt(2000),
        runtime=by_attempt(20),
    script:
        "../scripts/plot.py"


rule provenance:
    """Record versions, hashes and settings of all that the page shows."""
    input:
        [model_manifest(model) for model in EXPERIMENT.models],
        [data_manifest(name) for name in EXPERIMENT.data],
        expand(f"{RESULTS}/tables/{{name}}.parquet", name=TABLES),
        stamp=script_stamp("provenance", config=SETTINGS.plain()),
    output:
        f"{RESULTS}/provenance.json",
    log:
        f"{LOGS}/provenance.log",
    resources:
        mem_mb=by_attempt(1000),
        runtime=by_attempt(10),
    script:
        "../scripts/provenance.py"


rule render_notebook:
    input:
        notebook=lambda w: RUN.page_stamp(NOTEBOOK, CAPTIONS),
        tables=expand(f"{RESULTS}/tables/{{name}}.parquet", name=[*TABLES, *FLIPS]),
        frozen=expand(f"{RESULTS}/frozen/{{model}}.json", model=EXPERIMENT.models),
        search=[
            f"{RESULTS}/figures/{model.name}/{model.reference}/{name}.{suffix}"
            for model in EXPERIMENT.models.values()
            for name in SEARCH_FIGURES
            for suffix in ["svg", "json"]
        ],
        confirm=[
            f"{RESULTS}/figures/{model}/{quantization}/{name}.{suffix}"
            for model, quantization in EXPERIMENT.cells
            for name in CONFIRM_FIGURES
            for suffix in ["svg", "json"]
        ],
        bits=expand(
            f"{RESULTS}/figures/{{model}}/bits.{{suffix}}",
            model=BITS_MODELS,
            suffix=["svg", "json"],
        ),
        provenance=f"{RESULTS}/provenance.json",
        stamp=script_stamp("render_notebook"),
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
        notebook=str(NOTEBOOK),
    script:
        "../scripts/render_notebook.py"
