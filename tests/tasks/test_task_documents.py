"""Documents that lm-eval would score as nonsense are refused, with their number and the field."""

import json
from itertools import product

import pytest
import yaml

from frankenlab.io.errors import UserError
from frankenlab.tasks.index import TaskSettings
from frankenlab.tasks.task import EvaluationTask
from tests.support.processes import one_line

CHOICE = {
    "task": "own",
    "dataset_path": "local",
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{q}}",
    "doc_to_choice": "c",
    "doc_to_target": "a",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
TEXT = CHOICE | {
    "output_type": "loglikelihood",
    "doc_to_choice": None,
    "doc_to_target": " {{a}}",
    "metric_list": [{"metric": "acc"}],
}
ROLLING = TEXT | {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "a",
    "metric_list": [{"metric": "word_perplexity"}],
}
GOOD = {"q": "what", "c": ["x", "y y", "z"], "a": 1, "s": "y y", "n": {"t": "u"}, "o": None}


def own_task(folder, rows, keys, functions: str = "", **settings) -> EvaluationTask:
    """Return a task of the user's own with these rows as its data."""
    text = yaml.safe_dump(keys, sort_keys=False).replace("'!function ", "!function '")
    (folder / "own.yaml").write_text(text)
    (folder / "functions.py").write_text(functions)
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"role": "guard", "metric": keys["metric_list"][0]["metric"], "data_file": file}
    return EvaluationTask(TaskSettings("own", "own", **(given | settings)), folder)


def refusal(folder, rows, keys, **more) -> str:
    with pytest.raises(UserError) as error:
        own_task(folder, rows, keys, **more)
    message = one_line(error)
    assert message.startswith('task "own": ')
    return message


# Keys of the task, what is changed in a document, and what the message says of it.
WRONG = {
    "negative label": (CHOICE, {"a": -1}, ["doc_to_target (a)", "-1", "0 to 2"]),
    "label out of range": (CHOICE, {"a": 3}, ["doc_to_target (a)", "3", "0 to 2"]),
    "null label": (CHOICE, {"a": None}, ["doc_to_target (a)", "null"]),
    "label in a template": (CHOICE | {"doc_to_target": "{{a}}"}, {"a": 7}, ["({{a}})", "7"]),
    "negative in a template": (CHOICE | {"doc_to_target": "{{a}}"}, {"a": -1}, ["'-1'", "none of"]),
    "null in a template": (CHOICE | {"doc_to_target": "{{a}}"}, {"a": None}, ["null", "a"]),
    "text that is no choice": (CHOICE | {"doc_to_target": "s"}, {"s": "w"}, ["'w'", "y y"]),
    "choices": (CHOICE, {"c": []}, ["doc_to_choice (c)", "no choices"]),
    "null choices": (CHOICE, {"c": None}, ["doc_to_choice (c)", "null"]),
    "empty choice": (CHOICE, {"c": ["x", "", "z"]}, ["choice 1 is empty"]),
    "null choice": (CHOICE, {"c": ["x", "y", None]}, ["choice 2", "null"]),
    "choices in a template": (
        CHOICE | {"doc_to_choice": "{{[c[0], q]}}"}, {"q": ""}, ["choice 1 is empty"]),
    "fewer choices": (CHOICE, {"c": ["x"]}, ["choice 1", "0 to 0"]),
    "null text": (CHOICE | {"doc_to_text": "q"}, {"q": None}, ["doc_to_text (q)", "null"]),
    "null in the text": (CHOICE, {"q": None}, ["doc_to_text ({{q}})", "null in it: q"]),
    "digits for a text": (CHOICE, {"q": "42"}, ["doc_to_text ({{q}})", "42"]),
    "nested": (CHOICE | {"doc_to_text": "{{n.t}}"}, {"n": None}, ["doc_to_text", "null in it: n"]),
    "empty target": (TEXT | {"doc_to_target": "{{s}}"}, {"s": ""}, ["doc_to_target", "empty"]),
    "null target": (TEXT, {"a": None}, ["doc_to_target", "null"]),
    "a list for a text": (TEXT | {"doc_to_target": "{{s}}"}, {"s": "[1, 2]"}, ["[1, 2]"]),
    "rolling null": (ROLLING | {"doc_to_target": "s"}, {"s": None}, ["doc_to_target (s)", "null"]),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("case", "index"), list(product(WRONG, [0, 2])))
