"""Task files that are laid out otherwise, broken, circular or hostile; groups; overrides."""

from itertools import pairwise

import pytest
import yaml

from frankenlab.io.errors import UserError
from frankenlab.tasks.folders import harness_tasks
from frankenlab.tasks.index import TaskSettings, task_file
from frankenlab.tasks.task import EvaluationTask
from frankenlab.tasks.yaml_files import task_fingerprint
from tests.support.processes import one_line

BODY = "output_type: multiple_choice\ndoc_to_text: '{{q}}'\n"


def refusal(call, *given, **named) -> str:
    with pytest.raises(UserError) as error:
        call(*given, **named)
    return one_line(error)


def load(folder) -> str:
    """Load the task `mine`, first as the workflow identifies it, then as it is evaluated."""
    rows = folder / "rows.jsonl"
    rows.write_text('{"q": "what"}\n')
    task_fingerprint(task_file("mine", folder))
    EvaluationTask(TaskSettings("mine", "mine", "guard", "acc", rows), folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mine.yaml", f"\ufefftask: mine\n{BODY}".encode()),
        ("mine.yaml", f"task: mine\n{BODY}".encode("utf-16")),
        ("mine.yml", f"task: mine\n{BODY}".encode()),
        ("mine.yaml", b'{"task": "mine", "output_type": "multiple_choice"}'),
        ("mine.yaml", b"  task : 'mine' # as it is\n  output_type: multiple_choice\n"),
    ],
    ids=["byte order mark", "utf-16", "yml", "json", "indented"],
)
def test_a_task_is_found_however_its_file_is_laid_out(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert task_file("mine", tmp_path) == tmp_path / name
    assert task_fingerprint(tmp_path / name)


BROKEN = {
    "malformed": ("task: mine\n  x: [1,\n", ["mine.yaml"]),
    "a list": ('[\n{\n"task": "mine"\n}\n]', ["mine.yaml", "mapping"]),
    "includes itself": (f"task: mine\ninclude: mine.yaml\n{BODY}", ["includes itself"]),
    "a circle": (f"task: mine\ninclude: other.yaml\n{BODY}", ["includes itself", "mine.yaml"]),
    "an absent include": (f"task: mine\ninclude: absent.yaml\n{BODY}", ["absent.yaml"]),
    "an include that is no name": (f"task: mine\ninclude: [[1]]\n{BODY}", ["include", "[1]"]),
    "an absent module": (f"task: mine\nprocess_docs: !function absent.f\n{BODY}", ["absent"]),
    "an absent function": (f"task: mine\nprocess_docs: !function here.g\n{BODY}", ["g", "here"]),
    "no function": (f"task: mine\nprocess_docs: !function here\n{BODY}", ["module.name"]),
    "broken Python": (f"task: mine\nprocess_docs: !function broken.f\n{BODY}", ["broken.py"]),
    "an alias bomb": (
        "task: mine\na: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefg")),
        ["aliases"]),
    "an alias of itself": ("task: mine\na: &a [*a]\n", ["mine.yaml"]),
    "too deep": ("task: mine\na: " + "[" * 200_000, ["mine.yaml"]),
    "another tag": ("task: mine\na: !!python/object/apply:os.system [id]\n", ["mine.yaml"]),
    "an unknown key": (f"task: mine\ndoc_to_txt: x\n{BODY}", ["doc_to_txt"]),
    "a date for a key": (f"task: mine\n2020-01-01: x\n{BODY}", ["mine"]),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_task_ends_in_one_line(tmp_path, case):
    content, parts = BROKEN[case]
    (tmp_path / "mine.yaml").write_text(content)
    (tmp_path / "other.yaml").write_text("include: mine.yaml\n")
    (tmp_path / "here.py").write_text("def f(x):\n    return x\n")
    (tmp_path / "broken.py").write_text("def f(:\n")
    message = refusal(load, tmp_path)
    assert all(part in message for part in parts), message


def test_bytes_that_are_no_text_end_in_one_line(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"task: mine\nx: \xff\xfe\x00\n")
    assert "mine.yaml" in refusal(load, tmp_path)


