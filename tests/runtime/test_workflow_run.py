"""What a workflow's process knows of the cluster before any job runs there."""

import sys
from types import SimpleNamespace

import pytest

from frankenlab.runtime.workflow import WorkflowRun

PARTITIONS = "partitions:\n  {}:\n    max_runtime: 2-00:00:00\n    max_gpu: 4\n"


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A file of partitions for everybody at the site, and one of the user's own."""
    for name in ("site", "own"):
        (tmp_path / name).write_text(PARTITIONS.format(name))
    monkeypatch.setenv("SNAKEMAKE_SLURM_PARTITIONS", str(tmp_path / "site"))
    return tmp_path


def names(workflow) -> list[str]:
    run = object.__new__(WorkflowRun)
    run.workflow = workflow
    assert all((limit.runtime, limit.gpus) == (2880, 4) for limit in run.limits)
    return [limit.name for limit in run.limits]


def test_a_run_reads_the_partitions_that_the_executor_reads(files):
    def with_settings(**settings):
        return names(SimpleNamespace(dryrun=False, executor_settings=SimpleNamespace(**settings)))

    assert with_settings(jobname_prefix="", partition_config=None) == ["site"]
    assert with_settings(jobname_prefix="", partition_config=files / "own") == ["own"]
    assert with_settings() == []


@pytest.mark.slow
def test_a_dry_run_reads_them_too(files, monkeypatch):
    def with_arguments(*arguments):
        monkeypatch.setattr(sys, "argv", ["snakemake", "--dry-run", "--cores", "1", *arguments])
        return names(SimpleNamespace(dryrun=True, rundir=str(files)))

    # As under `--directory`: a profile stands where the command was given.
    (files / "profile").mkdir()
    (files / "profile" / "config.yaml").write_text("executor: slurm\n")
    (files / "elsewhere").mkdir()
    monkeypatch.chdir(files / "elsewhere")
    assert with_arguments("--profile", "profile", "--directory", "elsewhere") == ["site"]
    slurm = ("--executor", "slurm")
    assert with_arguments(*slurm) == ["site"]
    assert with_arguments(*slurm, "--slurm-partition-config", str(files / "own")) == ["own"]
    assert with_arguments() == []