def test_a_wrong_document_is_refused_by_its_number_and_field(tmp_path, case, index):
    """Also the first, at which lm-eval looks when it builds the task."""
    keys, change, parts = WRONG[case]
    rows = [GOOD] * 2 + [GOOD | {"o": "not null"}]
    own_task(tmp_path, rows, keys)
    rows[index] = GOOD | change
    message = refusal(tmp_path, rows, keys)
    assert f"document {index}: " in message or (index == 0 and "right answers" in message)
    assert all(part in message for part in parts), message


NAMING = [(CHOICE, key) for key in ("doc_to_text", "doc_to_target", "doc_to_choice")]
NAMING += [(TEXT, key) for key in ("doc_to_text", "doc_to_target")]


@pytest.mark.parametrize("form", ["absent", "{{absent}}", "{{n.absent}}"])
@pytest.mark.parametrize(("keys", "key"), NAMING)
def test_a_field_that_is_named_and_not_there_is_refused(tmp_path, key, form, keys):
    """lm-eval shows the name itself, where it is not in a template."""
    message = refusal(tmp_path, [GOOD] * 2, keys | {key: form})
    assert key in message and "absent" in message


VALID = {
    "number": (CHOICE, {}),
    "text": (CHOICE | {"doc_to_target": "s"}, {}),
    "a text with brackets": (CHOICE | {"doc_to_text": "{{q}} [1]"}, {}),
    "yes or no": (CHOICE | {"doc_to_choice": ["no", "yes"], "doc_to_target": "b"}, {"b": True}),
    "one choice": (CHOICE, {"c": ["x"], "a": 0}),
    "the same choice twice": (CHOICE, {"c": ["x", "x"]}),
    "several right answers": (CHOICE | {"doc_to_target": "m"}, {"m": [0, 2]}),
    "a constant that is a choice": (
        CHOICE | {"doc_to_choice": ["no", "yes"], "doc_to_target": "yes"}, {}),
    "an empty prompt": (CHOICE | {"doc_to_text": ""}, {}),
    "an empty text": (ROLLING | {"doc_to_target": "s"}, {"s": ""}),
    "a null that is not shown": (CHOICE | {"doc_to_text": "{{q}}{{o if o}}"}, {"o": "x"}),
    "a very long text": (CHOICE, {"q": "word " * 400_000}),
}  # fmt: skip


@pytest.mark.parametrize("case", VALID)
def test_what_lm_eval_scores_well_is_not_refused(tmp_path, case):
    keys, change = VALID[case]
    task = own_task(tmp_path, [GOOD | change, GOOD | change | {"q": "other"}], keys)
    assert len(task.documents(task.indices(None))) == 2


def test_mixed_forms_of_right_answers_are_refused(tmp_path):
    """lm-eval goes by the first document."""
    function = "def answers(doc):\n    return [0, 1] if doc['a'] else 1\n"
    keys = CHOICE | {"doc_to_target": "!function functions.answers"}
    for first in (0, 1):
        rows = [GOOD | {"a": first}, GOOD | {"a": 1 - first}]
        message = refusal(tmp_path, rows, keys, functions=function)
        assert "document 1: doc_to_target" in message and "first document" in message
    message = refusal(tmp_path, [GOOD, GOOD | {"a": 2}], CHOICE | {"doc_to_target": "{{[a, 5]}}"})
    assert "choice 5" in message


def test_mutual_information_and_multiple_inputs_are_checked(tmp_path):
    information = CHOICE | {"metric_list": [{"metric": "acc_mutual_info"}]}
    task = own_task(tmp_path, [GOOD] * 2, information)
    assert [context for context, _ in task.documents([0])[0].requests] == ["what"] * 3 + [""] * 3
    inputs = CHOICE | {"doc_to_text": "a", "doc_to_target": "s"}
    task = own_task(tmp_path, [GOOD, GOOD | {"q": "x"}], inputs)
    assert [context for context, _ in task.documents([1])[0].requests] == GOOD["c"]
    assert "document 1: doc_to_text (a)" in refusal(tmp_path, [GOOD, GOOD | {"a": 3}], inputs)
    assert "document 1: doc_to_target" in refusal(tmp_path, [GOOD, GOOD | {"s": ""}], inputs)


