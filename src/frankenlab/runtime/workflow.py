"""What the process that runs Snakemake does around its jobs: lock, stamps, warnings, summary."""

import atexit
import json
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import chdir
from functools import cached_property
from pathlib import Path
from typing import Any

from snakemake.cli import parse_args
from snakemake.io import local

from frankenlab.config.experiment import Experiment
from frankenlab.config.stages import SEARCH, Stage
from frankenlab.estimate.asked import asked
from frankenlab.estimate.jobs import planned_jobs
from frankenlab.estimate.memory import too_large
from frankenlab.estimate.resources import Limit, predict, read_limits
from frankenlab.estimate.summary import grid_summary, jobs_summary
from frankenlab.io import fingerprints
from frankenlab.io.directories import complete_manifest
from frankenlab.io.errors import UserError
from frankenlab.models.data_sets import DataSet
from frankenlab.models.fetch import conversion
from frankenlab.models.sources import Source, Use, is_gguf, source_identity
from frankenlab.plans.grid import notices
from frankenlab.runtime import lock, network, orphans, places
from frankenlab.runtime.command import COMMAND_VARIABLE, command_line
from frankenlab.runtime.lost import to_make_again
from frankenlab.runtime.making import Making
from frankenlab.runtime.processes import CORES_VARIABLE, WORKFLOW_VARIABLE, stop_jobs_first
from frankenlab.runtime.stamps import Stamps, task_facts

# The SLURM executor's own: its file of partitions, where no `slurm-partition-config` is given.
PARTITIONS_VARIABLE = "SNAKEMAKE_SLURM_PARTITIONS"


