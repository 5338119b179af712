# What the jobs are predicted to take and ask for, written when a run starts: only then are the
# limits of the cluster known, and it must make nothing stale.
ASKED = f"{RESULTS}/usage/asked.json"


def write_asked():
    write_json(ASKED, usage.expected(WORKLOAD, partition_limits()))


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