def test_a_null_unit_is_refused(tmp_path):
    message = refusal(tmp_path, [GOOD, GOOD | {"s": None}], CHOICE, cluster="s")
    assert "document 1" in message and '"s" is null' in message


def test_a_data_file_without_rows_is_refused(tmp_path):
    assert "empty" in refusal_of_data(tmp_path)


def refusal_of_data(folder) -> str:
    with pytest.raises(UserError) as error:
        own_task(folder, [], CHOICE)
    return one_line(error)


def test_an_error_of_the_tasks_own_functions_is_one_line(tmp_path):
    failing = "def f(*given):\n    return 1 // 0\n"
    for key in ("process_docs", "process_results", "doc_to_text", "doc_to_target"):
        keys = CHOICE | {key: "!function functions.f"}
        assert "ZeroDivisionError" in refusal(tmp_path, [GOOD] * 2, keys, functions=failing)


METRICS = """
def results(doc, results):
    return {"rate": doc["a"] / 2, "loss": 0.5}
"""


def metric_task(folder, *metrics, rows=(GOOD, GOOD), **settings) -> EvaluationTask:
    named = [{"aggregation": "mean", **metric} for metric in metrics]
    keys = CHOICE | {"process_results": "!function functions.results", "metric_list": named}
    return own_task(folder, rows, keys, METRICS, **settings)


def test_a_metric_of_which_lower_is_better_is_marked_in_its_rows(tmp_path):
    rate = {"metric": "rate", "higher_is_better": True}
    loss = {"metric": "loss", "higher_is_better": False}
    task = metric_task(tmp_path, rate, loss)
    row = task.metrics(task.documents([0])[0], [-1.0, -2.0, -3.0], [False] * 3)
    assert row == {"rate": 0.5, "loss": 0.5, "loss_sign": -1.0}
    assert metric_task(tmp_path, rate, loss, metric="loss").kind == "mean"


@pytest.mark.parametrize("direction", [None, "false", 0])
def test_a_metric_of_which_nobody_says_what_is_better_is_refused(tmp_path, direction):
    with pytest.raises(UserError) as error:
        metric_task(tmp_path, {"metric": "rate", "higher_is_better": direction})
    assert "higher_is_better" in one_line(error) and '"rate"' in str(error.value)


def test_a_perplexity_of_which_higher_is_better_is_refused(tmp_path):
    metrics = [{"metric": "word_perplexity", "higher_is_better": True}]
    assert "higher_is_better: True" in refusal(
        tmp_path, [GOOD], ROLLING | {"doc_to_target": "s", "metric_list": metrics}
    )


def test_a_metric_that_the_task_never_returns_is_refused_or_named(tmp_path, caplog):
    rate = {"metric": "rate", "higher_is_better": True}
    with pytest.raises(UserError) as error:
        metric_task(tmp_path, {"metric": "f3", "higher_is_better": True}, rate)
    assert "never returns" in one_line(error) and "rate" in str(error.value)
    task = metric_task(tmp_path, rate, {"metric": "f3", "higher_is_better": True})
    assert "f3" in caplog.text and list(task.kinds) == ["rate"]


@pytest.mark.parametrize("value", ["float('nan')", "None", "2.5", "(1, 0)"])
def test_a_value_that_cannot_be_compared_is_refused(tmp_path, value):
    functions = f"def results(doc, results):\n    return {{'rate': {value}}}\n"
    metrics = [{"metric": "rate", "aggregation": "mean", "higher_is_better": True}]
    keys = CHOICE | {"process_results": "!function functions.results", "metric_list": metrics}
    task = own_task(tmp_path, [GOOD], keys, functions)
    with pytest.raises(UserError) as error:
        task.metrics(task.documents([0])[0], [-1.0] * 3, [False] * 3)
    assert "document 0" in one_line(error) and "rate" in str(error.value)
