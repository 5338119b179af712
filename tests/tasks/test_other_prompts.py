"""Other prompts of a task are made and checked before the search."""

from dataclasses import replace

import pytest

from frankenlab.io.errors import UserError
from frankenlab.tasks.index import TaskSettings
from frankenlab.tasks.prompts import check_prompts
from tests.support.processes import one_line
from tests.support.task_rows import write_rows
from tests.tasks.test_fewshot import CHOICES, FIRST_N, write_task

pytestmark = pytest.mark.slow

ROWS = [{"q": f"word {i} is", "c": CHOICES, "a": i % 3} for i in range(40)]


@pytest.fixture
def own(tmp_path) -> TaskSettings:
    write_task(tmp_path, {"held": ROWS}, {"test_split": "held"})
    file = write_rows(tmp_path / "rows.jsonl", ROWS)
    return TaskSettings("own", "own", "guard", "acc", file, "held")


def variant(own: TaskSettings, name: str, **overrides) -> dict[str, TaskSettings]:
    return {name: replace(own, name=name, overrides=overrides)}


def test_each_prompt_is_shown_with_its_documents(own, tmp_path):
    others = variant(own, "own@two", num_fewshot=2, **FIRST_N)
    others |= variant(own, "own@terse", doc_to_text="{{q}}:")
    made = check_prompts(own, others, tmp_path, None)
    assert {name: each["documents"] for name, each in made.items()} == {
        "own": 40,
        "own@two": 38,
        "own@terse": 40,
    }
    assert {each["compared"] for each in made.values()} == {38}
    assert made["own@two"]["example"][0].startswith("word 0 is cat\n\nword 1 is dog\n\nword ")
    assert made["own@terse"]["example"][0].endswith(" is:")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"num_fewshot": 0}, 'task "own@a": its prompts are those of "own", word for word'),
        ({"doc_to_text": "{{nothing}}"}, 'task "own@a": '),
        ({"num_fewshot": 35, **FIRST_N}, "have 5 confirm documents in common, at least 10"),
        ({"num_fewshot": 2}, "few-shot examples are drawn from the documents"),
    ],
)
def test_a_prompt_that_says_nothing_new_or_cannot_be_made_is_refused(
    own, tmp_path, overrides, words
):
    with pytest.raises(UserError) as error:
        check_prompts(own, variant(own, "own@a", **overrides), tmp_path, None)
    assert words in one_line(error)
