"""Texts without words count as in lm-eval, whatever the tokenizer adds to them."""

import json
from functools import partial

import pandas as pd
import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from frankenlab.analyse.outcomes import outcomes
from frankenlab.engines.torch import TorchEngine
from frankenlab.evaluate.store import Store
from frankenlab.models.tokenizer import load_tokenizer
from tests.support.harness import aggregate, assert_same_scores, harness_results, scores_of
from tests.support.models import load_hf, parse_all
from tests.support.task_rows import load_task, task_settings, write_rows
from tests.support.tiny import make_tiny_model

pytestmark = pytest.mark.slow

SPECIAL = [("<|begin|>", 0), ("<|end|>", 1)]
TEMPLATES = {
    "none": None,
    "begin": "<|begin|> $A",
    "end": "$A <|end|>",
    "both": "<|begin|> $A <|end|>",
}
LAYOUTS = ["rows", "flat"]


@pytest.fixture(params=TEMPLATES)
def model(request, tmp_path):
    """Return a model whose tokenizer adds these tokens to every text."""
    directory = make_tiny_model(tmp_path / "model", n_layers=2)
    if TEMPLATES[request.param]:
        path = str(directory / "tokenizer.json")
        tokenizer = Tokenizer.from_file(path)
        tokenizer.post_processor = TemplateProcessing(
            single=TEMPLATES[request.param], special_tokens=SPECIAL
        )
        tokenizer.save(path)
    return directory


def engine_of(directory, layout):
    """Return an engine that takes batches of this layout: "rows" as on a CPU, "flat" as on CUDA."""
    engine = TorchEngine(directory, "float32")
    engine.layout = layout
    return engine


def passages(folder, texts):
    """Return the settings of a task of rolling texts, each in its own row."""
    rows = [{"passage": text, "question": "", "answer": True} for text in texts]
    file = write_rows(folder / "rows.jsonl", rows)
    return task_settings(folder, "boolq_passages", n=1, data_file=file)


@pytest.mark.parametrize("texts", [["", "The river runs past the old mill."], ["", " ", "a"]])
def test_empty_texts_are_scored_as_in_lm_eval(model, tmp_path, texts):
    settings = passages(tmp_path, texts)
    ((metrics, answers),) = harness_results(model, [settings], tmp_path, len(texts)).values()
    task, plans = load_task(settings), parse_all(["base", "0,1x2"], 2)
    for layout in LAYOUTS:
        store = Store(tmp_path / layout, {"task": "t"})
        table = scores_of(model, plans, task, store, engine=partial(engine_of, model, layout))
        table = table[table["plan"] == "base"]
        assert_same_scores(table, answers, 1e-3)
        for metric, kind in task.kinds.items():
            assert aggregate(table, metric, kind) == pytest.approx(metrics[metric], rel=1e-4)
            # What comparisons are made of.
            (found,) = outcomes(table, metric).scores
            assert found == pytest.approx([value for ((value, _),) in answers], abs=1e-3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_task_of_nothing_but_empty_texts_is_scored(model, tmp_path, layout):
    """There may be no token to score at all; of byte metrics lm-eval has none then."""
    harness = HFLM(pretrained=load_hf(model), tokenizer=load_tokenizer(model), logits_cache=False)
    instance = Instance("loglikelihood_rolling", {}, ("",), 0)
    expected = harness.loglikelihood_rolling([instance], disable_tqdm=True)
    task, store = load_task(passages(tmp_path, [""])), Store(tmp_path / "store", {"task": "t"})
    plans = parse_all(["base", "0,1x2"], 2)
    table = scores_of(model, plans, task, store, engine=partial(engine_of, model, layout))
    assert len(table) == 2
    assert table["loglikelihoods"].iloc[0] == pytest.approx(expected, abs=1e-3)


def test_the_sum_of_a_text_without_bytes_is_in_the_numerator(tmp_path):
    task = load_task(passages(tmp_path, ["", "two words"]))
    rows = [
        task.metrics(document, [total], [False])
        for document, total in zip(task.documents([0, 1]), (-4.5, -18.0), strict=True)
    ]
    table = pd.DataFrame(rows)
    assert table["byte_perplexity_weight"].tolist() == [0, 9]
    results = [
        task.task.process_results(doc, [total])
        for doc, total in zip(task.task.eval_docs, (-4.5, -18.0), strict=True)
    ]
    for metric, kind in task.kinds.items():
        expected = task.task.aggregation()[metric]([result[metric] for result in results])
        assert aggregate(table, metric, kind) == pytest.approx(expected, rel=1e-9)
    assert json.loads(table.to_json()), "finite"
