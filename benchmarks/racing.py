"""Replay racing searches on an exhaustive run, beside successive halving and no race at all.

Documents are drawn with replacement, the same for all plans, which gives another search of as many
documents. Each way of searching it is replayed, and its choice compared with the one that all
documents would have given. The output is a Markdown table.

    python benchmarks/racing.py benchmarks/data/exhaustive.npz --replays 1000
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frankenlab.analyse.race_rule import Rule, Sample, stand
from frankenlab.plans.plan import BASE, Plan, parse
from frankenlab.plans.steps import Step
from frankenlab.plans.trie import Node, plan_trie

# (scores of the plans left, their numbers, those that stay whatever happens) -> who goes on.
Drop = Callable[[list[NDArray], NDArray, dict[int, None]], NDArray]

SHORTLIST = 8
# Means over documents that differ by less than this tie: they differ by rounding only.
TINY = 1e-9


@dataclass(frozen=True)
class Exhaustive:
    """Every plan on every document.

    Attributes:
        plans: the base among them.
        correct: for each task [plans, documents], 1 or 0.
        tokens: for each task [documents].
        below: [kinds, plans]. Nodes of the trie of plans are of one kind if the same plans are
            below them: true for these plans.
        passes: [kinds] layer passes for each token of all nodes of a kind.
    """

    plans: tuple[Plan, ...]
    correct: tuple[NDArray, ...]
    tokens: tuple[NDArray, ...]
    below: NDArray
    passes: NDArray

    @property
    def base(self) -> int:
        return [plan.text for plan in self.plans].index(BASE)


def read(path: Path) -> Exhaustive:
    """Read what `benchmarks/exhaustive.py` wrote."""
    data = np.load(path)
    plans = tuple(parse(text, int(data["n_layers"])) for text in data["plans"].tolist())
    tasks = data["tasks"].tolist()
    return exhaustive(
        plans,
        [data[f"{task}.correct"] for task in tasks],
        [data[f"{task}.tokens"] for task in tasks],
    )


def exhaustive(
    plans: Sequence[Plan], correct: Sequence[NDArray], tokens: Sequence[NDArray]
) -> Exhaustive:
    """Add the trie of the plans, with nodes put together that have the same plans below them."""
    kinds: dict[frozenset[int], float] = {}
    numbers = {plan: number for number, plan in enumerate(plans)}

    def walk(node: Node) -> frozenset[int]:
        own = [] if node.plan is None else [numbers[node.plan]]
        return frozenset(own).union(*(count(*item) for item in node.children.items()))

    def count(step: Step, child: Node) -> frozenset[int]:
        found = walk(child)
        kinds[found] = kinds.get(found, 0.0) + step.depth
        return found

    walk(plan_trie(plans))
    below = np.zeros((len(kinds), len(plans)), bool)
    for row, found in zip(below, kinds, strict=True):
        row[list(found)] = True
    return Exhaustive(
        tuple(plans),
        tuple(np.asarray(c, np.float32) for c in correct),
        tuple(np.asarray(t, float) for t in tokens),
        below,
        np.array(list(kinds.values())),
    )


@dataclass(frozen=True)
class Replay:
    """The choice of one search on one resample, and its cost.

    Attributes:
        behind: points by which its choice is behind the best of all plans.
        same: whether it chose the same plan as an exhaustive search, ties broken alike.
        share: layer passes relative to an exhaustive search, by tokens.
        left: plans that ran in each round.
    """

    behind: float
    same: bool
    share: float
    left: tuple[int, ...]


def replay(
    run: Exhaustive,
    drawn: Sequence[NDArray],
    rounds: Sequence[int],
    drop: Drop | None,
) -> Replay:
    """Search a resample in rounds.

    Args:
        drawn: for each task, the numbers of its documents in the order in which they are seen.
        rounds: documents of a task after each round; all of them after one more.
        drop: the plans that go on, of those left; None drops none.
    """
    scores = [correct[:, which] for correct, which in zip(run.correct, drawn, strict=True)]
    left, leaders, work, counts = np.arange(len(run.plans)), {run.base: None}, 0.0, []
    seen = 0
    ends = [*rounds, max(map(len, drawn))]
    for number, end in enumerate(ends):
        tokens = sum(t[which[seen:end]].sum() for t, which in zip(run.tokens, drawn, strict=True))
        work += tokens * passes(run, left)
        counts.append(len(left))
        seen = end
        if drop is not None and number < len(rounds):
            left = drop([s[left, :end] for s in scores], left, leaders)
    everything = sum(t[which].sum() for t, which in zip(run.tokens, drawn, strict=True))
    whole = everything * passes(run, np.arange(len(run.plans)))
    means = 100 * np.mean([s.mean(axis=1, dtype=float) for s in scores], axis=0)
    behind = float(means.max() - means[left].max())
    return Replay(behind, int(np.argmax(means)) in left, work / whole, tuple(counts))


def passes(run: Exhaustive, left: NDArray) -> float:
    """Return the layer passes for each token of the plans left, with common prefixes run once."""
    return float(run.passes[run.below[:, left].any(axis=1)].sum())


def race(
    samples: list[NDArray], left: NDArray, leaders: dict[int, None], rule: Rule, total: int
) -> NDArray:
    """Return the plans that the package's rule keeps; the leader joins those that always stay."""
    safe = np.flatnonzero(np.isin(left, list(leaders)))
    standing = stand([Sample(s, np.ones(s.shape[1]), total) for s in samples], rule, safe)
    leaders[int(left[standing.leader])] = None
    return left[standing.kept]


