"""Choose a plan in simulated searches by several rules, and compare what it truly gains.

Each draw is a search of all plans on fresh documents, a select stage of the six best on other
documents, and a choice. A rule is good if the plan that it freezes truly gains more, and if another
draw freezes the same plan. Documents are drawn from an exhaustive run, whose means are then the
truth, or made up: they flip with a chance of 15 %, half of that common to all plans.

    python benchmarks/choice.py benchmarks/data/default.npz --draws 600

The output is two Markdown tables: the rules, and how good shrunken effects are.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from racing import read
from scipy.special import ndtr

from frankenlab.analyse.gains import Gains, mean_gains
from frankenlab.analyse.selection import choose
from frankenlab.analyse.shrinkage import Z95, measure, shrunken

SHORTLIST = 6
FLIPS = 0.15
COMMON = 0.5

# (random numbers, documents of a task) -> differences [plans, documents] on each task.
Draw = Callable[[np.random.Generator, int], list[NDArray]]


@dataclass(frozen=True)
class Case:
    """Plans whose true mean effects, in points, are known."""

    name: str
    truth: NDArray
    depths: NDArray
    draw: Draw


def cases(path: Path) -> list[Case]:
    """Return the run's own documents, and made up ones for plans of the same depths."""
    run = read(path)
    others = np.arange(len(run.plans)) != run.base
    found = [(correct - correct[run.base])[others] for correct in run.correct]
    depths = np.array([plan.depth for plan in run.plans])[others]
    truth = 100 * np.mean([x.mean(axis=1) for x in found], axis=0)
    real = Case(
        "replayed",
        truth,
        depths,
        lambda rng, n: [x[:, rng.integers(x.shape[1], size=n)] for x in found],
    )
    bad = np.random.default_rng(5).normal(-10, 3.6, len(depths))
    four = int(np.flatnonzero(depths >= depths.min() + 3)[0])
    made = {"all 0": 0 * bad, "normal(-10, 3.6)": bad}
    for gain in (5, 10):
        made[f"one +{gain}, four layers"] = np.where(np.arange(len(bad)) == four, gain, bad / 2)
    return [real, *(Case(name, x, depths, _made_up(x)) for name, x in made.items())]


def _made_up(truth: NDArray) -> Draw:
    def draw(rng: np.random.Generator, n: int) -> list[NDArray]:
        tasks = []
        for _ in range(2):
            hard = np.sqrt(COMMON) * rng.standard_normal(n)
            change = ndtr(hard + np.sqrt(1 - COMMON) * rng.standard_normal((len(truth), n)))
            right = np.where(rng.random(n) < 0.5, -1.0, 1.0)
            tasks.append(np.where(change < FLIPS + right * truth[:, None] / 100, right, 0.0))
        return tasks

    return draw


def choices(
    case: Case, rng: np.random.Generator, search: int, select: int
) -> tuple[dict[str, int], dict[str, tuple[float, float]]]:
    """Return the plan that each rule chooses, and how far each estimate of the plan that search and
    select choose is from the truth, in points and in standard errors."""
    first = [Gains(x, np.ones(search)) for x in case.draw(rng, search)]
    effects, errors = mean_gains(first)
    best = np.sort(np.argsort(-effects, kind="stable")[:SHORTLIST])
    best = best[np.argsort(case.depths[best], kind="stable")]
    depths = case.depths[best]
    second = [Gains(x[best], np.ones(select)) for x in case.draw(rng, select)]
    fresh = mean_gains(second)
    together = mean_gains(
        [
            Gains(np.hstack([a.values[best], b.values]), np.ones(search + select))
            for a, b in zip(first, second, strict=True)
        ]
    )
    everything = len(effects)
    stages = [measure(first, range(everything)), measure(second, best.tolist())]
    after_search, after_select = shrunken(stages[:1], everything), shrunken(stages, everything)
    mean, deviation = (x[best] for x in after_select)
    none = np.zeros(SHORTLIST)
    rules = {
        "select alone": choose(*fresh, depths),
        "select alone, the best": choose(fresh[0], none, depths),
        "**search and select**": choose(*together, depths),
        "search and select, the best": choose(together[0], none, depths),
        "shrunken": choose(mean, deviation, depths),
        "shrunken, the best": choose(mean, none, depths),
    }
    place = int(rules["**search and select**"])
    plan = int(best[place])
    estimates = {
        "search": (effects[plan], errors[plan]),
        "search, shrunken": tuple(x[plan] for x in after_search),
        "select": tuple(x[place] for x in fresh),
        "search and select": tuple(x[place] for x in together),
        "search and select, shrunken": tuple(x[plan] for x in after_select),
    }
    off = {name: (x - case.truth[plan], error) for name, (x, error) in estimates.items()}
    return {name: int(best[i]) for name, i in rules.items()}, off


def same(chosen: NDArray) -> float:
    """Return the share of pairs of draws that chose the same plan."""
    counts = np.bincount(chosen)
    return float((counts * (counts - 1)).sum() / (len(chosen) * (len(chosen) - 1)))


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def report(rows: Sequence[Mapping[str, str]]) -> str:
    """Return a Markdown table; the rows have the same keys."""
    head = [row(*rows[0]), row(*["---"] * len(rows[0]))]
    return "\n".join([*head, *(row(*one.values()) for one in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="what benchmarks/exhaustive.py wrote")
    parser.add_argument("--draws", type=int, default=600)
    parser.add_argument(
        "--documents",
        nargs="+",
        default=["100,80", "150,285"],
        help="documents of a task in search and in select",
    )
    options = parser.parse_args()
    rules: dict[str, dict[str, str]] = {}
    estimates: list[dict[str, str]] = []
    for case in cases(options.run):
        for search, select in (map(int, text.split(",")) for text in options.documents):
            label = f"{case.name}, {search} + {select}"
            drawn = [
                choices(case, np.random.default_rng([7, number]), search, select)
                for number in range(options.draws)
            ]
            for rule in drawn[0][0]:
                chosen = np.array([made[rule] for made, _ in drawn])
                cell = f"{case.truth[chosen].mean():+.2f} ({same(chosen):.0%})"
                rules.setdefault(rule, {"rule": rule})[label] = cell
            cells = {"plans": label}
            for name in drawn[0][1]:
                off, errors = np.array([estimate[name] for _, estimate in drawn]).T
                covered = np.mean(np.abs(off) <= Z95 * errors)
                cells[name] = f"{off.mean():+.1f} ({covered:.0%})"
            estimates.append(cells)
    print(f"{options.draws} draws\n\n{report(list(rules.values()))}\n\n{report(estimates)}")


if __name__ == "__main__":
    main()
