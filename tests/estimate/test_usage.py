"""What jobs took, from benchmark files and from SLURM's accounting, beside what was predicted."""

from pathlib import Path

import pandas as pd
import pytest

from frankenlab.config import experiment as config
from frankenlab.estimate import accounting, usage
from frankenlab.estimate.accounting import Took, accounted, parse_sacct, record
from frankenlab.estimate.resources import Limit
from frankenlab.estimate.workload import Job, Workload
from frankenlab.report.resources import prediction, resources_html
from tests.support.paths import ROOT

LLAMA = ROOT / "config" / "experiments" / "llama.yaml"

# As `sacct` of SLURM 22.05 prints it: a job with its steps, one that timed out, one that was
# preempted and ran again, one that was cancelled before it started.
SACCT = """\
12|COMPLETED|3600||billing=8,cpu=8,gres/gpu=1,mem=16G,node=1
12.batch|COMPLETED|3600|900.50M|cpu=8,gres/gpu=1,mem=16G,node=1
12.0|COMPLETED|3590|2100.00M|cpu=8,gres/gpu=1,mem=16G,node=1
13|TIMEOUT|600||billing=2,cpu=2,mem=1G,node=1
13.batch|CANCELLED|601||cpu=2,mem=1G,node=1
14|PREEMPTED|300||billing=8,cpu=8,gres/gpu=1,mem=16G,node=1
14.batch|CANCELLED|300|50M|cpu=8,gres/gpu=1,mem=16G,node=1
14|COMPLETED|900||billing=8,cpu=8,gres/gpu=1,mem=16G,node=1
15|CANCELLED by 1000|0||
"""


def test_accounting_has_every_run_and_the_largest_step():
    assert parse_sacct(SACCT) == [
        ("12", Took(3600, 2100, "COMPLETED", 1)),
        ("13", Took(600, None, "TIMEOUT", 0)),
        ("14", Took(300, 50, "PREEMPTED", 1)),
        ("14", Took(900, None, "COMPLETED", 1)),
        ("15", Took(0, None, "CANCELLED", 0)),
    ]


def fake_sacct(folder: Path, body: str) -> None:
    command = folder / "bin" / "sacct"
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\n{body}\n")
    command.chmod(0o755)


def test_jobs_are_found_again_by_the_numbers_that_they_wrote_down(tmp_path, monkeypatch):
    for number, rule in ((12, "evaluate_task"), (13, "evaluate_task"), (14, "measure_cost")):
        monkeypatch.setenv("SLURM_JOB_ID", str(number))
        record(tmp_path, rule)
    record(tmp_path, "measure_cost")
    (tmp_path / "sacct.txt").write_text(SACCT[: SACCT.index("15|")])
    fake_sacct(tmp_path, f'echo "$@" > {tmp_path}/asked; cat {tmp_path}/sacct.txt')
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    found = accounted(tmp_path)
    assert [took.state for took in found["evaluate_task"]] == ["COMPLETED", "TIMEOUT"]
    assert sum(took.seconds for took in found["measure_cost"]) == 1200
    asked = (tmp_path / "asked").read_text()
    assert "--jobs=12,13,14" in asked and "--duplicates" in asked


