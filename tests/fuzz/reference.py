"""The answer of lm-evaluation-harness to a case, with transformers' model and tokenizer.

It takes nothing of Frankenlab but the checkpoint that was written out, and where a plan cannot be
written out (a scaled block) the base's layers in the plan's order.
"""

import contextlib
import copy
import importlib.util
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import datasets
import lm_eval.utils
import torch
from lm_eval import evaluator
from lm_eval.api.task import Task
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from frankenlab.plans.steps import Step

from .answers import Answers, Crash, Document
from .specs import TaskSpec
from .tasks_of import NAME, SPLIT, documents

# The sampler's seed when lm-eval is not told another.
FEWSHOT_SEED = 1234

# Two best logits that are nearer than this may change places by rounding.
TIE = 1e-3

# With its cache, lm-eval 0.4.13 runs one of the requests whose tokens are the same, and takes the
# logits of the longest continuation for all of them from the left: of a shorter one (a later window
# of a text that repeats itself) it scores other positions. It also misses empty continuations.
HARNESS = {"device": "cpu", "batch_size": 4, "logits_cache": False}

Tokens = tuple[list[int], list[int]]


class RecordingHFLM(HFLM):
    """lm-eval's model, which also keeps the tokens of each request."""

    def loglikelihood(self, requests, disable_tqdm=True):  # noqa: ANN001, ANN201
        self.order = [(request.doc_id, request.idx) for request in requests]
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests, disable_tqdm=True, override_bs=None):  # noqa: ANN001, ANN202
        if override_bs is None:
            self.tokens = {
                place: (context, target)
                for place, (_, context, target) in zip(self.order, requests, strict=True)
            }
        return super()._loglikelihood_tokens(requests, True, override_bs)


@dataclass
class Harness:
    """lm-eval after its run.

    Attributes:
        tokens: (document, request) -> tokens of context and continuation; none of rolling ones.
    """

    task: Task
    model: RecordingHFLM
    answers: Answers | Crash
    tokens: dict[tuple[int, int], Tokens] = field(default_factory=dict)

    @property
    def longest(self) -> int:
        """Return the number of tokens that the longest request feeds to the model."""
        return max((len(c) + len(t) - 1 for c, t in self.tokens.values()), default=0)

    @torch.inference_mode()
    def tied(self, document: int, request: int) -> bool:
        """Return whether rounding may decide if the request is greedy."""
        context, target = self.tokens[document, request]
        tokens = torch.tensor([context + target])[:, -self.model.max_length - 1 :]
        logits = self.model.model(tokens[:, :-1]).logits[0, -len(target) :]
        best = logits.topk(2).values
        return bool((best[:, 0] - best[:, 1] < TIE).any())

    def metrics(self, document: int, answers: Document) -> dict[str, object]:
        """Return what lm-eval's task makes of the log-likelihoods of another."""
        rolling = self.task.OUTPUT_TYPE == "loglikelihood_rolling"
        responses = [value if rolling else (value, greedy) for value, greedy in answers.pairs]
        with _own_templates():
            return self.task.process_results(self.task.eval_docs[document], responses)


def run(
    spec: TaskSpec,
    settings: dict[str, Any],
    folder: Path,
    checkpoint: Path,
    plan: list[Step] | None,
    only: list[int] | None = None,
) -> Harness | Crash:
    """Return lm-eval's scores on a checkpoint, or how it failed.

    Args:
        settings: what a config says of the task (`write_task` gives it).
        plan: the steps to run on the base in `checkpoint`; None where that is the franken.
        only: numbers of the documents to score, all unless told.
    """
    silence = io.StringIO()
    with contextlib.redirect_stderr(silence), contextlib.redirect_stdout(silence), _own_templates():
        try:
            logging.getLogger("lm_eval").setLevel(logging.ERROR)
            task, model = _task(spec, settings, folder), _model(checkpoint, plan)
            samples = None if only is None else {NAME: only}
            found = evaluator.evaluate(
                model, {"tasks": {NAME: task}}, samples=samples, bootstrap_iters=0
            )
        except Exception as error:  # of any kind: it then scores nothing
            return Crash(type(error).__name__, str(error))
    rows = {}
    for sample in found["samples"][NAME]:
        given = [answer for (answer,) in sample["resps"]]
        pairs = tuple(a if isinstance(a, tuple) else (a, None) for a in given)
        rows[sample["doc_id"]] = Document(pairs, {n: sample[n] for n in sample["metrics"]})
    tokens = getattr(model, "tokens", {})
    if only is not None:  # lm-eval's requests number the documents among these
        tokens = {(only[number], request): t for (number, request), t in tokens.items()}
    return Harness(task, model, Answers(rows), tokens)


