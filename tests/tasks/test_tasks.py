"""Documents, stages, prompts and metrics are lm-eval's, and no document is used twice."""

import json
import math
import random
from collections import defaultdict
from dataclasses import replace
from itertools import combinations

import pandas as pd
import pytest
import yaml
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from frankenlab.config.experiment import TASKS_FOLDER
from frankenlab.io.errors import UserError
from frankenlab.tasks.index import task_file
from frankenlab.tasks.task import STAGES, EvaluationTask, content_key
from tests.support.harness import aggregate, reference_config
from tests.support.processes import one_line
from tests.support.task_rows import TASKS, arc_row, load_task, task_settings, write_rows

FIRST_N = {"fewshot_config": {"sampler": "first_n"}}
# The first three rows give the few-shot examples; two of them come again, numbered otherwise.
SHOTS = 3


@pytest.fixture
def searched(tmp_path):
    """Make a search task of 200 ARC questions of which every fifth comes twice."""

    def make(**changes) -> EvaluationTask:
        rows = [arc_row(i) for i in range(200)]
        rows += [row | {"id": f"again-{row['id']}"} for row in rows[::5]]
        rows += [rows[1] | {"id": "shot-again"}]
        file = write_rows(tmp_path / "rows.jsonl", rows)
        return load_task(task_settings(tmp_path, n=1, role="search", data_file=file, **changes))

    return make


def contents(task: EvaluationTask, stage: str | None, **more) -> list[str]:
    """Return each document of a stage without its number."""
    docs = list(task.task.eval_docs)
    return [json.dumps(docs[i] | {"id": None}) for i in task.indices(stage, **more)]


def assert_disjoint(sets) -> None:
    for one, other in combinations(map(set, sets), 2):
        assert one and other and not one & other


def test_no_document_is_in_two_stages_however_it_is_numbered(searched):
    task = searched()
    stages = [contents(task, stage) for stage in STAGES]
    assert_disjoint(stages)
    assert sorted(sum(stages, [])) == sorted(contents(task, None))
    assert len(contents(task, None)) == 241


def test_no_document_of_any_stage_is_among_the_examples_of_the_prompt(searched):
    task = searched(num_fewshot=SHOTS, overrides=FIRST_N)
    shots = [json.dumps(arc_row(i) | {"id": None}) for i in range(SHOTS)]
    assert_disjoint([*(contents(task, stage) for stage in STAGES), shots])
    # rows 0, 1, 2, the repetition of 0 among every fifth row, and that of 1 at the end
    assert len(contents(task, None)) == 241 - 5
    examples = "".join(example(i) for i in range(SHOTS))
    docs = list(task.task.eval_docs)
    for document in task.documents(task.indices(None)):
        asked = f"Question: {docs[document.index]['question']}\nAnswer:"
        assert {context for context, _ in document.requests} == {examples + asked}


def example(number: int) -> str:
    """Return a few-shot example as ARC's prompt has it."""
    row = arc_row(number)
    answer = row["choices"]["text"][number % 4]
    return f"Question: {row['question']}\nAnswer: {answer}\n\n"


def test_examples_drawn_from_the_evaluated_documents_are_refused(searched):
    with pytest.raises(UserError) as error:
        searched(num_fewshot=SHOTS)
    assert "few-shot" in one_line(error) and "first_n" in str(error.value)


def test_documents_that_are_also_in_the_split_of_the_examples_are_left_out(tmp_path):
    """lm-eval's own data sets have a split for the examples; it may overlap."""
    task = two_split_task(tmp_path, train=range(40, 90), validation=range(60))
    assert len(task.indices(None)) == 40
    docs = list(task.task.eval_docs)
    assert {docs[i]["question"] for i in task.indices(None)} == {
        arc_row(i)["question"] for i in range(40)
    }


