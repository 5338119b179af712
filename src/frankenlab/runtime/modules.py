"""Experiments of one workflow: it may import frankenlab as several modules."""

from typing import Any

from frankenlab.config.experiment import Experiment
from frankenlab.io.errors import UserError
from frankenlab.runtime.workflow import WorkflowRun, placed

# What these make is the same for all experiments.
SHARED = ("download_model", "download_data", "measure_exl2", "quantize_exl2")

# With Snakemake's names of their rules that make it.
_RUNS: list[tuple[WorkflowRun, dict[str, str]]] = []


def workflow_run(workflow: Any, experiment: Experiment, rules: Any) -> WorkflowRun:
    """Return Snakemake's run of an experiment.

    There is one for a process: `use rule ... with` reads a module's files once more each time.

    Args:
        workflow, rules: Snakemake's own, of the file that is being read.

    Raises:
        UserError: a plan or a variable of the environment is wrong, or another experiment of the
            workflow has the same results.
    """
    results = placed(workflow, f"results/{experiment.name}")
    for run, _ in _RUNS:
        if (run.workflow, run.results) == (workflow, results):
            if run.experiment != experiment:
                raise UserError(
                    f"two modules of this workflow have other configs and the same {results}/; "
                    'give one of them another "experiment" or a "prefix:"'
                )
            run.name_rules()
            return run
    made = WorkflowRun(workflow, experiment, results, rules)
    _RUNS.append((made, _shared_rules(workflow.modifier)))
    for rule in SHARED:
        names = [names[rule] for run, names in _RUNS if run.workflow is workflow and rule in names]
        # Where several can make a file, the first does.
        if len(names) > 1:
            workflow._ruleorder.add(*names)
    return made


def _shared_rules(modifier: Any) -> dict[str, str]:
    """Return our name -> Snakemake's of the rules that are read and make what is shared."""
    return {
        rule: modifier.modify_rulename(rule) for rule in SHARED if modifier.avail_rulename(rule)
    }
