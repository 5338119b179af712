"""A search that drops plans on its way, end to end on a tiny model.

The tests share one finished run; each that changes something changes it back.
"""

import json
from collections import Counter

import pandas as pd
import pytest

from frankenlab.plans.plan import BASE
from tests.support.laboratory import Laboratory
from tests.support.warm_python import warm_python

pytestmark = pytest.mark.slow

SEARCH_TABLE = "results/tiny/comparisons/search/tiny/none.parquet"
RACING = {"rounds": [10, 16], "error": 0.4, "margin": 5.0}
SHARDS = 2


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    laboratory = Laboratory(tmp_path_factory.mktemp("laboratory"))
    laboratory.python = warm_python()
    laboratory.config["stages"]["search"] |= {"racing": dict(RACING), "shards": SHARDS}
    laboratory.config["stages"]["select"] = {"shortlist": 1}
    laboratory.snakemake()
    return laboratory


def races(lab: Laboratory) -> list[dict]:
    return [
        json.loads((lab.results / "races" / f"tiny.{number}.json").read_text())
        for number in range(1, len(RACING["rounds"]) + 1)
    ]


def compared(lab: Laboratory) -> pd.DataFrame:
    return pd.read_parquet(lab.folder / SEARCH_TABLE)


def test_dropped_plans_stay_in_the_results_with_the_documents_that_they_saw(
    lab: Laboratory,
) -> None:
    table = compared(lab)
    rounds = {plan: i for i, race in enumerate(races(lab), 1) for plan in race["dropped"]}
    assert rounds
    for row in table.itertuples():
        if row.plan in rounds:
            assert row.dropped == rounds[row.plan]
            assert row.n == RACING["rounds"][row.dropped - 1]
            assert pd.isna(row.q) and not row.significant
        else:
            assert pd.isna(row.dropped) and row.n == 20
    assert set(table["plan"]) == set(races(lab)[0]["kept"]) | set(races(lab)[0]["dropped"])


def test_a_round_runs_what_the_one_before_kept(lab: Laboratory) -> None:
    for number, race in enumerate(races(lab), 2):
        folder = lab.results / "scores" / f"search-{number}" / "tiny" / "none"
        for task in ("animals", "liquids"):
            tables = [pd.read_parquet(path) for path in folder.glob(f"{task}.*.parquet")]
            assert len(tables) == SHARDS
            # Every plan in one shard, the base too; the race may have emptied a shard.
            plans = [plan for table in tables if len(table) for plan in table["plan"].unique()]
            assert sorted(plans) == sorted(race["kept"])


def test_the_shortlist_takes_survivors(lab: Laboratory) -> None:
    shortlist = json.loads((lab.results / "shortlist" / "tiny.json").read_text())["plans"]
    assert {item["plan"] for item in shortlist} <= set(races(lab)[-1]["kept"])
    assert all(BASE in race["kept"] for race in races(lab))


def test_the_page_tells_who_was_dropped_when(lab: Laboratory) -> None:
    table = pd.read_csv(lab.results / "tables" / "race.csv")
    assert table["round"].tolist() == [1, 2, 3]
    assert table["documents"].tolist() == [20, 32, 40]
    assert table["plans"].iloc[0] == compared(lab)["plan"].nunique()
    assert 0 < table["share"].iloc[-1] < 1
    assert (lab.results / "figures" / "tiny" / "none" / "race.svg").is_file()
    page = (lab.results / "report" / "index.html").read_text()
    assert "Rounds of the search" in page


def test_nothing_is_stale_after_a_race(lab: Laboratory) -> None:
    assert lab.jobs() == Counter()


def test_each_round_has_its_jobs(lab: Laboratory) -> None:
    jobs = lab.jobs("--forceall")
    rounds = len(RACING["rounds"]) + 1
    assert jobs["race"] == rounds - 1
    assert (jobs["evaluate"], jobs["confirm"]) == (SHARDS * rounds + 1, 1)


def test_a_dry_run_tells_what_the_race_takes_at_most(lab: Laboratory) -> None:
    text = lab.snakemake("--dry-run", "--forceall").stdout
    (line,) = (line for line in text.splitlines() if line.startswith("  search at "))
    assert "x 40 documents" in line and "at most" in line


def scored_once(lab: Laboratory) -> bool:
    return set(lab.scored().values()) == {1}


def test_another_number_of_shards_scores_and_changes_nothing(lab: Laboratory) -> None:
    before, table, judged = lab.scored(), compared(lab), races(lab)
    assert scored_once(lab)
    lab.config["stages"]["search"]["shards"] = 8
    lab.snakemake(SEARCH_TABLE)
    assert lab.scored() == before and races(lab) == judged
    order = ["task", "plan"]
    found = compared(lab).sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(found, table.sort_values(order, ignore_index=True))
    last = (lab.results / "scores" / "search-3").rglob("*.parquet")
    assert any(pd.read_parquet(path).empty for path in last)
    lab.config["stages"]["search"]["shards"] = SHARDS
    lab.snakemake(SEARCH_TABLE)
    assert lab.jobs() == Counter()


def test_another_error_decides_again_and_scores_only_what_is_missing(lab: Laboratory) -> None:
    before, dropped = lab.scored(), compared(lab)["dropped"].notna().sum()
    lab.config["stages"]["search"]["racing"]["error"] = 0.001
    assert lab.jobs()["race"] == 2
    lab.snakemake(SEARCH_TABLE)
    assert compared(lab)["dropped"].notna().sum() < dropped
    after = lab.scored()
    assert after > before and scored_once(lab)
    lab.config["stages"]["search"]["racing"]["error"] = RACING["error"]
    lab.snakemake(SEARCH_TABLE)
    assert lab.scored() == after
    assert lab.jobs() == Counter()


def test_without_the_race_every_plan_sees_every_document(lab: Laboratory) -> None:
    del lab.config["stages"]["search"]["racing"]
    lab.snakemake(SEARCH_TABLE)
    table = compared(lab)
    assert set(table["n"]) == {20} and table["dropped"].isna().all()
    assert scored_once(lab)
    lab.config["stages"]["search"]["racing"] = dict(RACING)
    lab.snakemake(SEARCH_TABLE)
    assert lab.jobs() == Counter()


def test_rounds_that_do_not_grow_are_refused(lab: Laboratory) -> None:
    lab.config["stages"]["search"]["racing"]["rounds"] = [10, 20]
    done = lab.snakemake("--dry-run", check=False)
    lab.config["stages"]["search"]["racing"]["rounds"] = list(RACING["rounds"])
    assert "stages.search.racing.rounds: 20 documents after 20" in done.stderr