def two_split_task(folder, train, validation) -> EvaluationTask:
    """ARC-Easy with its data in two files, as a user would write it: examples come from train."""
    config = two_split_config(folder, train, validation)
    (folder / "arc_two.yaml").write_text(yaml.safe_dump(config))
    settings = task_settings(folder, n=1, task="arc_two", data_file=None, num_fewshot=2)
    return EvaluationTask(settings, folder)


def two_split_config(folder, train, validation) -> dict:
    files = {
        "train": write_rows(folder / "train.jsonl", [arc_row(i) for i in train]),
        "validation": write_rows(
            folder / "validation.jsonl", [arc_row(i) | {"id": f"v{i}"} for i in validation]
        ),
    }
    return {
        "include": str(task_file("arc_easy", TASKS_FOLDER)),
        "task": "arc_two",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {split: str(file) for split, file in files.items()},
            "cache_dir": str(folder / "cache"),
        },
        "test_split": None,
        "fewshot_split": "train",
    }


def test_a_documents_prompt_does_not_depend_on_stage_or_limit_and_is_lm_evals(tmp_path):
    """Also where the examples are drawn at random, one draw after the other."""
    task = two_split_task(tmp_path, train=range(30), validation=range(30, 60))
    (reference,) = (
        TaskManager(include_defaults=False)
        .load([load_yaml(tmp_path / "arc_two.yaml") | {"num_fewshot": 2}])["tasks"]
        .values()
    )
    reference.set_fewshot_seed(1234)
    reference.build_all_requests()
    expected = defaultdict(list)
    for instance in reference.instances:
        expected[instance.doc_id].append(instance.args)
    for indices in (range(30), [29, 3], [7]):
        for document in task.documents(indices):
            assert list(document.requests) == expected[document.index]
    assert len({request[0][:40] for (request, *_) in expected.values()}) > 5


@pytest.mark.parametrize("name", TASKS)
def test_requests_are_lm_evals_own(tmp_path, name):
    settings = task_settings(tmp_path, name, n=14)
    task = load_task(settings)
    config = reference_config(settings, tmp_path)
    (reference,) = TaskManager(include_defaults=False).load([config])["tasks"].values()
    reference.build_all_requests()
    documents = task.documents(task.indices(None))
    found = [
        (document.index, arguments) for document in documents for arguments in document.requests
    ]
    assert found == [(instance.doc_id, instance.args) for instance in reference.instances]


def test_questions_that_share_a_passage_stay_together(tmp_path):
    """A unit is in one stage as a whole, and named by its content alone."""
    rows = [
        {"passage": f"passage {i % 90}", "question": f"{i}", "answer": True} for i in range(270)
    ]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    overrides = {
        "task": "boolq_questions",
        "process_docs": None,
        "output_type": "loglikelihood",
        "doc_to_text": "{{passage}} {{question}}",
        "doc_to_target": " {{answer}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    settings = task_settings(
        tmp_path,
        "boolq_passages",
        n=1,
        role="search",
        metric="acc",
        data_file=file,
        cluster="passage",
        overrides=overrides,
    )
    task = load_task(settings)
    passages = [{rows[i]["passage"] for i in task.indices(stage)} for stage in STAGES]
    assert_disjoint(passages)
    documents = task.documents(task.indices(None))
    assert len({d.key for d in documents}) == 270 and len({d.cluster for d in documents}) == 90
    by_unit = defaultdict(set)
    for document in documents:
        by_unit[document.cluster].add(rows[document.index]["passage"])
    assert all(len(found) == 1 for found in by_unit.values())


def test_a_higher_limit_only_adds_documents_and_their_order_is_not_the_files(searched):
    task = searched()
    few, more, all_of_them = (task.indices("confirm", limit) for limit in (10, 30, None))
    assert more[:10] == few and all_of_them[:30] == more and len(all_of_them) > 100
    assert few != sorted(few)
    assert task.indices(None, 10) == list(range(10))


