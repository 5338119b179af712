"""Runs random cases, and shrinks the first failure of each kind."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from unittest.mock import patch

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.internal.conjecture.engine import ConjectureRunner

from .compare import EQUAL, FAILED, Verdict
from .draws import cases as drawn_cases
from .specs import Case, to_json

# Most seconds that are spent on making one failure smaller.
SHRINK_SECONDS = 30.0

# With more kinds of failures than this, there is enough to mend.
MOST_SHRUNK = 12


@dataclass
class Summary:
    """The outcomes of many cases.

    Attributes:
        outcomes: outcome -> number of cases.
        reasons: (outcome, kind) -> number of cases.
        failures: kind -> the smallest case and what was found.
        traits: of the cases that were equal, how often each trait was among them.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: dict[str, tuple[Case, Verdict]] = field(default_factory=dict)
    traits: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def total(self) -> int:
        """Return the number of cases that were judged, without those of shrinking."""
        return self.outcomes.total()

    def add(self, case: Case, verdict: Verdict) -> None:
        """Count a case."""
        self.outcomes[verdict.outcome] += 1
        if verdict.kind:
            self.reasons[verdict.outcome, verdict.kind] += 1
        if verdict.outcome == EQUAL:
            self.traits.update(traits(case))


def traits(case: Case) -> list[str]:
    """Return what is worth counting of a case."""
    model, tokenizer, task = case.model, case.tokenizer, case.task
    shots = f"shots from {task.shots_from}" if task.shots else "no shots"
    return [
        model.architecture,
        f"rope {model.rope}",
        f"{tokenizer.kind} tokenizer",
        f"adds {tokenizer.adds or 'nothing'}",
        task.kind,
        shots,
        "base" if case.plan == "base" else "franken",
        f"weights {model.files}",
        f"tied {model.tied}",
    ]


class Enough(BaseException):
    """Ends a search; no `Exception`, for Hypothesis would take that as a failure."""


Judge = Callable[[Case], Verdict]
Progress = Callable[[Summary], None]


def search(
    judge: Judge,
    seed: int,
    count: int,
    progress: Progress = lambda _: None,
    shrink_seconds: float = SHRINK_SECONDS,
) -> Summary:
    """Judge `count` random cases, the same for the same seed and count, and shrink the first
    failure of each kind."""
    summary, began = Summary(), time.monotonic()
    known: dict[Case, Verdict] = {}

    def check(case: Case) -> None:
        verdict = known[case] = judge(case)
        summary.add(case, verdict)
        if verdict.outcome == FAILED:
            summary.failures.setdefault(verdict.kind, (case, verdict))
        progress(summary)

    draw_all(check, seed, count)
    summary.seconds = time.monotonic() - began
    for kind in list(summary.failures)[:MOST_SHRUNK]:
        _shrink(kind, judge, known, seed, count, summary, shrink_seconds)
    return summary


def _shrink(
    kind: str,
    judge: Judge,
    known: dict[Case, Verdict],
    seed: int,
    count: int,
    summary: Summary,
    shrink_seconds: float,
) -> None:
    """Draw the same cases again; Hypothesis shrinks the first that now raises an error."""
    stop: float | None = None

    def check(case: Case) -> None:
        nonlocal stop
        if stop is not None and time.monotonic() > stop:
            raise Enough
        if case not in known:
            known[case] = judge(case)
        if known[case].outcome != FAILED or known[case].kind != kind:
            return
        if stop is None:
            stop = time.monotonic() + shrink_seconds
        if len(to_json(case)) <= len(to_json(summary.failures[kind][0])):
            summary.failures[kind] = case, known[case]
        raise AssertionError(kind)

    with contextlib.suppress(AssertionError, Enough):
        draw_all(check, seed, count)


def draw_all(check: Callable[[Case], None], seed: int, count: int) -> None:
    """Call `check` with `count` random cases, and with smaller ones after it failed."""
    drawn = settings(
        max_examples=count,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
        verbosity=hypothesis.Verbosity.quiet,
        print_blob=False,
        report_multiple_bugs=False,
    )(given(drawn_cases())(check))
    # Without this, five of six cases are the one before with a part of it repeated.
    with patch.object(ConjectureRunner, "generate_mutations_from", lambda *_: None):
        hypothesis.seed(seed)(drawn)()
