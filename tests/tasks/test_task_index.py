"""The index of tasks and their fingerprints."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from frankenlab.config.experiment import TASKS_FOLDER
from frankenlab.io.errors import UserError
from frankenlab.io.files import CACHE_VARIABLE
from frankenlab.tasks import folders
from frankenlab.tasks.folders import harness_tasks
from frankenlab.tasks.index import task_file
from frankenlab.tasks.yaml_files import task_fingerprint
from tests.support.processes import one_line

TASK = """# A task.
include: common.yaml
task: mine
doc_to_text: "{{question}}"
process_docs: !function helpers.clean
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "mine.yaml").write_text(TASK)
    (tmp_path / "common.yaml").write_text("output_type: multiple_choice\ninclude: [base.yaml]\n")
    (tmp_path / "base.yaml").write_text("metadata: {version: 1}\n")
    (tmp_path / "helpers.py").write_text("def clean(x):\n    return x  # as it is\n")
    (tmp_path / "other.py").write_text("ONE = 1\n")
    return tmp_path


@pytest.mark.parametrize("name", ["arc_easy", "sst2", "lambada_openai", "winogrande", "wikitext"])
def test_the_harnesss_tasks_are_found(name):
    path = task_file(name, TASKS_FOLDER)
    assert path == harness_tasks().tasks[name]
    assert f"task: {name}" in path.read_text()


@pytest.fixture
def harness(tmp_path, monkeypatch) -> Path:
    """Put a folder with one task in the place of lm-eval's, and an empty cache beside it."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    found = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(folders, "find_spec", lambda name: found)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "one.yaml").write_text("task: one\n")
    yield tmp_path / "tasks"
    harness_tasks.cache_clear()


def again() -> folders.TaskFolder:
    """Ask as the next process would."""
    harness_tasks.cache_clear()
    return harness_tasks()


def test_the_harnesss_tasks_are_read_once(harness, monkeypatch):
    first = again()
    assert first.tasks == {"one": harness / "one.yaml"} and not first.groups
    monkeypatch.setattr(folders, "_named", lambda files: pytest.fail("the files are read again"))
    assert again() == first


@pytest.mark.parametrize(
    "change",
    [
        lambda tasks: (tasks / "one.yaml").write_text("task: another\n"),
        lambda tasks: (tasks / "two.yaml").write_text("group: two\n"),
        lambda tasks: (tasks / "one.yaml").unlink(),
    ],
    ids=["edited", "added", "removed"],
)
def test_a_change_of_the_harnesss_tasks_is_seen(harness, change):
    first = again()
    change(harness)
    assert again() != first


@pytest.mark.parametrize("text", ["", "{", '{"tasks": 1}', "{}"])
def test_a_damaged_cache_of_the_harnesss_tasks_is_made_again(harness, text):
    first = again()
    (kept,) = (harness.parent / "cache" / "tasks").iterdir()
    kept.write_text(text)
    assert again() == first


def test_a_cache_that_cannot_be_written_is_done_without(harness):
    (harness.parent / "cache").write_text("a file")
    assert "one" in again().tasks


def test_an_own_task_wins_over_the_harnesss(folder):
    (folder / "arc.yaml").write_text("task: 'arc_easy'\n")
    assert task_file("mine", folder) == folder / "mine.yaml"
    assert task_file("arc_easy", folder) == folder / "arc.yaml"


def test_a_task_of_the_project_wins_over_the_packages(folder, tmp_path_factory, monkeypatch):
    project = tmp_path_factory.mktemp("project")
    ours = project / "config" / "tasks" / "ours.yaml"
    ours.parent.mkdir(parents=True)
    ours.write_text("task: mine\n")
    monkeypatch.chdir(project)
    packaged = folder / "mine.yaml"
    assert task_file("mine", folder) == ours != packaged
    monkeypatch.chdir(folder)
    assert task_file("mine", folder) == packaged


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "nearest"), [("arc_esy", "arc_easy"), ("min", "mine"), ("lambada_opnai", "lambada")]
)
def test_an_unknown_task_is_refused_with_the_nearest(folder, name, nearest):
    with pytest.raises(UserError) as error:
        task_file(name, folder)
    assert f'"{name}"' in one_line(error)
    assert nearest in str(error.value).split("did you mean")[1]


def test_a_task_like_no_other_is_refused_without_a_guess(folder):
    with pytest.raises(UserError) as error:
        task_file("§§§", folder)
    assert "did you mean" not in one_line(error)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("mine.yaml", "# A task.\n", ""),
        ("mine.yaml", 'doc_to_text: "{{question}}"', "doc_to_text:   '{{question}}'  # why"),
        ("helpers.py", "  # as it is", ""),
        ("other.py", "1", "2"),
    ],
)
def test_comments_layout_and_other_files_do_not_count(folder, file, old, new):
    assert_changes(folder, file, old, new, expected=False)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("mine.yaml", "{{question}}", "{{question}} "),
        ("common.yaml", "multiple_choice", "loglikelihood"),
        ("base.yaml", "1", "2"),
        ("helpers.py", "return x", "return x[:3]"),
        ("mine.yaml", "helpers.clean", "other.clean"),
    ],
)
def test_keys_includes_and_functions_count(folder, file, old, new):
    assert_changes(folder, file, old, new, expected=True)


def assert_changes(folder: Path, file: str, old: str, new: str, expected: bool) -> None:
    before = task_fingerprint(folder / "mine.yaml")
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    assert (task_fingerprint(folder / "mine.yaml") != before) is expected


def test_the_place_of_the_folder_does_not_count(folder, tmp_path_factory):
    copy = shutil.copytree(folder, tmp_path_factory.mktemp("copy") / "tasks")
    assert task_fingerprint(copy / "mine.yaml") == task_fingerprint(folder / "mine.yaml")


def test_reading_a_task_runs_none_of_its_code(folder):
    (folder / "helpers.py").write_text("raise SystemExit('was run')\n")
    assert task_fingerprint(folder / "mine.yaml")
