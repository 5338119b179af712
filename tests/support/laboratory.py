"""A copy of the repository with a tiny experiment in it, to run Snakemake on."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from tests.support.paths import ROOT
from tests.support.tiny import make_tiny_model

PARTS = ("Snakefile", "workflow", "notebooks", "profiles", "src", "config/tasks")

# Tiny jobs: two at a time instead of each with all cores.
MODEL_RULES = ("evaluate", "confirm", "confirm_prompts", "measure_cost", "probe")
FAST = ("--set-threads", *(f"{rule}=1" for rule in MODEL_RULES))
LOCAL = ("--cores", "all")
CONFIG = "tiny.yaml"

NOUNS = ("river", "mill", "water", "animal", "fish", "bird", "ice", "light", "sugar", "engine")

CHOICE_TASK = """
task: {name}
dataset_path: local
output_type: multiple_choice
doc_to_text: "{{{{question}}}}{suffix}"
doc_to_target: "{{{{answer}}}}"
doc_to_choice: "{{{{choices}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""

ROLLING_TASK = """
task: passages
dataset_path: local
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{passage}}"
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
"""


def left_of(text: str) -> Counter:
    """Return rule -> how many jobs are left, by the summary of a dry run."""
    lines = re.findall(r"^  (\w+): \d+ in all, (\d+) left", text, re.MULTILINE)
    return +Counter({rule: int(count) for rule, count in lines})


def listed(text: str) -> Counter:
    """Return rule -> how many jobs are to run, by Snakemake's own table."""
    lines = [line.split() for line in text.splitlines()]
    counts = {x[0]: int(x[1]) for x in lines if len(x) == 2 and x[1].isdigit()}
    # These are targets, which do nothing.
    targets = ("total", "all", "fetch")
    return Counter({rule: n for rule, n in counts.items() if rule not in targets})


def copy_parts(folder: Path) -> None:
    """Copy the parts of the repository that a workflow needs."""
    for part in PARTS:
        source, target = ROOT / part, folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)


class Laboratory:
    """The copy, its config, and Snakemake on both.

    Attributes:
        how: arguments of every run.
        repository: where the copied repository is.
        configured: arguments of every run on the config as it stands.
        environment: what runs have in their environment besides that of the tests.
        python: what runs begin with.
    """

    how: tuple[str, ...] = LOCAL
    environment: dict[str, str] = {}
    python: tuple[str, ...] = (sys.executable,)
    config_file = CONFIG
    configured: tuple[str, ...] = ("--configfile", CONFIG)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = self._copy_repository()
        make_tiny_model(folder / "tiny-model", n_layers=4, hidden=64)
        self._write_data()
        self.write_task("animals")
        self.write_task("liquids")
        self.config: dict[str, Any] = {
            "experiment": "tiny",
            "models": {"tiny": {"source": {"path": "tiny-model"}, "n_layers": 4}},
            "tasks": {
                "animals": self._task("search", "acc", "animals.jsonl"),
                "liquids": self._task("search", "acc", "liquids.jsonl"),
                "passages": self._task("guard", "word_perplexity", "passages.jsonl"),
            },
            "plans": [
                {"generator": "layer", "times": 2},
                {"generator": "block", "length": 2, "times": [2, 3]},
            ],
            "stages": {
                "search": {"limit": 20},
                "select": {"shortlist": 3},
                "confirm": {"limit": 30},
            },
            "statistics": {"resamples": 200},
            "cost": {"repeats": 1},
        }

    def _copy_repository(self) -> Path:
        """Copy what the workflow needs of the repository; return where it is."""
        copy_parts(self.folder)
        return self.folder

    @property
    def results(self) -> Path:
        return self.folder / "results" / "tiny"

    def write_task(self, name: str, suffix: str = "") -> None:
        """A multiple-choice task; `suffix` is the end of its prompt."""
        path = self.folder / "config" / "tasks" / f"{name}.yaml"
        path.write_text(CHOICE_TASK.format(name=name, suffix=suffix))

    def snakemake(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        """Runs Snakemake on the config as it stands now."""
        process = self.start(*arguments)
        stdout, stderr = process.communicate()
        done = subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
        assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        return done

    def start(self, *arguments: str) -> subprocess.Popen:
        """The same without waiting for its end."""
        self.write_config()
        command = [*self.python, "-m", "snakemake", *arguments, *FAST, *self.how]
        return self._start(*command, *self.configured)

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        """Runs Snakemake on a config of another name, which `arguments` give."""
        return self._run(*self.python, "-m", "snakemake", *arguments, *FAST, *self.how)

    def command(self, *arguments: str) -> subprocess.CompletedProcess:
        """Runs the command `frankenlab` of the copy."""
        return self._run(*self.python, "-m", "frankenlab", *arguments)

    def write_config(self) -> None:
        """Writes the config as it stands now, if the file says something else."""
        config = self.folder / self.config_file
        text = yaml.safe_dump(self.config, sort_keys=False)
        if not config.is_file() or config.read_text() != text:
            config.write_text(text)

    def _run(self, *command: str) -> subprocess.CompletedProcess:
        process = self._start(*command)
        stdout, stderr = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def _start(self, *command: str) -> subprocess.Popen:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def jobs(self, *arguments: str) -> Counter:
        """Rule -> how many jobs Snakemake would run now, by its own table; the summary that a dry
        run ends with has to say the same."""
        text = self.snakemake(*arguments, "--dry-run", "--quiet", "reason", "rules").stdout
        table = listed(text)
        assert table == left_of(text) or "jobs: " not in text
        return table

    def scored(self) -> Counter:
        """(task, plan, requests) -> how often it was ever scored."""
        rows: Counter = Counter()
        for path in (self.folder / "results" / "store").glob("*/part-*.parquet"):
            task = json.loads((path.parent / "identity.json").read_text())["task"]
            part = pd.read_parquet(path, columns=["plan", "requests"])
            rows.update((task, *row) for row in part.itertuples(index=False, name=None))
        return rows

    def _environment(self) -> dict[str, str]:
        """With the copied package, not the one that is installed."""
        return os.environ | {"PYTHONPATH": str(self.repository / "src")} | self.environment

    def _task(self, role: str, metric: str, file: str) -> dict[str, Any]:
        return {"role": role, "metric": metric, "data": {"file": file}}

    def _write_data(self) -> None:
        draw = random.Random(7)
        for name in ("animals", "liquids"):
            docs = [
                {
                    "question": f"Which {draw.choice(NOUNS)} {name} number {i}? The answer is",
                    "choices": draw.sample(NOUNS, 3),
                    "answer": draw.randrange(3),
                }
                for i in range(150)
            ]
            self._write_lines(f"{name}.jsonl", docs)
        (self.folder / "config" / "tasks" / "passages.yaml").write_text(ROLLING_TASK)
        for name in ("passages", "calibration"):
            texts = [" ".join(draw.choices(NOUNS, k=draw.randrange(5, 30))) for _ in range(40)]
            self._write_lines(f"{name}.jsonl", [{"passage": text} for text in texts])

    def _write_lines(self, name: str, docs: list[dict[str, Any]]) -> None:
        (self.folder / name).write_text("".join(json.dumps(doc) + "\n" for doc in docs))
