rule resources:
    """Predicted, asked and used: time, memory and GPU hours of each rule."""
    input:
        # Comes after every job that is measured.
        f"{RESULTS}/tables/costs.parquet",
        stamp=script_stamp("resources"),
    output:
        csv=report(
            f"{RESULTS}/tables/resources.csv",
            caption="../report/resources.rst",
            category="Tables",
            labels={"table": "resources"},
        ),
        parquet=f"{RESULTS}/tables/resources.parquet",
    log:
        f"{LOGS}/resources.log",
    # Where the workflow runs there is sacct, if anywhere.
    localrule: True
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        asked=ASKED,
    script:
        "../scripts/resources.py"
