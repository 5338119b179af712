"""The workflow as a module of other people's projects, which `snakedeploy` makes too.

The tests share one finished run of the tiny experiment in a project; each that changes its
Snakefile changes it back.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from frankenlab.runtime import lock
from tests.support.laboratory import left_of
from tests.support.project import Project
from tests.support.warm_python import warm_python

pytestmark = pytest.mark.slow

PART = "results/tiny/scores/search/tiny/none/animals.0.parquet"

# Rules of the project's own: one that the module's results go into, and one of it changed.
MORE = """
use rule confirm from frankenlab as fl_confirm with:
    threads: 1
    resources:
        mem_mb=777,


rule mine:
    input:
        rules.fl_all.input,
    output:
        "mine.txt",
    shell:
        "touch {output}"
"""


# A second module beside the first one, which has the same models and data.
SECOND = """
module second:
    snakefile:
        github("frankenlab/frankenlab", path="workflow/Snakefile", tag="v1")
    config:
        {config}
    {prefix}


use rule * from second as b_*


rule both:
    default_target: True
    input:
        rules.a_all.input,
        rules.b_all.input,
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("deployed") / "project")
    project.python = warm_python()
    project.snakemake()
    return project


@pytest.fixture
def project(finished: Project) -> Iterator[Project]:
    yield finished
    finished.declare()


def test_a_deployed_project_makes_the_page_and_then_nothing_is_stale(project: Project) -> None:
    assert "free lunch" in (project.results / "report" / "index.html").read_text().lower()
    verdicts = pd.read_csv(project.results / "tables" / "verdicts.csv")
    assert set(verdicts["task"]) == {"animals", "liquids", "passages"}
    assert project.jobs() == Counter()


def test_a_project_can_be_run_from_another_folder(project: Project, tmp_path: Path) -> None:
    snakefile = project.folder / "workflow" / "Snakefile"
    where = ("--snakefile", str(snakefile), "--directory", str(project.folder))
    folder, project.folder = project.folder, tmp_path
    try:
        command = (*project.python, "-m", "snakemake", *where, *project.how)
        text = project._run(*command, "--dry-run", "--quiet", "rules").stdout
    finally:
        project.folder = folder
    assert "none left to do" in text and not any(tmp_path.iterdir())


def test_renamed_rules_are_the_same_jobs_beside_rules_of_the_projects_own(
    project: Project,
) -> None:
    ours = left_of(project.snakemake("--dry-run", "--forceall", "--quiet", "reason").stdout)
    project.declare(how="as fl_*", more=MORE)
    text = project.snakemake("mine", "--dry-run", "--quiet", "reason").stdout
    assert "none left to do" in text and text.count("experiment tiny") == 1
    text = project.snakemake("mine", "--dry-run", "--forceall", "--quiet", "reason").stdout
    assert left_of(text) == ours and (ours["evaluate"], ours["confirm"]) == (2, 1)
    (changed,) = re.findall(r"^rule fl_confirm:\n(?:    .*\n)*?    resources: (.*)", text, re.M)
    assert "mem_mb=777" in changed
    # The same plans are frozen again, so that nothing is scored again.
    done = project.snakemake("mine", "--forcerun", "fl_freeze")
    assert "checkpoint fl_freeze:" in done.stderr and "rule fl_confirm:" not in done.stderr
    assert project.jobs("mine") == Counter()


def test_a_prefix_moves_the_results_of_a_second_module_and_shares_models_and_data(
    project: Project,
) -> None:
    before = project.scored()
    second = SECOND.format(config="config", prefix='prefix: "moved"')
    project.declare(how="as a_*", more=second)
    planned = project.snakemake("--dry-run").stdout
    outputs = [line.split()[1] for line in planned.splitlines() if "    output: " in line]
    assert outputs and all(path.startswith("moved/results/tiny/") for path in outputs)
    assert "rule a_" not in planned and "_download_model:" not in planned
    project.snakemake(f"moved/{PART}")
    moved, there = project.folder / "moved", project.folder
    pd.testing.assert_frame_equal(pd.read_parquet(moved / PART), pd.read_parquet(there / PART))
    assert {path.name for path in (moved / "results").iterdir() if path.name[0] != "."} == {
        *("store", "tiny")
    }
    assert project.scored() == before and [*moved.iterdir()] == [moved / "results"]
    assert project.jobs(f"moved/{PART}") == Counter()


def test_two_modules_with_other_configs_have_other_results(project: Project) -> None:
    project.declare(
        how="as a_*", more=SECOND.format(config='{**config, "token_budget": 256}', prefix="")
    )
    done = project.snakemake("--dry-run", check=False)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert (
        "two modules of this workflow have other configs and the same results/tiny/" in done.stderr
    )


def test_a_report_needs_no_experiment_in_the_projects_own_config(project: Project) -> None:
    snakefile = project.folder / "workflow" / "Snakefile"
    own = 'OURS = __import__("yaml").safe_load(open("config/config.yaml"))'
    text = snakefile.read_text().replace('configfile: "config/config.yaml"', own)
    snakefile.write_text(text.replace("config:\n        config", "config:\n        OURS"))
    project.snakemake("--report", "page.html")
    assert "the chance that an experiment claims anything" in (
        (project.folder / "page.html").read_text().lower()
    )


def test_a_module_runs_beside_no_other_workflow(project: Project) -> None:
    held = lock.take(project.results, "tiny")
    try:
        done = project.snakemake("--forcerun", "tables", check=False)
    finally:
        held.release()
    assert done.returncode != 0 and "another workflow is running on results/tiny/" in done.stderr
    assert "Traceback" not in done.stderr and "rule tables" not in done.stderr


def test_a_module_makes_nothing_again_that_another_experiment_may_be_using(
    project: Project,
) -> None:
    held = lock.take(project.folder / "results" / "another", "another")
    try:
        done = project.snakemake("--forcerun", "download_model", check=False)
    finally:
        held.release()
    assert done.returncode != 0 and "rule download_model" not in done.stderr
    assert "manifest.json is to be made again, and experiment another, " in done.stderr