def test_a_broken_file_does_not_hide_the_others(tmp_path):
    (tmp_path / "broken.yaml").write_text("[1,\n")
    (tmp_path / "mine.yaml").write_text(f"task: mine\n{BODY}")
    assert task_file("mine", tmp_path) == tmp_path / "mine.yaml"
    assert "broken.yaml" in refusal(task_file, "yours", tmp_path)


def test_a_task_in_two_files_is_refused(tmp_path):
    for name in ("one.yaml", "two.yaml"):
        (tmp_path / name).write_text(f"task: mine\n{BODY}")
    message = refusal(task_file, "mine", tmp_path)
    assert "one.yaml" in message and "two.yaml" in message


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("mmlu", ["a group of 57 tasks", "mmlu_abstract_algebra", "and 49 more"]),
        ("glue", ["cola", "mrpc", "sst2"]),
        ("mmlu_stem_tasks", ["a group of 19 tasks"]),
        ("ours", ["a group of 2 tasks", "mine, yours"]),
    ],
)
def test_a_group_or_a_tag_is_told_with_its_members(tmp_path, name, parts):
    (tmp_path / "ours.yaml").write_text("group: ours\ntask:\n- mine\n- task: yours\n")
    for own in ("mine", "yours"):
        (tmp_path / f"{own}.yaml").write_text(f"task: {own}\n{BODY}")
    message = refusal(task_file, name, tmp_path)
    assert f'task "{name}"' in message and all(part in message for part in parts), message


def test_groups_and_tags_are_lm_evals():
    """A sample of each kind: nested, by a file that others include, in a list."""
    harness = harness_tasks()
    assert harness.tags["glue"] == sorted(harness.tags["glue"])
    assert {"rte", "wnli"} <= set(harness.tags["glue"])
    assert "arc_challenge" in harness.tags["ai2_arc"] and "arc_easy" in harness.tags["ai2_arc"]


HOSTILE = {
    "class": {"class": "os.system"},
    "custom_dataset": {"custom_dataset": "x"},
    "process_docs": {"process_docs": "utils.f"},
    "process_results": {"process_results": "utils.f"},
    "unsafe_code": {"unsafe_code": True},
    "fewshot_config.process_docs": {"fewshot_config": {"process_docs": "x"}},
    "include": {"include": "/etc/passwd"},
    "use_prompt": {"use_prompt": "x.yaml:y"},
    "trust_remote_code": {"dataset_kwargs": {"trust_remote_code": True}},
    "dataset_path": {"dataset_path": "pandas"},
    "!function": {"fewshot_config": {"doc_to_text": "!function utils.f"}},
}


@pytest.mark.parametrize("key", HOSTILE)
def test_overrides_that_would_run_code_are_refused_by_name(key):
    message = refusal(TaskSettings, "t", "arc_easy", "search", "acc", overrides=HOSTILE[key])
    assert key in message and 'task "t"' in message


@pytest.mark.parametrize("key", ["dataset_path", "dataset_name", "dataset_kwargs"])
def test_data_and_overrides_do_not_contradict_each_other(tmp_path, key):
    given = {"overrides": {key: None}, "data_file": tmp_path / "rows.jsonl"}
    assert key in refusal(TaskSettings, "t", "arc_easy", "search", "acc", **given)


@pytest.mark.parametrize(
    "metrics",
    [[{"metric": "./evil"}], [{"metric": "acc", "hf_evaluate": True}], "acc", ["acc"], {"a": 1}],
)
def test_a_metric_of_a_config_is_lm_evals_own(tmp_path, metrics):
    """lm-eval would look for another in a library that runs downloaded code."""
    (tmp_path / "mine.yaml").write_text(f"task: mine\n{BODY}")
    settings = TaskSettings("t", "mine", "guard", "acc", overrides={"metric_list": metrics})
    assert "metric_list" in refusal(EvaluationTask, settings, tmp_path)


def test_nulls_and_plain_keys_may_be_overridden():
    plain = yaml.safe_load("{process_docs: null, unsafe_code: false, description: 'Choose.'}")
    assert TaskSettings("t", "arc_easy", "search", "acc", overrides=plain).overrides == plain