def _task(spec: TaskSpec, settings: dict[str, Any], folder: Path) -> Task:
    """Return the task as lm-eval alone loads it, with its data read from memory."""
    config = load_yaml(folder / "tasks" / f"{NAME}.yaml")
    if spec.data != "own":
        table = datasets.Dataset.from_list(documents(spec)[SPLIT])
        config["custom_dataset"] = lambda **_: {SPLIT: table}
    config |= settings.get("overrides", {})
    if "num_fewshot" in settings:
        config["num_fewshot"] = settings["num_fewshot"]
    (task,) = TaskManager(include_defaults=False).load([config])["tasks"].values()
    task.set_fewshot_seed(FEWSHOT_SEED)
    # Documents are compared, not what lm-eval sums them up to, which has no value where all texts
    # are empty.
    task.aggregation = lambda: dict.fromkeys(task._aggregation_list, lambda _: 0.0)
    return task


def _model(checkpoint: Path, plan: list[Step] | None) -> RecordingHFLM:
    if plan is None:
        return RecordingHFLM(str(checkpoint), dtype="float32", **HARNESS)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    return RecordingHFLM(assembled(model, plan), tokenizer=tokenizer, **HARNESS)


def assembled(model: PreTrainedModel, plan: list[Step]) -> PreTrainedModel:
    """Return a model of transformers whose layers are the steps of a plan, on the same weights."""
    franken = copy.copy(model)
    franken._modules = dict(model._modules)
    franken.model = copy.copy(model.model)
    franken.model._modules = dict(model.model._modules)
    layers = model.model.layers
    states: list[torch.Tensor] = []
    franken.model.layers = torch.nn.ModuleList(
        Occurrence(layers[s.layer], s, states, first=number == 0) for number, s in enumerate(plan)
    )
    franken.config = franken.model.config = copy.deepcopy(model.config)
    franken.config.num_hidden_layers = len(plan)
    if getattr(model.config, "layer_types", None):
        franken.config.layer_types = [model.config.layer_types[step.layer] for step in plan]
    # Occurrences of a layer share its number, and would share its place in a cache.
    franken.config.use_cache = False
    return franken


class Occurrence(torch.nn.Module):
    """One step of a plan, around a decoder layer of transformers.

    Args:
        states: what the hidden state was before each step of a pass so far, for all steps.
        first: whether a pass begins here.
    """

    def __init__(
        self, layer: torch.nn.Module, step: Step, states: list[torch.Tensor], first: bool
    ) -> None:
        super().__init__()
        self.layer, self.step, self.states, self.first = layer, step, states, first
        self.attention_type = getattr(layer, "attention_type", None)

    def forward(self, hidden: torch.Tensor, **rest: Any) -> torch.Tensor:
        layer, after = self.layer, hidden
        if self.first:
            self.states.clear()
        self.states.append(hidden)
        if self.step.part != "mlp":
            mixed, *_ = layer.self_attn(hidden_states=layer.input_layernorm(after), **rest)
            after = after + mixed
        if self.step.part != "attn":
            after = after + layer.mlp(layer.post_attention_layernorm(after))
        before = self.states[-self.step.span]
        return before + self.step.scale * (after - before)


@contextlib.contextmanager
def _own_templates() -> Iterator[None]:
    """lm-eval's own Jinja environment, whatever Frankenlab put in its place."""
    with patch.object(lm_eval.utils, "env", _untouched().env):
        yield


def _untouched() -> ModuleType:
    """`lm_eval.utils` as it is when nobody has imported it before."""
    if not _UNTOUCHED:
        spec = importlib.util.find_spec("lm_eval.utils")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        _UNTOUCHED.append(module)
    return _UNTOUCHED[0]


_UNTOUCHED: list[ModuleType] = []
