"""Other prompts of a task: what a config may say of them, and what becomes of it."""

import pytest

from frankenlab.config import experiment as config
from frankenlab.config.stages import Stage
from frankenlab.io.errors import UserError
from tests.config.test_config import changed
from tests.support.processes import one_line

TERSE = {"doc_to_text": "{{question}}"}
CONFIRM = Stage("confirm")


def with_prompts(prompts, **task):
    return config.check(changed("tasks.arc_easy", {"metric": "acc", "prompts": prompts, **task}))


def test_a_prompt_is_the_task_with_other_keys_and_never_among_the_tasks(tmp_path):
    own = {"description": "Read.", "doc_to_text": "Q: {{question}}"}
    prompts = {"terse": TERSE, "five": {"num_fewshot": 5}}
    experiment = with_prompts(prompts, overrides=own, num_fewshot=2, limit=40)
    assert list(experiment.tasks) == ["arc_easy"]
    assert list(experiment.variants) == ["arc_easy@terse", "arc_easy@five"]
    terse, five = (experiment.task(name) for name in experiment.variants)
    assert terse.overrides == {**own, **TERSE} and terse.num_fewshot == 2
    # Under overrides it counts whatever the task's YAML says.
    assert five.overrides == {**own, "num_fewshot": 5} and five.num_fewshot is None
    assert experiment.task("arc_easy").overrides == own
    assert experiment.limit(CONFIRM, "arc_easy@terse") == 40
    assert experiment.runs_controls("tiny", "none", "arc_easy@terse")
    raw = changed("tasks.arc_easy", {"metric": "acc", "prompts": prompts, "role": "guard"})
    raw["tasks"]["sst2"] = {"metric": "acc"}
    assert not config.check(raw).runs_controls("tiny", "none", "arc_easy@five")


@pytest.fixture
def data(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}\n")
    return {"file": str(tmp_path / "rows.jsonl")}


def test_worked_examples_of_a_file_are_its_first_documents(data, tmp_path, monkeypatch):
    two = {"num_fewshot": 2}
    first = {"sampler": "first_n"}
    assert with_prompts({"two": two}, data=data).task("arc_easy@two").overrides == {
        **two,
        "fewshot_config": first,
    }
    # Whatever the config says comes first, and so do examples that the YAML carries.
    said = with_prompts({"two": {**two, "fewshot_split": "validation"}}, data=data)
    assert "fewshot_config" not in said.task("arc_easy@two").overrides
    assert with_prompts({"two": two}).task("arc_easy@two").overrides == two
    monkeypatch.setattr(config, "TASKS_FOLDER", tmp_path)
    carried = "task: {}\n{}\nfewshot_config: {{samples: [{{q: a}}]}}\n"
    (tmp_path / "base.yaml").write_text(carried.format("carried", "output_type: multiple_choice"))
    (tmp_path / "arc_easy.yaml").write_text("task: arc_easy\ninclude: base.yaml\n")
    assert with_prompts({"two": two}, data=data).task("arc_easy@two").overrides == two


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ({"own": TERSE}, "prompts.own: own is the task's own prompt"),
        ({"a": {}}, "prompts.a: it says nothing; give it at least one of num_fewshot, descr"),
        ({"a": TERSE, "b": dict(TERSE)}, "prompts.b: it is the same prompt as a"),
        ({"a": {"doc_to_txt": "x"}}, 'prompts.a: unknown key "doc_to_txt"; did you mean "doc_to'),
        ({"a": {"metric_list": []}}, 'prompts.a: unknown key "metric_list"; allowed: num_fewshot'),
        ({"a": {"num_fewshot": -1}}, "prompts.a.num_fewshot: -1 is out of bounds"),
        ({"a": {"num_fewshot": True}}, "prompts.a.num_fewshot: true is not a whole number"),
        ({"a": {"doc_to_text": None}}, "prompts.a.doc_to_text: null is not a value"),
        ({"a b": TERSE}, "prompts"),
        ({"a@b": TERSE}, "prompts"),
        ({"a": {"doc_to_text": "!function x.y"}}, "prompts.a: '!function x.y' is no function"),
        (
            {"a": {"fewshot_config": {"process_docs": "x"}}},
            "config: tasks.arc_easy.prompts.a.fewshot_config.process_docs: it is Python code",
        ),
    ],
)
def test_a_wrong_prompt_is_one_line_that_names_it(prompts, words):
    with pytest.raises(UserError) as error:
        with_prompts(prompts)
    assert words in one_line(error) and "tasks.arc_easy.prompts" in str(error.value)