class WorkflowRun:
    """Snakemake at work on an experiment: a run, or a dry run, a summary or a report, which change
    nothing, or the process of a single job.

    `modules.workflow_run` makes it where the rules are read.

    Attributes:
        results: the folder of the experiment's results, below the prefix of a module that has one.
        checkpoints: Snakemake's own of the first reading: one for a single rule has no others.
    """

    # Of all experiments that a process runs.
    _making = Making()

    def __init__(self, workflow: Any, experiment: Experiment, results: str, rules: Any) -> None:
        self.workflow, self.experiment, self.results = workflow, experiment, results
        self.checkpoints = workflow.globals["checkpoints"]
        self._rules, self._names = rules, dict[str, str]()
        # Where this was called: workflow/rules, which may lie in a hosted repository.
        self._folder = workflow.current_basedir
        # Snakemake has left the folder of `--directory` again when the process ends.
        self._cwd = os.getcwd()
        self._is_module = not workflow.modifier.is_main_snakefile()
        self.prediction = predict(experiment)
        self.workload = self.prediction.workload
        self._stamps = Stamps(f"{results}/stamps")
        # Models and data are shared by all experiments, and so is what says that they are stale: a
        # file of another name would make them stale too.
        self._shared_stamps = Stamps("resources/stamps")
        # Files that several experiments may want to make; to be set before the graph is built.
        self.shared: Sequence[str] = ()
        # Files of a finished experiment that people may miss; to be set as early.
        self.shown: Sequence[str] = ()
        self._started = self._made_again = False
        grids = {model: self.workload.grid(model).grid for model in experiment.models}
        network.forbid()
        # Jobs end with the process that started them, however it ends.
        os.environ[WORKFLOW_VARIABLE] = str(os.getpid())
        if workflow.is_main_process:
            os.environ[COMMAND_VARIABLE] = command_line(sys.argv)
            os.environ[CORES_VARIABLE] = str(workflow.resource_settings.cores or "")
            self._asked = asked(experiment, os.environ)
            # Only at the end is it known whether this was a dry run.
            atexit.register(self._print_summary)
            for line in too_large(self.workload):
                print(f"warning: {line}; it will be refused", file=sys.stderr)
            for model, grid in grids.items():
                for line in notices(grid):
                    print(f"notice: {model}: {line}", file=sys.stderr)

    @property
    def running(self) -> bool:
        """True if jobs are going to run. Snakemake knows it when it begins to build its graph:
        before that, and for a summary or a report, it has no executor."""
        workflow = self.workflow
        executor = workflow.is_main_process and workflow.executor_plugin is not None
        return executor and not workflow.dryrun

    @property
    def reporting(self) -> bool:
        """True for `snakemake --report`, which runs no job."""
        options = {argument.partition("=")[0] for argument in sys.argv[1:]}
        asked = "--report" in options and "--report-after-run" not in options
        return self.workflow.is_main_process and asked

    @cached_property
    def refusal(self) -> str:
        """The reason why this process may not change the results; "" once it holds their lock,
        which it keeps to its end, and may make what is missing of the files that it shares."""
        try:
            lock.take(self.results, self.experiment.name)
            places.note(Path(self.results).parent)
            self._making.claim(self.shared, self.experiment.name)
        except UserError as error:
            return str(error)
        # The executor, which comes after the graph, names its jobs by the experiment. It removes
        # empty folders of logs, in which jobs of others may be about to write.
        settings = self.workflow.executor_settings
        if hasattr(settings, "jobname_prefix"):
            # One of several experiments of a workflow names them all.
            if not (settings.jobname_prefix or "").startswith(f"{orphans.PREFIX}_"):
                settings.jobname_prefix = orphans.job_prefix(self.results)
            settings.logdir = settings.logdir or Path(self.results, "slurm-logs").absolute()
        return ""

    def may_write(self) -> bool:
        """Tell whether this is a run that has the results; it takes them at the first call, which
        is to come before Snakemake looks which files there are. That of a module starts here."""
        if self._is_module and self.running:
            self.start()
        return self.running and not self.refusal

    def start(self) -> None:
        """Take the results for this run, before its first job starts; a second call does nothing.

        Raises:
            SystemExit: another workflow has them or uses what this one is to make again, or jobs of
                an earlier one are still there.
        """
        if self._started:
            return
        self._started = True
        # From here on a signal ends the jobs first. Snakemake's own lock outlives a kill; ours ends
        # with this process, so that jobs found now are those of a workflow that was killed.
        stop_jobs_first()
        if self.refusal:
            raise SystemExit(self.refusal)
        try:
            # The graph of a module is not whole here.
            if not self._is_module:
                self._settle_making()
            orphans.check_none(".", self.results)
        except UserError as error:
            # A workflow that runs here can do without a cluster that is down.
            if self.workflow.non_local_exec or not isinstance(error, orphans.NoAnswer):
                raise SystemExit(str(error)) from None
        if self._is_module:
            # Snakemake heeds the `onstart` and `onerror` of the main workflow only.
            atexit.register(self.fail)
            self._settle_on_start(self.workflow._onstart)

    def _settle_on_start(self, own: Callable[[Any], None]) -> None:
        """Have the main workflow's `onstart`, which comes once the graph is whole, settle what a
        module makes, after `own`, which it has already."""

        def settle(log: Any) -> None:
            own(log)
            try:
                self._settle_making()
            except UserError as error:
                raise SystemExit(str(error)) from None

        self.workflow._onstart = settle

    def _settle_making(self) -> None:
        """Keep the right to make the shared files that this run will make, and no others.

        Raises:
            UserError: another experiment may be using one that is to be made again.
        """
        dag = self.workflow.dag
        made = [path for job in dag.needrun_jobs() for path in job.output]
        # After a checkpoint there may be more jobs.
        whole = not any(map(dag.needrun, dag.checkpoint_jobs))
        self._making.plan(made, self.experiment.name, whole)

    def name_rules(self) -> None:
        """Note how Snakemake calls our rules, as long as it tells: once it reads a module's files
        again for one rule, it forgets the others' new names."""
        there = {id(rule) for rule in self.workflow.rules}
        self._names |= {
            proxy.rule.name: name
            for name, proxy in self._rules._rules.items()
            if id(proxy.rule) in there
        }

    def placed(self, path: str) -> str:
        """Return where a path of the rules lies on disk."""
        return placed(self.workflow, path)

    def fail(self) -> None:
        """Cancel what a workflow that ends early leaves in SLURM's queue.

        At Ctrl-C the executor cancels the jobs that it knows of, and not those that it was
        submitting or asking about in that moment. We have the lock, so what is left is ours.
        """
        if self.workflow.non_local_exec and not self.refusal:
            try:
                orphans.cancel(self._cwd, orphans.orphans(self._cwd, self.results))
            except UserError as error:
                print(error, file=sys.stderr)

    def stamp(self, name: str, content: Callable[[], Any], stamps: Stamps | None = None) -> str:
        """Return a small file that changes when, and only when, what `content` returns does.

        As an input it makes a job stale exactly then: a comment or a fresh checkout changes
        nothing, and results that were copied without Snakemake's own metadata still carry it. To be
        called by input functions, for only then it is known whether it may be written.
        """
        stamps = stamps or self._stamps
        # Jobs need the path only: the content takes seconds to work out. It is the whole path,
        # before which Snakemake must not put a prefix once more: hence `local`.
        if not self.workflow.is_main_process:
            return local(str(stamps.place(name)))
        write = self.may_write()
        self._make_again()
        try:
            found = stamps.known(name) or stamps.file(
                name, json.dumps(content(), indent=1, sort_keys=True) + "\n", write
            )
        except UserError as error:
            raise SystemExit(str(error)) from None
        return local(str(found))

    def script_stamp(
        self, name: str, settings: Mapping[str, Any], whole: bool = False, key: str = ""
    ) -> str:
        """Return the stamp of a script with all of the package that its numbers depend on, and the
        settings that it reads.

        Args:
            whole: with what surrounds its job too, as what it writes down is not only numbers.
            key: the folder that the script writes to, if experiments share it; those that quantize
                otherwise have another one.
        """
        without = () if whole else fingerprints.SURROUNDINGS
        return self.stamp(
            f"scripts/{name}.{key}" if key else f"scripts/{name}",
            lambda: {"code": self._code_of(f"../scripts/{name}.py", without), "settings": settings},
            self._shared_stamps if key else None,
        )

    def cell_stamp(
        self, name: str, model: str, quantization: str, settings: Mapping[str, Any]
    ) -> str:
        """Return the stamp of a script for a model at a quantization: with the code of the engine
        that runs these weights, and no other's."""
        engine = self.experiment.engine(model, quantization)
        without = [*fingerprints.SURROUNDINGS, *fingerprints.other_engines(engine)]
        return self.stamp(
            f"scripts/{name}.{model}.{quantization}",
            lambda: {
                "code": self._code_of(f"../scripts/{name}.py", without),
                "engine": engine,
                "libraries": fingerprints.engine_libraries(engine, self.experiment.settings.device),
                "device": self.experiment.settings.device,
                "settings": settings,
            },
        )

    def _code_of(self, path: str, without: Collection[str]) -> str:
        """Return the fingerprint of a file of the workflow, which is fetched where it is hosted."""
        file = self._folder.join(path)
        there = file.get_path_or_uri(secret_free=True)
        if not os.path.isfile(there):
            there = self.workflow.sourcecache.get_path(file)
        return fingerprints.code_fingerprint(Path(there), without=without)

    def page_stamp(self, notebook: Path, captions: Path) -> str:
        """Return the stamp of what the page is made of beside the results: the notebook with its
        code, whatever the layout of its file, and the captions."""
        return self.stamp(
            f"notebooks/{notebook.stem}",
            lambda: {
                "notebook": json.loads(notebook.read_text(encoding="utf-8")),
                "code": fingerprints.code_fingerprint(notebook),
                "captions": {
                    str(path.relative_to(captions)): path.read_text(encoding="utf-8")
                    for path in captions.rglob("*.rst")
                },
            },
        )

    def source_stamp(self, folder: str, source: Source | DataSet, use: Use) -> str | list[str]:
        """Return the stamp of a source on this machine, which can change; others need none."""
        if isinstance(source, DataSet) or source.kind != "path":
            self.may_write()
            return []
        name = f"{use}.{folder}"
        return self.stamp(name, lambda: source_identity(source, use), self._shared_stamps)

    def conversion_stamp(self, source: Source) -> str | list[str]:
        """Return the stamp of the conversion of a GGUF file; other sources need none."""
        if not is_gguf(source):
            return []
        return self.stamp("gguf", conversion, self._shared_stamps)

    def whole(self, manifests: Sequence[str]) -> Sequence[str]:
        """Return the manifests of downloads; those whose files were purged are made again.

        To be called by input functions.
        """
        for manifest in manifests:
            if Path(manifest).is_file() and complete_manifest(Path(manifest).parent) is None:
                self.workflow.dag.forcefiles.add(manifest)
        return manifests

    def task_stamp(self, stage: Stage, task: str, model: str, quantization: str) -> str:
        """Return the stamp of a task in a stage: prompt, data, documents, and arithmetic."""
        return self.stamp(
            f"tasks/{stage}.{task}.{model}.{quantization}",
            lambda: {
                **task_facts(self.experiment, task),
                "limit": self.experiment.limit(stage, task),
                "precision": self.experiment.precision(stage, model, quantization),
                "controls": self.experiment.runs_controls(model, quantization, task),
            },
        )

    def prompts_stamp(self, task: str, model: str, quantization: str) -> str:
        """Return the stamp of a search task whose prompts are read alone, whatever its limit."""
        precision = self.experiment.precision(Stage(SEARCH), model, quantization)
        return self.stamp(
            f"tasks/prompts.{task}.{model}.{quantization}",
            lambda: {**task_facts(self.experiment, task), "precision": precision},
        )

    def shard_stamp(self, model: str, shard: int) -> str:
        """Return the stamp of the plans in one shard of a model's grid."""
        return self.stamp(
            f"shards/{model}.{shard}",
            lambda: [
                [item.plan.text, item.group]
                for item in self.workload.grid(model).shards[shard].items
            ],
        )

    @cached_property
    def limits(self) -> tuple[Limit, ...]:
        """The limits of the SLURM executor's partitions; none with another executor."""
        if self.workflow.dryrun:
            # It has no executor; which one it stands for is on the command line or in a profile.
            with chdir(self.workflow.rundir):  # a profile may be relative to it
                given = parse_args(sys.argv[1:])[1]
            path, slurm = getattr(given, "slurm_partition_config", None), given.executor == "slurm"
        else:
            given = self.workflow.executor_settings
            path, slurm = getattr(given, "partition_config", None), hasattr(given, "jobname_prefix")
        # The command line has a mark of its own for what is not given.
        if not isinstance(path, str | Path):
            path = os.environ.get(PARTITIONS_VARIABLE) if slurm else None
        return read_limits(Path(path)) if path else ()

    def _make_again(self) -> None:
        """Have Snakemake make again what was damaged or lost, whatever the target is."""
        if not self._made_again:
            self._made_again = True
            self.workflow.dag.forcefiles |= to_make_again(self.results, self.shown)

    def _print_summary(self) -> None:
        # Without a scheduler Snakemake ended before its graph was whole, and has said why.
        if not self.workflow.dryrun or self.workflow.scheduler is None:
            return
        os.chdir(self._cwd)
        try:
            wanted, prediction = self._asked, self.prediction.thorough(self._asked.speeds)
            self.name_rules()
            jobs = planned_jobs(self.experiment, self.workflow.dag, self._names)
            print(grid_summary(prediction))
            print(jobs_summary(prediction, jobs, wanted.gpus, self.limits, wanted.cards))
        except UserError as error:
            print(error, file=sys.stderr)


def placed(workflow: Any, path: str) -> str:
    """Return a path as Snakemake changes it for the rules of the file that is being read."""
    changed: str = workflow.modifier.path_modifier.replace_prefix(path, "output")
    return changed
