"""Worked examples in the prompt are those that lm-eval would show, prompt for prompt."""

import json
from collections import defaultdict
from pathlib import Path

import datasets
import pytest
import yaml
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from frankenlab.io.errors import UserError
from frankenlab.tasks.index import TaskSettings
from frankenlab.tasks.task import EvaluationTask, content_key
from tests.support.processes import one_line
from tests.support.task_rows import write_rows

pytestmark = pytest.mark.slow

FIRST_N = {"fewshot_config": {"sampler": "first_n"}}
CHOICES = ["cat", "dog", "red barn"]
ROWS = [{"q": f"word {i} is", "c": CHOICES, "a": i % 3} for i in range(12)]
OWN = [{"q": f"EXAMPLE {i}", "c": CHOICES, "a": i % 3} for i in range(5)]
TRAIN = [{"q": f"train {i}", "c": CHOICES, "a": i % 3} for i in range(9)]

FUNCTIONS = f"""
from lm_eval.api.samplers import ContextSampler

def examples():
    return {OWN!r}

def loud(data):
    return data.map(lambda doc: {{**doc, "q": doc["q"].upper()}})

class LastN(ContextSampler):
    def sample(self, n, eval_doc=None, df=None, **kwargs):
        return self.df[-n:]
"""


def write_task(folder, splits, keys):
    """Write a task whose own data are these splits, in files that lm-eval reads by itself."""
    files = {name: str(write_rows(folder / f"{name}.jsonl", rows)) for name, rows in splits.items()}
    config = {
        "task": "own",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")},
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_choice": "{{c}}",
        "doc_to_target": "{{a}}",
        "metric_list": [{"metric": "acc"}],
    } | keys
    text = yaml.safe_dump(config, sort_keys=False).replace("'!function ", "!function '")
    (folder / "own.yaml").write_text(text)
    (folder / "functions.py").write_text(FUNCTIONS)
    return files


def lm_evals_prompts(folder, num_fewshot) -> dict[int, list]:
    """Return the prompts that lm-eval's `simple_evaluate` builds for the YAML."""
    (task,) = (
        TaskManager(include_defaults=False).load([load_yaml(folder / "own.yaml")])["tasks"].values()
    )
    if num_fewshot is not None and task.get_config("num_fewshot") != 0:
        task.set_config("num_fewshot", num_fewshot)
    task.set_fewshot_seed(1234)
    task.build_all_requests()
    prompts = defaultdict(list)
    for instance in task.instances:
        prompts[instance.doc_id].append(instance.args)
    return prompts


def load(folder, file=None, split="validation", **settings) -> EvaluationTask:
    data = Path(file) if file else None
    given = {"role": "guard", "metric": "acc", "data_file": data, "split": split}
    return EvaluationTask(TaskSettings("own", "own", **(given | settings)), folder)


def prompts(task: EvaluationTask) -> dict[int, list]:
    return {d.index: list(d.requests) for d in task.documents(task.indices(None))}


