"""The parity fuzzer: random models, tokenizers, tasks and plans, against lm-evaluation-harness."""

import sys
import uuid
import warnings
from collections.abc import Callable
from typing import Any

import datasets
import torch
import transformers

from .compare import FAILED, judge
from .search import Summary, search
from .specs import from_json, to_json


def run(seed: int, cases: int) -> int:
    """Judge random cases and print what was found; return the number of failures."""
    prepare()
    summary = search(judge, seed, cases, _progress)
    print("", file=sys.stderr)
    print(report(summary, seed))
    return summary.outcomes[FAILED]


def replay(text: str) -> int:
    """Judge one case given as JSON and print the verdict; return the number of failures."""
    prepare()
    verdict = judge(from_json(text))
    print(verdict.outcome, verdict.kind, verdict.detail, sep="\n")
    return int(verdict.outcome == FAILED)


def report(summary: Summary, seed: int) -> str:
    """Return the table of outcomes, and each failure with the smallest case that shows it."""
    rate = summary.total / max(summary.seconds, 1e-9)
    lines = [f"parity: {summary.total} cases in {summary.seconds:.0f} s ({rate:.1f} a second)"]
    for outcome, number in summary.outcomes.most_common():
        lines.append(f"  {number:6} {outcome}")
        kinds = [(k, n) for (o, k), n in summary.reasons.most_common() if o == outcome]
        lines += [f"         {n:6} {kind}" for kind, n in kinds]
    counts = ", ".join(f"{trait} {n}" for trait, n in summary.traits.most_common())
    lines.append(f"  among the equal: {counts}")
    for kind, (case, verdict) in summary.failures.items():
        lines += [f"FAILURE (seed {seed}): {kind}", f"  {verdict.detail}"]
        lines.append(f"  replay: python -m tests.fuzz --case '{to_json(case)}'")
    return "\n".join(lines)


def prepare(set_attribute: Callable[[Any, str, Any], None] = setattr) -> None:
    """Make tiny models fast and the output readable."""
    # On two threads they are slower than on one.
    torch.set_num_threads(1)
    # A fingerprint of each data set would take a tenth of the time.
    set_attribute(datasets.arrow_dataset, "generate_fingerprint", lambda _: uuid.uuid4().hex)
    # lm-eval divides by the length of an empty choice.
    warnings.filterwarnings("ignore", "divide by zero|invalid value", RuntimeWarning)
    transformers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()


def _progress(summary: Summary) -> None:
    if summary.total % 20 == 0:
        failed = summary.outcomes[FAILED]
        print(f"\r{summary.total} cases, {failed} failed", end="", file=sys.stderr, flush=True)
