"""How often a config freezes the same plan: on other draws of its documents, and in float32.

Search and select are run again for each seed of the division of documents into stages, and for the
first of them in the other precision. Rows that the store has are not scored again, so that a second
run takes a minute. The output is a Markdown page.

    python benchmarks/stability.py --config config/config.yaml --output benchmarks/stability.md
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import mean

import pandas as pd
import yaml

from frankenlab.analyse.selection import mean_effects
from frankenlab.config import experiment as configuration
from frankenlab.config.experiment import Experiment
from frankenlab.engines.devices import processor_name
from frankenlab.plans.plan import parse
from frankenlab.plans.words import words
from frankenlab.report.text import plural

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2, 3, 4)
STAGES = ("search", "select")


@dataclass(frozen=True)
class Draw:
    """One way to run search and select: the seed of the documents' division, and the arithmetic."""

    seed: int
    precision: str


@dataclass(frozen=True)
class Outcome:
    """The result of one model's search and select.

    Attributes:
        frozen: the plan.
        as_good: plans as good as the best by search and select, the frozen one among them.
        searched: plan -> mean effect over the search tasks, on the search documents; the plans that
            saw all of them.
        selected: the same on the select documents, of the shortlist.
        minutes: that Snakemake took, rows of the store aside.
    """

    model: str
    draw: Draw
    frozen: str
    as_good: tuple[str, ...]
    searched: dict[str, float]
    selected: dict[str, float]
    minutes: float


def draws(seeds: Sequence[int], experiment: Experiment) -> list[Draw]:
    """Return every seed in the config's precision, then the first of them in the other one."""
    usual = experiment.settings.stages.search.precision
    other = "bfloat16" if usual == "float32" else "float32"
    return [*(Draw(seed, usual) for seed in seeds), Draw(seeds[0], other)]


def changed(experiment: Experiment, draw: Draw) -> Experiment:
    """Return an experiment of its own name on another draw, in that precision."""
    raw = experiment.settings.plain()
    raw["experiment"] = f"{experiment.name[:40]}-{draw.seed}-{draw.precision}"
    stages = raw["stages"]
    stages["seed"] = draw.seed
    for stage in STAGES:
        stages[stage]["precision"] = draw.precision
    return configuration.check(raw)


