"""A search that grows new plans on its way, end to end on a tiny model.

The tests share one finished run. Those that change the config come last, and keep their changes.
"""

import json
from collections import Counter

import pandas as pd
import pytest

from frankenlab.plans.plan import parse
from tests.support.laboratory import Laboratory
from tests.support.warm_python import warm_python

pytestmark = pytest.mark.slow

SEARCH_TABLE = "results/tiny/comparisons/search/tiny/none.parquet"
RACING = {"rounds": [10], "error": 0.2, "margin": 1.0}
BEAM = {"width": 2, "steps": 2, "most": 3}
MOST = 2 * 3
GRID, SHARDS, ROUNDS = 11, 2, 4


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    laboratory = Laboratory(tmp_path_factory.mktemp("laboratory"))
    laboratory.python = warm_python()
    search = {"racing": dict(RACING), "beam": dict(BEAM), "shards": SHARDS}
    laboratory.config["stages"]["search"] |= search
    laboratory.snakemake()
    return laboratory


def races(lab: Laboratory, rounds: int = ROUNDS) -> list[dict]:
    return [
        json.loads((lab.results / "races" / f"tiny.{number}.json").read_text())
        for number in range(1, rounds)
    ]


def compared(lab: Laboratory) -> pd.DataFrame:
    return pd.read_parquet(lab.folder / SEARCH_TABLE)


def ran(lab: Laboratory, stage: str) -> pd.DataFrame:
    folder = lab.results / "scores" / stage / "tiny" / "none"
    tables = [pd.read_parquet(path) for path in folder.glob("animals.*.parquet")]
    return pd.concat([table for table in tables if len(table)])


def test_each_step_grows_new_plans_from_the_best_and_records_of_which(lab: Laboratory) -> None:
    records = races(lab)
    first, second, last = (len(record["grown"]) for record in records)
    assert 0 < first <= 3 and first < second <= MOST and last == second
    grid = set(compared(lab)["plan"]) - {item["plan"] for item in records[-1]["grown"]}
    assert len(grid) == GRID
    for item in records[-1]["grown"]:
        assert parse(item["plan"], 4).text == item["plan"]
        known = grid | {one["plan"] for one in records[-1]["grown"] if one["round"] < item["round"]}
        assert {item["parent"], item["other"] or item["parent"]} <= known - {"base"}


def test_grown_plans_see_the_documents_that_the_others_saw(lab: Laboratory) -> None:
    seen = {f"search-{n}": ran(lab, f"search-{n}") for n in range(1, ROUNDS + 1)}
    assert [rows["document"].nunique() for rows in seen.values()] == [10, 10, 10, 20]
    for number, record in enumerate(races(lab), 2):
        rows = seen[f"search-{number}"]
        assert sorted(rows["plan"].unique()) == sorted(record["kept"])
        assert (rows.groupby("plan")["document"].nunique() == rows["document"].nunique()).all()
    assert set(lab.scored().values()) == {1}


def test_grown_plans_are_counted_and_not_tested_by_the_documents_that_chose_them(
    lab: Laboratory,
) -> None:
    table = compared(lab)
    grown = table[table["group"] == "beam"]
    named = {item["plan"] for item in races(lab)[-1]["grown"]}
    assert set(grown["plan"]) == named
    assert grown[["p", "q"]].isna().all(axis=None) and not grown["significant"].any()
    assert table.loc[table["group"].isin(["layer", "block"]), "p"].notna().any()
    search = pd.read_csv(lab.results / "tables" / "search.csv").iloc[0]
    assert (search["plans"], search["grown"]) == (GRID - 1 + len(named), len(named))
    assert search["best_plan"] not in set(grown["plan"])


def test_the_shortlist_takes_grown_plans_too(lab: Laboratory) -> None:
    shortlist = json.loads((lab.results / "shortlist" / "tiny.json").read_text())["plans"]
    table = compared(lab)
    whole = table[table["dropped"].isna() & (table["plan"] != "base")]
    best = whole.groupby("plan")["effect"].mean().nlargest(len(shortlist))
    assert [item["mean_effect"] for item in shortlist] == pytest.approx(best.tolist())
    select = pd.read_parquet(lab.results / "comparisons" / "select" / "tiny" / "none.parquet")
    # Fresh documents test them as they test all others.
    assert set(select["plan"]) == {"base", *(item["plan"] for item in shortlist)}
    assert select["q"].notna().all()


def test_the_page_tells_what_was_grown(lab: Laboratory) -> None:
    table = pd.read_csv(lab.results / "tables" / "beam.csv")
    assert table["plan"].tolist() == [item["plan"] for item in races(lab)[-1]["grown"]]
    first, second = table["round"].value_counts().loc[[1, 2]]
    means = compared(lab).groupby("plan")["effect"].mean()
    whole = table[table["n"] == 40]
    assert whole["effect"].tolist() == pytest.approx(means[whole["plan"]].tolist(), abs=1e-4)
    race = pd.read_csv(lab.results / "tables" / "race.csv")
    assert race["grown"].tolist() == [first, second, 0, 0] and race["plans"].iloc[0] == GRID
    page = (lab.results / "report" / "index.html").read_text()
    assert "Plans that were grown" in page and "10 plans of the grid" in page
    assert f"corrected for all {GRID - 1 + len(table)} that were looked at" in page


def test_what_the_grid_shows_is_not_of_what_was_grown(lab: Laboratory) -> None:
    grown = set(pd.read_csv(lab.results / "tables" / "beam.csv")["plan"])
    profile = pd.read_csv(lab.results / "tables" / "profile.csv")
    assert set(profile["part"]) == {"block"}
    assert any(parse(plan, 4).change for plan in grown)


def test_nothing_is_stale_after_it(lab: Laboratory) -> None:
    assert lab.jobs() == Counter()


def test_a_dry_run_counts_what_may_be_grown(lab: Laboratory) -> None:
    text = lab.snakemake("--dry-run", "--forceall").stdout
    assert f"grows at most {MOST} more, 3 in each of 2 steps from the best 2" in text
    (line,) = (line for line in text.splitlines() if line.startswith("  search at "))
    assert f"{GRID + MOST} plans x 40 documents" in line and "at most" in line


def test_another_number_of_shards_changes_nothing(lab: Laboratory) -> None:
    before, table, judged = lab.scored(), compared(lab), races(lab)
    lab.config["stages"]["search"]["shards"] = 5
    lab.snakemake(SEARCH_TABLE)
    assert lab.scored() == before and races(lab) == judged
    order = ["task", "plan"]
    found = compared(lab).sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(found, table.sort_values(order, ignore_index=True))


def test_without_a_race_every_grown_plan_sees_every_document(lab: Laboratory) -> None:
    del lab.config["stages"]["search"]["racing"]
    lab.snakemake(SEARCH_TABLE)
    table = compared(lab)
    assert set(table["n"]) == {20} and table["dropped"].isna().all()
    assert table["plan"].nunique() == GRID + MOST
    assert [len(record["grown"]) for record in races(lab, 3)] == [3, 6]
    assert set(lab.scored().values()) == {1}


def test_a_beam_without_room_is_refused(lab: Laboratory) -> None:
    lab.config["stages"]["search"]["beam"]["most"] = 0
    done = lab.snakemake("--dry-run", check=False)
    lab.config["stages"]["search"]["beam"]["most"] = BEAM["most"]
    assert "stages.search.beam.most" in done.stderr