def test_a_workflow_inside_an_allocation_is_no_rules_time(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    for rule in ("evaluate_task", "measure_cost"):
        record(tmp_path, rule)
    monkeypatch.setattr(accounting, "_sacct", lambda numbers: [(n, None) for n in numbers])
    assert accounted(tmp_path) == {}


def test_without_slurm_or_accounting_there_is_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    record(tmp_path, "evaluate_task")
    assert not (tmp_path / "usage").exists() and accounted(tmp_path) == {}
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    record(tmp_path, "evaluate_task")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert accounted(tmp_path) == {}
    fake_sacct(tmp_path, "echo Slurm accounting storage is disabled >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    assert accounted(tmp_path) == {}


def test_the_benchmark_of_every_job_that_ran_is_found(tmp_path):
    experiment = config.load(LLAMA)
    for path, seconds, memory in (
        ("evaluate_task/search.llama-7b.exl2-6.0.piqa.3.tsv", 100, "2000.5"),
        ("evaluate_task/confirm.llama-7b.none.piqa.0.tsv", 50, "-"),
        # Of a number of shards that the config had once.
        ("evaluate_task/search.llama-7b.exl2-6.0.piqa.30.tsv", 999, "1"),
        ("measure_cost/llama-7b.none.tsv", 7, "3000"),
    ):
        file = tmp_path / "benchmarks" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:00\t{memory}\n")
    found = usage.measured(experiment, tmp_path)
    assert found == {
        "evaluate_task": [Took(100, 2000.5, "", 1), Took(50, None, "", 1)],
        "measure_cost": [Took(7, 3000, "", 1)],
    }
    quantized = Job("quantize_exl2", "llama-7b", "exl2-4.0")
    folder = experiment.quantized_folder("llama-7b")
    name = f"{folder.parent.name}.{folder.name}.exl2-4.0.tsv"
    assert usage.benchmark_file(experiment, quantized) == Path("quantize_exl2", name)


def test_what_is_expected_is_the_sum_over_a_rules_jobs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workload = Workload(config.load(LLAMA))
    free = usage.expected(workload)
    assert list(free) == ["evaluate_task", "measure_cost", "measure_exl2", "quantize_exl2"]
    row = free["measure_exl2"]
    models = [workload.seconds(Job("measure_exl2", name)) for name in workload.experiment.models]
    assert row["jobs"] == 6 and row["predicted_hours"] == pytest.approx(sum(models) / 3600)
    assert row["asked_gpu_hours"] == row["asked_hours"] > row["predicted_hours"]
    capped = usage.expected(workload, [Limit("gpu", 15, 9_000, 1)])["measure_exl2"]
    assert capped["asked_hours"] == 6 * 15 / 60 and capped["asked_mem_mb"] == 9_000


WANTED = {
    rule: {
        "jobs": 2,
        "predicted_hours": 2.0,
        "asked_hours": 4.0,
        "asked_mem_mb": 4000,
        "asked_gpu_hours": 4.0,
    }
    for rule in ("evaluate_task", "measure_cost", "quantize_exl2")
}


def test_accounting_counts_where_there_is_some_and_benchmarks_elsewhere():
    by_benchmark = {
        "evaluate_task": [Took(3600, 2500, "", 1)],
        "measure_cost": [Took(1800, None, "", 1)],
    }
    by_accounting = {
        "evaluate_task": [Took(3600, 2100, "COMPLETED", 1), Took(1800, None, "TIMEOUT", 1)]
    }
    rows = usage.table(WANTED, by_benchmark, by_accounting)
    first, second, third = rows.to_dict("records")
    assert (first["used_hours"], first["used_gpu_hours"], first["runs"]) == (1.5, 1.5, 2)
    assert first["used_mem_mb"] == 2500 and first["ended"] == "COMPLETED 1, TIMEOUT 1"
    assert (first["source"], second["source"], third["source"]) == ("sacct", "benchmark", "")
    assert second["used_hours"] == 0.5 and pd.isna(second["used_mem_mb"])
    assert pd.isna(third["used_hours"]) and third["runs"] == 0


def test_the_page_says_how_far_predictions_were_off():
    took = {
        "evaluate_task": [Took(14400, 2500, "", 0)] * 2,
        "measure_cost": [Took(3600, 1, "", 0)],
    }
    rows = usage.table(WANTED, took, {})
    text = prediction(rows)
    assert "used 2.2 times the predicted time" in text
    assert "evaluate_task 4 times and measure_cost 0.5 times" in text
    assert "not all jobs of measure_cost ran here" in text
    page = resources_html({"resources": rows})
    assert "quantize_exl2" in page and "4,000" in page and "8.00" in page
    assert "Nothing to show" in resources_html({})
    assert "could be compared" in prediction(rows[rows["rule"] == "quantize_exl2"])


def test_a_table_in_which_nothing_was_predicted_or_ran_is_one_too(tmp_path):
    unknown = {rule: row | {"predicted_hours": None} for rule, row in WANTED.items()}
    usage.table(unknown, {}, {}).to_parquet(tmp_path / "t.parquet")
    rows = pd.read_parquet(tmp_path / "t.parquet")
    assert "could be compared" in prediction(rows) and "–" in resources_html({"resources": rows})


def test_lines_of_accounting_that_are_no_run_say_nothing():
    text = (
        "a notice of the cluster\n3.batch|COMPLETED|5|10M|\n7|  |5||\n"
        "7|COMPLETED|sixty||gres/gpu=x\n8.batch|COMPLETED|5|99M|\n7.batch|COMPLETED|5|12M|\n"
    )
    assert parse_sacct(text) == [("7", Took(0.0, 12.0, "COMPLETED", 0))]


@pytest.mark.parametrize("text", ["", "s\tmax_rss\n", "s\tmax_rss\nnan\t1\n", "x\n\0\n", "s\n"])
def test_a_damaged_benchmark_says_nothing(tmp_path, text):
    (tmp_path / "b.tsv").write_text(text)
    assert usage._benchmark(tmp_path / "b.tsv")[0] is None
    (tmp_path / "b.tsv").write_text("s\tmax_rss\n12.5\t-\n")
    assert usage._benchmark(tmp_path / "b.tsv") == (12.5, None)
