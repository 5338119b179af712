"""Another draw divides the same documents otherwise, and leaves their prompts as they are."""

from frankenlab.config.experiment import TASKS_FOLDER
from frankenlab.tasks.draws import DrawnTask
from frankenlab.tasks.index import STAGES
from tests.support.task_rows import arc_row, load_task, task_settings, write_rows


def drawn(folder, seed):
    settings = task_settings(folder, n=400, role="search")
    return settings, DrawnTask(settings, TASKS_FOLDER, seed)


def test_seed_0_is_the_division_by_hashes(tmp_path):
    settings, task = drawn(tmp_path, 0)
    same = load_task(settings)
    for stage in (*STAGES, None):
        assert task.indices(stage) == same.indices(stage)


def test_a_seed_moves_documents_between_stages_and_loses_none(tmp_path):
    _, first = drawn(tmp_path, 0)
    _, other = drawn(tmp_path, 7)
    stages = [set(other.indices(stage)) for stage in STAGES]
    assert sum(map(len, stages)) == len(set.union(*stages)) == 400
    for stage, share in zip(STAGES, (0.25, 0.15, 0.60), strict=True):
        mine, his = set(first.indices(stage)), set(other.indices(stage))
        assert abs(len(his) / 400 - share) < 0.07
        # By chance alone: this share of this share.
        assert abs(len(mine & his) / len(mine) - share) < 0.2


def test_a_limit_takes_other_documents_of_a_guard_task_too(tmp_path):
    settings = task_settings(tmp_path, n=400)
    first, other = (DrawnTask(settings, TASKS_FOLDER, seed) for seed in (0, 7))
    assert len(set(first.indices("confirm", 40)) & set(other.indices("confirm", 40))) < 20
    assert sorted(first.indices("confirm")) == sorted(other.indices("confirm"))


def test_prompts_and_keys_are_those_of_every_draw(tmp_path):
    """So that the store's rows serve all draws."""
    _, first = drawn(tmp_path, 0)
    _, other = drawn(tmp_path, 7)
    for mine, his in zip(first.documents([3, 5]), other.documents([3, 5]), strict=True):
        assert (mine.key, mine.requests) == (his.key, his.requests)


def test_what_shares_a_cluster_stays_together_in_every_draw(tmp_path):
    rows = [arc_row(i) | {"passage": f"text {i // 4}"} for i in range(400)]
    file = write_rows(tmp_path / "shared.jsonl", rows)
    settings = task_settings(tmp_path, role="search", cluster="passage", data_file=file)
    task = DrawnTask(settings, TASKS_FOLDER, 7)
    for stage in STAGES:
        passages = {i // 4 for i in task.indices(stage)}
        assert len(task.indices(stage)) == 4 * len(passages)