def test_documents_never_move_between_stages(searched, tmp_path):
    """Neither by their order nor by other documents that come or go."""
    task = searched()
    stage_of = {text: stage for stage in STAGES for text in contents(task, stage)}
    shuffled = list(range(150))
    random.Random(1).shuffle(shuffled)
    file = write_rows(tmp_path / "half.jsonl", [arc_row(i) for i in shuffled])
    half = load_task(task_settings(tmp_path, n=1, role="search", data_file=file))
    for stage in STAGES:
        assert all(stage_of[text] == stage for text in contents(half, stage))


@pytest.mark.slow
def test_shares_are_25_15_60(tmp_path):
    file = write_rows(tmp_path / "rows.jsonl", [arc_row(i) for i in range(2000)])
    task = load_task(task_settings(tmp_path, n=1, role="search", data_file=file))
    shares = [len(task.indices(stage)) / 2000 for stage in STAGES]
    assert shares == pytest.approx([0.25, 0.15, 0.60], abs=0.03)


def test_a_guard_task_is_all_confirm(tmp_path):
    task = load_task(task_settings(tmp_path, n=12))
    assert task.indices("search") == task.indices("select") == []
    assert sorted(task.indices("confirm")) == list(range(12))


@pytest.mark.parametrize("n", [1, 40])
def test_too_few_documents_for_three_stages_are_refused(tmp_path, n):
    task = load_task(task_settings(tmp_path, n=n, role="search"))
    with pytest.raises(UserError) as error:
        task.indices("search")
    assert f'"arc_easy": {n} documents are too few' in one_line(error)
    assert "at least 10" in str(error.value) and "guard" in str(error.value)


def random_scores(task: EvaluationTask, document, generator) -> tuple[list[float], list[bool]]:
    values = [-generator.expovariate(0.05) for _ in document.requests]
    return values, [generator.random() < 0.5 for _ in values]


@pytest.mark.parametrize("name", TASKS)
def test_metrics_over_all_documents_are_lm_evals(tmp_path, name):
    """The reference is lm-eval's own aggregation of its own results of each document."""
    task, generator = load_task(task_settings(tmp_path, name, n=30)), random.Random(2)
    rows, results = [], defaultdict(list)
    for document in task.documents(task.indices(None)):
        values, greedy = random_scores(task, document, generator)
        rows.append(task.metrics(document, values, greedy))
        responses = values if task.rolling else list(zip(values, greedy, strict=True))
        own = task.task.process_results(list(task.task.eval_docs)[document.index], responses)
        for metric, value in own.items():
            results[metric].append(value)
    table = pd.DataFrame(rows)
    assert set(task.kinds) == set(results)
    for metric, kind in task.kinds.items():
        expected = task.task.aggregation()[metric](results[metric])
        assert aggregate(table, metric, kind) == pytest.approx(expected, rel=1e-9)


def test_a_document_is_rendered_once_whatever_the_number_of_plans(tmp_path, monkeypatch):
    """lm-eval renders its choices for each result, which takes longer than all else of a row."""
    rendered, render = [], ConfigurableTask.doc_to_choice

    def noting(self, doc, *given):
        rendered.append(doc)
        return render(self, doc, *given)

    monkeypatch.setattr(ConfigurableTask, "doc_to_choice", noting)
    task = load_task(task_settings(tmp_path, n=12))
    documents = task.documents([0, 1])
    rendered.clear()
    found = []
    for plan in range(4):
        values = [-1.0 if choice == plan else -2.0 for choice in range(4)]
        found.append([task.metrics(d, values, [False] * 4)["acc"] for d in documents])
    assert len(rendered) <= 2
    assert [sum(column) for column in zip(*found, strict=True)] == [1, 1]


