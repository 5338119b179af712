"""A seeded share of the parity fuzzer; that it finds faults which are put in; that its models are
such that a difference is a fault."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from frankenlab.engines import masks, torch_weights
from frankenlab.engines.rotary import Rotary
from frankenlab.evaluate import sweep
from frankenlab.plans.plan import from_steps, parse
from frankenlab.tasks import task as tasks
from frankenlab.tasks.encoding import Encoder
from tests import fuzz
from tests.fuzz import parity, reference, search
from tests.fuzz.compare import EQUAL, FAILED, HERE, judge
from tests.fuzz.models_of import write_model
from tests.fuzz.specs import Case, from_json, to_json
from tests.support.models import load_hf

pytestmark = pytest.mark.slow

SEED, CASES = 20261126, 250

# Small cases that were wrong, with the outcomes that are right.
FOUND = [json.loads(line) for line in (Path(fuzz.__file__).parent / "found.jsonl").open()]


@pytest.fixture(scope="module", autouse=True)
def prepared():
    with pytest.MonkeyPatch.context() as patch:
        parity.prepare(patch.setattr)
        yield


@pytest.fixture(scope="module")
def drawn() -> list[Case]:
    cases: list[Case] = []
    search.draw_all(lambda case: cases.append(case), SEED, 150)
    return cases


def test_every_score_is_lm_evals_or_refused_with_a_reason():
    summary = search.search(judge, SEED, CASES)
    report = parity.report(summary, SEED)
    assert not summary.failures, report
    assert summary.outcomes[EQUAL] >= 0.5 * summary.total, report
    # One reason that takes more than this would hide what it stands before.
    refused = {kind: n for (outcome, kind), n in summary.reasons.items() if outcome == HERE}
    assert max(refused.values(), default=0) <= 0.1 * summary.total, report


def test_a_case_can_be_written_down_and_read_again(drawn):
    for case in drawn:
        assert from_json(to_json(case)) == case


@pytest.mark.parametrize("found", FOUND, ids=lambda found: found["what"])
def test_what_was_found_once_is_right(found):
    verdict = judge(from_json(json.dumps(found["case"])))
    assert verdict.outcome in found["outcomes"], verdict


# ---- faults that are put in


def a_context_without_its_first_token(monkeypatch):
    def cut(self, document, rolling):
        found = encode(self, document, rolling)
        return [
            [replace(part, context=part.context[1:] or part.context) for part in request]
            for request in found
        ]

    encode = Encoder.encode
    monkeypatch.setattr(Encoder, "encode", cut)


def tokens_that_see_the_future(monkeypatch):
    def attend(queries, keys, values, attn_mask=None, is_causal=False, **rest):
        return F.scaled_dot_product_attention(queries, keys, values, **rest)

    functions = {name: getattr(F, name) for name in dir(F) if not name.startswith("_")}
    functions["scaled_dot_product_attention"] = attend
    monkeypatch.setattr(masks, "F", SimpleNamespace(**functions))


def queries_without_a_bias(monkeypatch):
    made = torch_weights._layer
    monkeypatch.setattr(
        torch_weights, "_layer", lambda *given: replace(made(*given), qkv_bias=None)
    )


def rope_without_its_scaling(monkeypatch):
    made = Rotary.__init__

    def init(self, *given):
        made(self, *given)
        self.scaling = 1.0

    monkeypatch.setattr(Rotary, "__init__", init)


def a_plan_without_its_first_step(monkeypatch):
    def shorter(plans):
        lost = [from_steps(_without_the_first(plan), plan.n_layers) for plan in plans]
        found = made(lost)
        for node, plan in _ends(found, lost, plans):
            node.plan = plan
        return found

    made = sweep.plan_trie
    monkeypatch.setattr(sweep, "plan_trie", shorter)


def _without_the_first(plan):
    # A window that began with it would begin before the plan.
    return [replace(step, span=1) for step in plan.steps[1:]] or plan.steps


def _ends(trie, lost, plans):
    for short, plan in zip(lost, plans, strict=True):
        node = trie
        for step in short.steps:
            node = node.children[step]
        yield node, plan


def another_seed_of_shots(monkeypatch):
    monkeypatch.setattr(tasks, "FEWSHOT_SEED", 1)


def greedy_is_what_is_not(monkeypatch):
    made = sweep._row

    def row(*given):
        found = made(*given)
        return replace(found, is_greedy=tuple(not greedy for greedy in found.is_greedy))

    monkeypatch.setattr(sweep, "_row", row)


def a_metric_upside_down(monkeypatch):
    made = tasks.EvaluationTask.metrics

    def metrics(self, *given):
        return {n: 1 - v if n == "acc" else v for n, v in made(self, *given).items()}

    monkeypatch.setattr(tasks.EvaluationTask, "metrics", metrics)


def choices_in_another_order(monkeypatch):
    made = sweep._row

    def row(*given):
        found = made(*given)
        return replace(found, loglikelihoods=found.loglikelihoods[::-1])

    monkeypatch.setattr(sweep, "_row", row)


def nothing_is_refused_in_one_line(monkeypatch):
    made = tasks.EvaluationTask.__init__

    def init(self, *given):
        made(self, *given)
        raise KeyError("answer")

    monkeypatch.setattr(tasks.EvaluationTask, "__init__", init)


FAULTS = {
    a_context_without_its_first_token: "differs: log-likelihood",
    tokens_that_see_the_future: "differs: log-likelihood",
    queries_without_a_bias: "differs: log-likelihood",
    rope_without_its_scaling: "differs: log-likelihood",
    a_plan_without_its_first_step: "differs: log-likelihood",
    another_seed_of_shots: "differs: log-likelihood",
    greedy_is_what_is_not: "differs: is_greedy",
    a_metric_upside_down: "differs: metric acc",
    choices_in_another_order: "differs: log-likelihood",
    nothing_is_refused_in_one_line: "traceback: KeyError in draws.py:__init__",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_within_few_cases(fault, drawn, monkeypatch):
    fault(monkeypatch)
    kinds = (v.kind for v in map(judge, drawn) if v.outcome == FAILED)
    assert FAULTS[fault] in kinds, "the fault was not seen"


def test_a_failure_is_shrunk_and_can_be_replayed(monkeypatch, capsys):
    a_metric_upside_down(monkeypatch)
    summary = search.search(judge, SEED, 12, shrink_seconds=2.0)
    case, verdict = summary.failures["differs: metric acc"]
    assert len(case.task.docs) == 1
    assert to_json(case) in parity.report(summary, SEED)
    assert parity.replay(to_json(case)) == 1
    assert verdict.detail in capsys.readouterr().out


# ---- the random models


def test_rounding_moves_scores_by_far_less_than_a_lost_step_does(drawn, tmp_path):
    """Else the tolerance would hide faults, or rounding would be taken for one."""
    rounding, lost = [], []
    draw = torch.Generator().manual_seed(0)
    loadable = [case for case in drawn if case.model.hidden % case.model.heads == 0]
    for number, case in enumerate(loadable[:60]):
        write_model(replace(case.model, rope="default", window="none"), 90, tmp_path / f"{number}")
        model = load_hf(tmp_path / f"{number}")
        model.config.use_cache = False
        tokens = torch.randint(0, 80, (1, 16), generator=draw)
        steps = list(parse(case.plan, case.model.n_layers).steps)
        scores = _log_likelihood(model, steps, tokens)
        without = _log_likelihood(model, steps[:-1], tokens)
        rounding.append(abs(scores - _log_likelihood(model.double(), steps, tokens)))
        lost.append(abs(scores - without))
    assert max(rounding) < 1e-4
    assert sum(value > 1e-2 for value in lost) >= 0.95 * len(lost)


@torch.inference_mode()
def _log_likelihood(model, steps, tokens) -> float:
    franken = reference.assembled(model, steps)
    logits = franken(tokens).logits[0, :-1].double()
    return logits.log_softmax(-1).gather(1, tokens[0, 1:, None]).sum().item()
