"""What the tests on SLURM do to jobs. A folder on PYTHONPATH, so each Python imports this first.

The package itself is what runs; only this is changed, when and if a process imports it:

- Snakemake looks at its jobs every few seconds, not ever less often;
- `device: cuda` gives the CPU, where SLURM gave the job a GPU;
- a job takes memory, or waits half-way, where $FRANKENLAB_TEST has a file that says so;
- what jobs were given and what they computed is written there too.
"""

import json
import os
import sys
import time
from importlib.machinery import PathFinder
from pathlib import Path

FOLDER = Path(os.environ["FRANKENLAB_TEST"])
NAME = []


def pretend_gpu(devices):
    """`usable_device` of a machine whose GPUs are those that SLURM gave."""

    def usable_device(name):
        if name.startswith("cuda"):
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
            slurm = os.environ["SLURM_JOB_ID"]
            write_line("devices", {"job": NAME[-1], "slurm": slurm, "visible": visible})
            if not visible:
                raise devices.UserError("SLURM gave this job no GPU")
        import torch

        return torch.device("cpu")

    devices.usable_device = usable_device


def look_often(plugin):
    """Tiny jobs last seconds: waiting for the next look at them would be the longest of it all."""
    seconds = property(lambda executor: 3, lambda executor, value: None)
    plugin.Executor.next_seconds_between_status_checks = seconds


def watch_job(module):
    """Rule and wildcards are the job's name; it takes the memory that it is told to."""
    original = module.job

    def job(snakemake, **options):
        NAME.append("-".join([snakemake.rule, *snakemake.wildcards]))
        order = FOLDER / f"memory.{NAME[-1]}"
        if order.exists():
            taken = b"x" * (int(order.read_text()) << 20)
            time.sleep(4)  # SLURM looks every second
            del taken
        return original(snakemake, **options)

    module.job = job


def watch_store(module):
    """Rows are written down when computed; before its second part a job may have to wait."""
    original, parts = module.Store.append, []

    def append(store, rows):
        rows = list(rows)
        write_line("rows", [[store.folder.name, row.plan, row.requests] for row in rows])
        parts.append(len(rows))
        hold = FOLDER / f"hold.{NAME[-1]}"
        if len(parts) == 2 and hold.exists():
            # Renamed, so that the next attempt is not held by the same order.
            hold.rename(FOLDER / f"held.{NAME[-1]}.{os.environ['SLURM_JOB_ID']}.{os.getpid()}")
            time.sleep(300)
        original(store, rows)

    module.Store.append = append


def write_line(name, content):
    """Appends to what other processes append to as well."""
    with (FOLDER / name).open("ab", buffering=0) as file:
        file.write(json.dumps(content).encode() + b"\n")


class Finder:
    """Changes modules right after they were imported."""

    changes = {
        "frankenlab.engines.devices": pretend_gpu,
        "frankenlab.runtime.job": watch_job,
        "frankenlab.evaluate.store": watch_store,
        "snakemake_executor_plugin_slurm": look_often,
    }

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        change = cls.changes.get(name)
        spec = change and PathFinder.find_spec(name, path, target)
        if spec:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                change(module)

            spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder)
