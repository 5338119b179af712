"""How often do whole experiments claim something false, and how often do they find what is there?

Experiments are drawn in worlds whose truth is known, and go through the project's own steps: search
(or race), shortlist, select, freeze, confirm, verdicts. Each claim is compared with the truth. The
output is a page of Markdown tables.

    python benchmarks/error_rates.py --draws 50                      # a quick look: minutes
    python benchmarks/error_rates.py --settings null skewed          # names may be beginnings
    python benchmarks/error_rates.py --output benchmarks/error_rates.md
"""

import argparse
import multiprocessing
import os
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from subprocess import run
from typing import Any

import pandas as pd
from error_rates_experiments import Sizes, experiments
from error_rates_tables import page
from error_rates_worlds import Setting

from frankenlab.io.signals import die_with_parent

SIZES = {
    "150 documents": Sizes((100, 100), (80, 80), (150, 150), guard=(150, 150), passages=40),
    "default": Sizes(
        (142, 218), (85, 131), (342, 523), guard=(1600, 300), passages=150, rounds=(20, 50)
    ),
}

SKEWS = (-0.5, -2.0, -5.8, 0.5, 2.0, 5.8)
RARE = (0.01, 0.01)
SETTINGS = {
    "null": Setting(),
    **{f"planted +{g}": Setting(gain=g) for g in (3, 5, 10)},
    **{f"neighbourhood +{g}": Setting(gain=g, neighbourhood=True) for g in (3, 5, 10)},
    **{f"skewed {s:+g}": Setting(skew=s) for s in SKEWS},
    **{f"skewed {s:+g}, 3 perplexities": Setting(skew=s, perplexities=3) for s in SKEWS},
    "margin": Setting(guard_effect=-3.0, passage_effect=-3.0),
    **{
        f"margin, skewed {s:+g}": Setting(passage_effect=-3.0, skew=s, perplexities=3)
        for s in (-0.5, -2.0, -5.8)
    },
    "rare flips": Setting(flips=RARE),
    "rare flips, margin": Setting(flips=RARE, guard_effect=-3.0, passage_effect=-3.0),
    "clustered, declared": Setting(cluster=4),
    "clustered, undeclared": Setting(cluster=4, declared=False),
}
# Experiments that share resamples: fewer take longer, more take memory.
BATCH = 50


def chosen(beginnings: Iterable[str]) -> dict[str, Setting]:
    """Return the settings whose names begin with one of these; all where there are none.

    Raises:
        SystemExit: no name begins so.
    """
    beginnings = list(beginnings)
    for beginning in beginnings:
        if not any(name.startswith(beginning) for name in SETTINGS):
            raise SystemExit(f"--settings {beginning}: no such setting; there are {[*SETTINGS]}")
    return {n: s for n, s in SETTINGS.items() if not beginnings or n.startswith((*beginnings,))}


def batches(draws: int) -> list[int]:
    """Return how many experiments each job draws."""
    return [min(BATCH, draws - first) for first in range(0, draws, BATCH)]


def groups(settings: Mapping[str, Setting]) -> dict[object, dict[str, Setting]]:
    """Return the settings in groups that can share their searches, by what these depend on."""
    found: dict[object, dict[str, Setting]] = {}
    for name, setting in settings.items():
        found.setdefault(setting.search, {})[name] = setting
    return found


def drawn(
    settings: Mapping[str, Setting], sizes: Sizes, draws: int, seed: int, workers: int
) -> Iterator[dict[str, pd.DataFrame]]:
    """Yield the experiments of each setting, a row each, with one more batch of each every time."""
    # Each worker has one core; its libraries read this when they are imported.
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
    found = {name: pd.DataFrame() for name in settings}
    shared = groups(settings)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=die_with_parent) as pool:
        jobs = [
            pool.submit(experiments, group, sizes, [seed, zlib.crc32(repr(search).encode()), n], k)
            for n, k in enumerate(batches(draws))
            for search, group in shared.items()
        ]
        begun = time.monotonic()
        try:
            for done, job in enumerate(jobs, 1):
                for name, rows in job.result().items():
                    found[name] = pd.concat([found[name], rows], ignore_index=True)
                left = (time.monotonic() - begun) / done * (len(jobs) - done)
                said = f"{done} of {len(jobs)} batches, about {left / 60:.0f} minutes left"
                print(f"\r{said:60}", end="", file=sys.stderr, flush=True)
                if done % len(shared) == 0:
                    yield found
        finally:  # of an error or a stop: what has not begun is not waited for
            pool.shutdown(cancel_futures=True)
    print(file=sys.stderr)


def commit() -> str:
    """Return the commit that is checked out, with a mark if it was changed."""
    said = run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    return said.stdout.strip() or "unknown"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--settings", nargs="+", default=[], metavar="NAME", help="or beginnings")
    parser.add_argument("--draws", type=int, default=1000, help="experiments of each setting")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--sizes", choices=SIZES, default="default", help="numbers of documents")
    for name in ("search", "select", "confirm"):
        help = f"documents of the two search tasks at {name}, instead"
        parser.add_argument(f"--{name}", type=int, nargs=2, metavar="N", help=help)
    parser.add_argument(
        "--guard", type=int, nargs=2, metavar="N", help="of the guard tasks, instead"
    )
    parser.add_argument("--passages", type=int, metavar="N", help="of a perplexity, instead")
    parser.add_argument("--output", type=Path, help="a file for the tables; none prints them")
    options = parser.parse_args(arguments)
    numbers: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name in ("search", "select", "confirm", "guard", "passages")
        if (value := getattr(options, name)) is not None
    }
    sizes = replace(SIZES[options.sizes], **numbers)
    settings, workers = chosen(options.settings), options.workers or 1
    command = " ".join(["python benchmarks/error_rates.py", *(arguments or sys.argv[1:])])
    begun, text = time.monotonic(), ""
    for found in drawn(settings, sizes, options.draws, options.seed, workers):
        text = page(found, sizes, command, commit(), time.monotonic() - begun, workers)
        if options.output:  # A run that is stopped leaves the page of the batches that it had.
            options.output.write_text(text, encoding="utf-8")
    if not options.output:
        print(text)


if __name__ == "__main__":
    main()