SAMPLES = {"fewshot_config": {"sampler": "first_n", "samples": OWN}}
DRAWN = {"fewshot_config": {"samples": OWN}}
CASES = {
    "first of its samples": SAMPLES,
    "drawn from its samples": DRAWN,
    "from a function": {
        "fewshot_config": {"sampler": "first_n", "samples": "!function functions.examples"}},
    "its own sampler": {
        "fewshot_config": {"sampler": "!function functions.LastN", "samples": OWN}},
    "in another form": {
        "fewshot_config": {
            "samples": OWN, "doc_to_text": "Q: {{q}}", "doc_to_target": "{{c[a]}}!",
            "target_delimiter": " => ", "fewshot_delimiter": "\n###\n", "gen_prefix": "So"},
        "description": "Choose.\n\n"},
    "beside a training split": {**SAMPLES, "training_split": "train"},
    "with processed documents": {**DRAWN, "process_docs": "!function functions.loud"},
    "number in the YAML": {**DRAWN, "num_fewshot": 3},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("evaluated", ["validation_split", "test_split"])
@pytest.mark.parametrize("shots", [2, 0, None])
def test_data_leave_the_yamls_own_examples_alone(tmp_path, case, evaluated, shots):
    keys = CASES[case] | {evaluated: "held", "validation_split": "held"}
    files = write_task(tmp_path, {"held": ROWS, "train": TRAIN}, keys)
    expected = lm_evals_prompts(tmp_path, shots)
    assert prompts(load(tmp_path, num_fewshot=shots)) == expected
    replaced = load(tmp_path, files["held"], "held", num_fewshot=shots)
    assert prompts(replaced) == expected
    assert len(replaced.indices(None)) == len(ROWS)


@pytest.mark.parametrize("sampler", ["default", "first_n"])
@pytest.mark.parametrize("named", [{}, {"fewshot_split": "train"},
                                   {"fewshot_config": {"split": "train"}}])  # fmt: skip
def test_examples_of_another_split_are_lm_evals(tmp_path, sampler, named):
    own = {"sampler": sampler, **named.get("fewshot_config", {})}
    keys = {**named, "training_split": "train", "test_split": "test", "fewshot_config": own}
    files = write_task(tmp_path, {"train": TRAIN, "test": ROWS}, keys)
    expected = lm_evals_prompts(tmp_path, 2)
    assert prompts(load(tmp_path, num_fewshot=2)) == expected
    # Its data alone cannot show them.
    with pytest.raises(UserError) as error:
        load(tmp_path, files["test"], "test", num_fewshot=2)
    assert 'split "train"' in one_line(error) and "first_n" in str(error.value)
    assert len(prompts(load(tmp_path, files["test"], "test"))) == len(ROWS)
    # On the user's word they come from the file, and are not evaluated.
    task = load(tmp_path, files["test"], "test", num_fewshot=2, overrides=FIRST_N)
    assert task.indices(None) == list(range(2, len(ROWS)))
    assert prompts(task)[5][0][0] == "word 0 is cat\n\nword 1 is dog\n\nword 5 is"


@pytest.mark.parametrize("named", [{}, {"fewshot_split": "train"},
                                   {"fewshot_config": {"split": "train", "sampler": "first_n"}},
                                   {"fewshot_config": {"samples": OWN}}])  # fmt: skip
def test_a_file_of_examples_stands_beside_the_evaluated_one(tmp_path, named):
    keys = {"training_split": "train", "test_split": "test", **named}
    files = write_task(tmp_path, {"train": TRAIN, "test": ROWS}, keys)
    beside = {"fewshot_file": Path(files["train"]), "num_fewshot": 2}
    task = load(tmp_path, files["test"], "test", **beside)
    assert task.indices(None) == list(range(len(ROWS)))
    if "samples" in named.get("fewshot_config", {}):
        # The config's file counts before examples that the YAML carries.
        assert all(text.count("train ") == 2 for [(text, _), *_] in prompts(task).values())
    else:
        assert prompts(task) == lm_evals_prompts(tmp_path, 2)
    # Without examples it is not read.
    Path(files["train"]).write_text("")
    assert len(prompts(load(tmp_path, files["test"], "test", **beside | {"num_fewshot": 0}))) == 12
    with pytest.raises(UserError, match=r"train\.jsonl: not a readable data file"):
        load(tmp_path, files["test"], "test", **beside)
    Path(files["train"]).unlink()
    with pytest.raises(UserError, match=r"there is no .*train\.jsonl; `snakemake fetch`"):
        load(tmp_path, files["test"], "test", **beside)


@pytest.mark.parametrize("shots", [0, 2])
def test_a_data_set_that_was_fetched_is_what_lm_eval_would_have_loaded(tmp_path, shots):
    keys = {"training_split": "train", "test_split": "test"}
    files = write_task(tmp_path, {"train": TRAIN, "test": ROWS}, keys)
    folder = tmp_path / "fetched"
    with pytest.raises(UserError) as error:
        load(tmp_path, data_folder=folder, num_fewshot=shots)
    assert "there is no" in one_line(error) and "`snakemake fetch`" in one_line(error)
    features = datasets.Features(
        q=datasets.Value("string"),
        c=datasets.List(datasets.Value("string")),
        a=datasets.ClassLabel(names=["first", "second", "third"]),
    )
    for split, rows in (("train", TRAIN), ("test", ROWS), ("hidden", [])):
        columns = {name: [row[name] for row in rows] for name in features}
        table = datasets.Dataset.from_dict(columns, features=features)
        table.to_parquet(folder / f"{split}.parquet")
    (folder / "manifest.json").touch()
    expected = lm_evals_prompts(tmp_path, shots)
    for file in files.values():
        Path(file).unlink()
    task = load(tmp_path, data_folder=folder, num_fewshot=shots)
    assert prompts(task) == expected and task.task.dataset["test"].features == features
    with pytest.raises(UserError, match="validation, and the splits are hidden, test, train"):
        given = {"test_split": None, "validation_split": "validation"}
        load(tmp_path, data_folder=folder, overrides=given)


def test_the_yamls_number_counts_as_the_configs(tmp_path):
    keys = {"training_split": "train", "test_split": "test", "num_fewshot": 2}
    files = write_task(tmp_path, {"train": TRAIN, "test": ROWS}, keys)
    with pytest.raises(UserError) as error:
        load(tmp_path, files["test"], "test")
    assert 'split "train"' in one_line(error)
    assert prompts(load(tmp_path, files["test"], "test", num_fewshot=0))[0][0][0] == "word 0 is"
    task = load(tmp_path, files["test"], "test", overrides=FIRST_N)
    assert task.indices(None) == list(range(2, len(ROWS)))


def test_examples_from_the_evaluated_split_itself(tmp_path):
    """A YAML may have it so: lm-eval leaves the document out of its own prompt, and no document is
    evaluated that stands in another's."""
    keys = {"test_split": "test", "fewshot_split": "test", "fewshot_config": {"sampler": "first_n"}}
    files = write_task(tmp_path, {"test": ROWS}, keys)
    expected = lm_evals_prompts(tmp_path, 2)
    task = load(tmp_path, files["test"], "test", num_fewshot=2)
    assert task.indices(None) == list(range(2, len(ROWS)))
    assert prompts(task) == {i: expected[i] for i in task.indices(None)}
    with pytest.raises(UserError) as error:
        load(tmp_path, files["test"], "test", num_fewshot=2, overrides={"fewshot_config": {}})
    assert "drawn from the documents that are evaluated" in one_line(error)


def test_an_example_is_not_evaluated(tmp_path):
    rows = [*ROWS, OWN[1] | {"id": 7}]
    files = write_task(tmp_path, {"validation": rows}, SAMPLES | {"validation_split": "validation"})
    task = load(tmp_path, files["validation"], num_fewshot=2)
    assert task.indices(None) == list(range(len(ROWS)))
    assert content_key(rows[-1]) == content_key(OWN[1])


@pytest.mark.parametrize(
    ("keys", "settings", "parts"),
    [
        ({**SAMPLES, "num_fewshot": 0}, {"num_fewshot": 2}, ["num_fewshot", "0", "overrides"]),
        (SAMPLES, {"num_fewshot": 9}, ["num_fewshot: 9", "5 examples"]),
        (SAMPLES, {"overrides": {"num_fewshot": "2"}}, ["num_fewshot", "'2'"]),
        (SAMPLES, {"overrides": {"num_fewshot": -1}}, ["num_fewshot", "-1"]),
        ({"fewshot_config": {"samples": 5}}, {"num_fewshot": 2}, ["samples"]),
        ({"fewshot_config": 5}, {"num_fewshot": 2}, ["fewshot_config"]),
        ({"fewshot_config": {"samples": OWN, "sampler": "best"}}, {"num_fewshot": 2}, ["best"]),
    ],
)
def test_wrong_examples_are_refused_in_one_line(tmp_path, keys, settings, parts):
    files = write_task(tmp_path, {"validation": ROWS}, keys | {"validation_split": "validation"})
    with pytest.raises(UserError) as error:
        load(tmp_path, files["validation"], **settings)
    message = one_line(error)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("answer", [-1, 3, None])
def test_an_example_with_a_wrong_answer_is_refused(tmp_path, answer):
    """lm-eval would show the last choice as the answer where the label is -1."""
    wrong = [OWN[0], OWN[1] | {"a": answer}]
    keys = {"fewshot_config": {"sampler": "first_n", "samples": wrong}, "doc_to_target": "a"}
    files = write_task(tmp_path, {"validation": ROWS}, keys | {"validation_split": "validation"})
    assert load(tmp_path, files["validation"], num_fewshot=1).documents([0])
    with pytest.raises(UserError) as error:
        load(tmp_path, files["validation"], num_fewshot=2).documents([0])
    assert "few-shot example" in one_line(error) and json.dumps(answer) in str(error.value)