def run(experiment: Experiment, draw: Draw, arguments: Sequence[str]) -> list[Outcome]:
    """Run search and select of all models in the folder that this is started in.

    Raises:
        subprocess.CalledProcessError: Snakemake failed, and has said why.
    """
    own = changed(experiment, draw)
    results = Path("results") / own.name
    targets = [
        str(path)
        for model, settings in own.models.items()
        for path in (
            results / "frozen" / f"{model}.json",
            *(_comparisons(results, stage, model, settings.reference) for stage in STAGES),
        )
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        yaml.safe_dump(own.settings.plain(), file, sort_keys=False)
        file.flush()
        command = [sys.executable, "-m", "snakemake", *targets, "--snakefile", ROOT / "Snakefile"]
        start = time.perf_counter()
        subprocess.run([*command, "--configfile", file.name, *arguments], check=True)
        minutes = (time.perf_counter() - start) / 60
    return [outcome(own, model, draw, results, minutes) for model in own.models]


def outcome(
    experiment: Experiment, model: str, draw: Draw, results: Path, minutes: float
) -> Outcome:
    """Return what a finished search and select of one model came to."""
    frozen = json.loads((results / "frozen" / f"{model}.json").read_text(encoding="utf-8"))
    reference = experiment.models[model].reference
    found = {}
    for stage in STAGES:
        table = pd.read_parquet(_comparisons(results, stage, model, reference))
        means = mean_effects(table[table["dropped"].isna()])
        found[stage] = dict(zip(means["plan"], means["mean_effect"], strict=True))
    good = tuple(frozen["as_good"])
    return Outcome(model, draw, frozen["frozen"], good, found["search"], found["select"], minutes)


def _comparisons(results: Path, stage: str, model: str, quantization: str) -> Path:
    return results / "comparisons" / stage / model / f"{quantization}.parquet"


def page(outcomes: Sequence[Outcome], experiment: Experiment, command: str) -> str:
    """Return the page: for each model a table of draws, and how far they agree."""
    lines = [
        f"# The same plan on another draw? {experiment.name}",
        "",
        "Search and select on other divisions of the documents into stages (`stages.seed`), and "
        f"in another precision, on {processor_name()}; made by",
        "",
        f"    {command}",
        "",
        "Draws share documents by chance: a quarter of one search is in another. Minutes are those "
        "of Snakemake; rows that the store had were not scored again. Effects are means over the "
        "search tasks, in points or log-percent; *as good* counts the plans within one standard "
        "error of the best, the frozen one among them.",
    ]
    for model in dict.fromkeys(each.model for each in outcomes):
        own = [each for each in outcomes if each.model == model]
        lines += ["", f"## {model}", "", *_table(own, experiment.models[model].n_layers)]
        lines += ["", *_agreement(own)]
    return "\n".join(lines) + "\n"


def _table(outcomes: Sequence[Outcome], n_layers: int) -> list[str]:
    rows = ["| seed | precision | frozen plan | search | select | as good | minutes |"]
    rows.append("|---|---|---|---|---|---|---|")
    for each in outcomes:
        plan = parse(each.frozen, n_layers)
        rows.append(
            f"| {each.draw.seed} | {each.draw.precision} | {words(plan)} (`{plan}`) | "
            f"{_effect(each.searched, each.frozen)} | {_effect(each.selected, each.frozen)} | "
            f"{len(each.as_good)} | {each.minutes:.1f} |"
        )
    return rows


def _effect(effects: dict[str, float], plan: str) -> str:
    return f"{effects[plan]:+.1f}" if plan in effects else "–"


def _agreement(outcomes: Sequence[Outcome]) -> list[str]:
    usual = outcomes[0].draw.precision
    seeds = [each for each in outcomes if each.draw.precision == usual]
    counts = Counter(each.frozen for each in seeds)
    plan, most = counts.most_common(1)[0]
    lines = [
        f"- **Same plan**: {len(counts)} different plans were frozen on {len(seeds)} draws; "
        f"`{plan}` on {most} of them."
    ]
    ordered = [(a, b) for x, y in combinations(seeds, 2) for a, b in ((x, y), (y, x))]
    if ordered:
        good = mean(a.frozen in b.as_good for a, b in ordered)
        lines.append(
            "- **As good**: a draw's frozen plan is among those as good as the best of another "
            f"draw in {good:.0%} of the pairs."
        )
    for candidate in counts:
        seen = [each.searched[candidate] for each in seeds if candidate in each.searched]
        lines.append(
            f"- `{candidate}`: {mean(seen):+.1f} on the search documents of the "
            f"{plural(len(seen), 'draw')} whose search it ended in, from {min(seen):+.1f} to "
            f"{max(seen):+.1f}."
        )
    for other in (each for each in outcomes if each.draw.precision != usual):
        same = next(each for each in seeds if each.draw.seed == other.draw.seed)
        both = same.searched.keys() & other.searched.keys()
        apart = [abs(same.searched[plan] - other.searched[plan]) for plan in both]
        which = "the same plan" if same.frozen == other.frozen else "another plan"
        lines.append(
            f"- **{other.draw.precision} against {usual}**, seed {other.draw.seed}: {which} is "
            f"frozen; effects of the {len(both)} plans that ended both searches differ by "
            f"{mean(apart):.1f} on average and {max(apart):.1f} at most."
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every draw and write the page after each, so that a run that is cut off shows some."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=configuration.DEFAULT)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/stability.md"))
    parser.add_argument("snakemake", nargs="*", help="after --: how Snakemake runs")
    given = parser.parse_args(arguments)
    experiment = configuration.load(given.config)
    how = given.snakemake or ["--profile", str(ROOT / "profiles" / "local")]
    command = f"python benchmarks/stability.py --config {given.config}"
    command += f" --seeds {' '.join(map(str, given.seeds))}"
    found: list[Outcome] = []
    for draw in draws(given.seeds, experiment):
        found += run(experiment, draw, how)
        by_model = sorted(found, key=lambda each: list(experiment.models).index(each.model))
        given.output.write_text(page(by_model, experiment, command), encoding="utf-8")
    print(given.output.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