def test_a_text_without_words_or_bytes_weighs_as_in_lm_eval(tmp_path):
    """An empty text has no bytes: it must not divide by zero, and what is scored of it (a BOS that
    the tokenizer adds) counts."""
    rows = [{"passage": text, "question": "", "answer": True} for text in ("", "two words")]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    task = load_task(task_settings(tmp_path, "boolq_passages", n=1, data_file=file))
    empty, full = task.documents([0, 1])
    found = task.metrics(empty, [0.0], [False]), task.metrics(full, [-18.0], [False])
    assert [row["byte_perplexity_weight"] for row in found] == [0, 9]
    assert all(math.isfinite(row["byte_perplexity"]) for row in found)
    assert found[1]["byte_perplexity"] == pytest.approx(math.exp(2))
    assert found[1]["word_perplexity"] == pytest.approx(math.exp(9))
    assert found[1]["bits_per_byte"] == pytest.approx(2 / math.log(2))


@pytest.mark.parametrize(
    ("name", "target"), [("arc_easy", "1"), ("lambada_openai", None), ("winogrande", None)]
)
def test_the_target_is_the_gold_answer(tmp_path, name, target):
    task = load_task(task_settings(tmp_path, name, n=12))
    document = task.documents([1])[0]
    found = task.target(document)
    assert found == str(task.task.doc_to_target(list(task.task.eval_docs)[1]))
    assert target is None or found == target


def test_the_key_of_a_document_is_its_content_not_its_number():
    one = {"idx": 1, "id": "x", "text": "a", "nested": {"id": 1}}
    assert content_key(one) == content_key(one | {"idx": 2, "id": "y"})
    assert content_key(one) == content_key(dict(reversed(one.items())))
    others = [one | {"text": "b"}, one | {"nested": {"id": 2}}, one | {"more": None}]
    assert len({content_key(doc) for doc in [one, *others]}) == 4


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"task": "arc_esy"}, ['"arc_esy"', "arc_easy"]),
        ({"metric": "accuracy"}, ['metric "accuracy"', "acc, acc_norm"]),
        ({"metric": "f1", "overrides": {"metric_list": [{"metric": "f1"}, {"metric": "acc"}]}},
         ['metric "f1"', "acc"]),
        ({"cluster": "passage"}, ['cluster "passage"', "question"]),
        ({"task": "gsm8k", "metric": "exact_match", "overrides": {"doc_to_target": ""}},
         ["generate_until", "multiple_choice"]),
        ({"task": "sst2"}, ["cannot build it from this data", "'sentence' is undefined"]),
        ({"overrides": {"num_fewshots": 1}}, ["num_fewshots"]),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused_in_one_line(tmp_path, changes, parts):
    with pytest.raises(UserError) as error:
        load_task(task_settings(tmp_path, **changes))
    assert 'task "arc_e' in one_line(error)
    assert all(part in str(error.value) for part in parts)


@pytest.mark.real
def test_no_real_document_is_in_two_stages(real_config):
    """For every task of the default experiment, by what the documents say."""
    for name, settings in real_config.tasks.items():
        task = load_task(settings)
        docs = list(task.task.eval_docs)
        texts = {
            stage: {
                json.dumps({k: v for k, v in docs[i].items() if k not in ("id", "idx")})
                for i in task.indices(stage)
            }
            for stage in STAGES
        }
        if name in real_config.search_tasks:
            assert_disjoint(texts.values())
            assert sum(len(task.indices(stage)) for stage in STAGES) == len(docs)
        else:
            assert len(task.indices("confirm")) == len(docs) and not texts["search"]


@pytest.mark.real
def test_no_real_document_is_among_the_examples_of_a_prompt(real_config):
    for name in real_config.search_tasks:
        settings = real_config.tasks[name]
        overrides = {**settings.overrides, **FIRST_N}
        task = load_task(replace(settings, num_fewshot=5, overrides=overrides))
        docs = list(task.task.eval_docs)
        shots = {content_key(doc) for doc in docs[:5]}
        stages = [{content_key(docs[i]) for i in task.indices(stage)} for stage in STAGES]
        assert_disjoint([shots, *stages])