def halve(
    samples: list[NDArray],
    left: NDArray,
    leaders: dict[int, None],
    share: float,
    keep: int = SHORTLIST + 1,
) -> NDArray:
    """Return the best `share` of the plans (successive halving), but as many as a race keeps, and
    the base."""
    means = np.mean([s.mean(axis=1, dtype=float) for s in samples], axis=0)
    count = max(keep, int(np.ceil(share * len(left))))
    best = left[np.argsort(-means, kind="stable")[:count]]
    return np.union1d(best, list(leaders))


def searches(
    rounds: Sequence[Sequence[int]], total: int, keep: int
) -> list[tuple[str, Sequence[int], Drop | None]]:
    """Return (name, rounds, what drops) of everything that is compared."""
    found: list[tuple[str, Sequence[int], Drop | None]] = [("no race", (), None)]
    for ends in rounds:
        for error, margin in ((0.05, 1.0), (0.05, 0.0), (0.01, 1.0), (0.1, 1.0), (0.2, 1.0)):
            rule = Rule(error, margin, len(ends), keep=keep)
            name = f"racing, error {error:g}, margin {margin:g}"
            found.append((name, ends, partial(race, rule=rule, total=total)))
        found.append(("successive halving", ends, partial(halve, share=0.5, keep=keep)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="what benchmarks/exhaustive.py wrote")
    parser.add_argument("--replays", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--rounds",
        nargs="+",
        default=["25,50,100,200", "40,80,150", "20,40,60,90,130,200"],
        help="documents of a task after each round but the last",
    )
    parser.add_argument("--documents", nargs="+", type=int, help="of each task; default: the run's")
    parser.add_argument("--shortlist", type=int, default=SHORTLIST, help="plans always kept")
    options = parser.parse_args()
    run = read(options.run)
    sizes = options.documents or [correct.shape[1] for correct in run.correct]
    total = max(sizes)
    rounds = [tuple(map(int, text.split(","))) for text in options.rounds]
    compared = searches(rounds, total, options.shortlist + 1)
    rng = np.random.default_rng(options.seed)
    results: list[list[Replay]] = [[] for _ in compared]
    begun = time.monotonic()
    for _ in range(options.replays):
        drawn = [
            rng.integers(c.shape[1], size=size) for c, size in zip(run.correct, sizes, strict=True)
        ]
        for found, (_, ends, drop) in zip(results, compared, strict=True):
            found.append(replay(run, drawn, ends, drop))
    documents = " and ".join(map(str, dict.fromkeys(sizes)))
    print(f"{len(run.plans)} plans, {documents} documents a task, {options.replays} replays\n")
    print(
        "| search | rounds | within 1 point | no worse | same plan | worst | layer passes | plans "
        "in each round |\n|---|---|---|---|---|---|---|---|"
    )
    for (name, ends, _), found in zip(compared, results, strict=True):
        behind = np.array([r.behind for r in found])
        left = np.mean([r.left for r in found], axis=0)
        print(
            f"| {name} | {', '.join(map(str, [*ends, total]))} | {np.mean(behind <= 1 + TINY):.1%} "
            f"| {np.mean(behind < TINY):.1%} | {np.mean([r.same for r in found]):.1%} "
            f"| {behind.max():.2f} "
            f"| {np.mean([r.share for r in found]):.1%} | {', '.join(f'{x:.0f}' for x in left)} |"
        )
    print(f"\n{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
