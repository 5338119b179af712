"""The workflow with EXL2 beside the weights as distributed, end to end on a tiny model."""

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from tests.support.laboratory import Laboratory
from tests.support.warm_python import warm_python

pytestmark = pytest.mark.slow

CALIBRATION = {"file": "calibration.jsonl", "texts": 30, "rows": 4, "length": 64}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    laboratory = Laboratory(tmp_path_factory.mktemp("laboratory"))
    laboratory.python = warm_python()
    del laboratory.config["tasks"]["liquids"]
    laboratory.config["plans"] = [{"generator": "layer", "times": 2}, {"generator": "skip"}]
    laboratory.config["quantizations"] = ["none", "exl2-4.0"]
    laboratory.config["stages"]["confirm"] |= {
        "controls": 1,
        "finalists": 2,
        "best_of": ["skipped"],
    }
    laboratory.config["exl2"] = {"calibration": CALIBRATION}
    laboratory.snakemake()
    return laboratory


def quantized(lab: Laboratory) -> Path:
    """The EXL2 directory of the first run."""
    found = (lab.folder / "resources" / "exl2").glob("*/*/exl2-*/manifest.json")
    return min(found, key=lambda path: path.stat().st_mtime).parent


def test_a_run_quantizes_once_and_searches_the_reference_only(lab: Laboratory) -> None:
    manifest = json.loads((quantized(lab) / "manifest.json").read_text())
    assert manifest["quantizer"] == "frankenlab-gptq"
    assert 0.99 * 4 <= manifest["bits_per_weight"] <= 4
    found = {str(p.parent.relative_to(lab.results)) for p in lab.results.glob("scores/*/*/*/*")}
    stages = {(path.split("/")[1], path.split("/")[3]) for path in found}
    assert stages == {
        *((stage, "none") for stage in ("search", "select", "confirm")),
        ("confirm", "exl2-4.0"),
    }


def test_controls_run_on_search_tasks_and_both_they_and_finalists_at_the_reference(
    lab: Laboratory,
) -> None:
    frozen = json.loads((lab.results / "frozen" / "tiny.json").read_text())
    assert frozen["controls"] and frozen["finalists"]
    plans = {
        (q, task): set(
            pd.read_parquet(lab.results / f"scores/confirm/tiny/{q}/{task}.0.parquet")["plan"]
        )
        for q in ("none", "exl2-4.0")
        for task in ("animals", "passages")
    }
    few = {"base", frozen["frozen"]}
    more = few | set(frozen["finalists"])
    assert plans.pop(("none", "animals")) == more | set(frozen["controls"])
    assert plans.pop(("none", "passages")) == more
    assert all(found == few for found in plans.values())
    costs = pd.read_csv(lab.results / "tables" / "costs.csv")
    timed = costs.groupby("quantization")["plan"].agg(set)
    assert timed["exl2-4.0"] == timed["none"] == few
    verdicts = pd.read_csv(lab.results / "tables" / "verdicts.csv")
    assert set(verdicts["plan"]) == {frozen["frozen"], *frozen["controls"]}
    tradeoff = pd.read_csv(lab.results / "tables" / "tradeoff.csv")
    assert set(tradeoff["plan"]) == more - {"base"} and set(tradeoff["guard"]) == {"passages"}
    assert (lab.results / "figures" / "tiny" / "none" / "tradeoff.svg").is_file()


def test_all_that_was_confirmed_is_set_against_its_cost(lab: Laboratory) -> None:
    frozen = json.loads((lab.results / "frozen" / "tiny.json").read_text())
    plane = pd.read_csv(lab.results / "tables" / "plane.csv")
    few = {"base", frozen["frozen"]}
    assert plane.groupby("point_quantization")["plan"].agg(set).to_dict() == {
        "exl2-4.0": few,
        "none": few | {*frozen["controls"], *frozen["finalists"]},
    }
    best = json.loads((lab.results / "shortlist" / "tiny.json").read_text())["best_of"]
    assert len(best) == 1 and best[0] in few | {*frozen["controls"], *frozen["finalists"]}
    base = plane[plane["group"] == "base"].set_index("point_quantization")
    assert base["read_bytes"]["exl2-4.0"] < base["read_bytes"]["none"]
    assert (lab.results / "figures" / "tiny" / "none" / "plane.svg").is_file()
    assert "What the same cost buys" in (lab.results / "report" / "index.html").read_text()


def test_scores_differ_by_quantization_and_by_plan(lab: Laboratory) -> None:
    tables = [
        pd.read_parquet(lab.results / f"scores/confirm/tiny/{q}/animals.0.parquet")
        for q in ("none", "exl2-4.0")
    ]
    # Controls run at the reference only.
    tables[0] = tables[0][tables[0]["plan"].isin(tables[1]["plan"].unique())]
    assert tables[0]["key"].tolist() == tables[1]["key"].tolist()
    first = [table["loglikelihoods"].explode().astype(float) for table in tables]
    assert 1e-3 < (first[0] - first[1]).abs().mean() < 10
    assert tables[1].groupby("plan", observed=True)["loglikelihoods"].first().map(tuple).is_unique


def test_the_page_tells_the_quantizer_and_what_bits_do_to_duplication(lab: Laboratory) -> None:
    page = (lab.results / "report" / "index.html").read_text()
    assert "frankenlab-gptq" in page and "exl2-4.0" in page
    bits = pd.read_csv(lab.results / "tables" / "bits.csv")
    assert set(bits["quantization"]) == {"none", "exl2-4.0"}


def test_nothing_is_stale_after_a_run(lab: Laboratory) -> None:
    assert lab.jobs() == Counter()


def test_another_bitrate_measures_nothing_again(lab: Laboratory) -> None:
    lab.config["quantizations"].append("exl2-5.0")
    jobs = lab.jobs()
    lab.config["quantizations"].pop()
    assert jobs["quantize_exl2"] == 1 and jobs["confirm"] == 1
    assert "measure_exl2" not in jobs


def test_other_calibration_text_makes_other_weights(lab: Laboratory) -> None:
    lab.config["exl2"]["calibration"] = CALIBRATION | {"texts": 31}
    jobs = lab.jobs()
    lab.config["exl2"]["calibration"] = CALIBRATION
    assert jobs["measure_exl2"] == jobs["quantize_exl2"] == 1


def test_documents_that_the_weights_were_calibrated_on_are_refused(lab: Laboratory) -> None:
    lab.config["exl2"]["calibration"] = CALIBRATION | {"file": "passages.jsonl"}
    table = "results/tiny/scores/confirm/tiny/exl2-4.0/passages.0.parquet"
    done = lab.snakemake(table, check=False)
    lab.config["exl2"]["calibration"] = CALIBRATION
    assert done.returncode != 0
    assert (
        'task "passages": a document holds a text that the weights were calibrated' in done.stderr
    )
    # Both kinds of weights are there, and neither made the other stale.
    assert not {"measure_exl2", "quantize_exl2"} & lab.jobs().keys()


def test_a_directory_that_is_quantized_already_is_a_source(lab: Laboratory) -> None:
    whole = lab.config
    source = {"path": str(quantized(lab).relative_to(lab.folder))}
    model = {"source": source, "n_layers": 4, "format": "exl2", "bits": 4.0}
    lab.config = whole | {
        "experiment": "given",
        "models": {"tiny": model},
        "quantizations": ["none"],
    }
    lab.snakemake("results/given/scores/search/tiny/none/animals.0.parquet")
    lab.config = whole
    given = pd.read_parquet(lab.folder / "results/given/scores/search/tiny/none/animals.0.parquet")
    made = pd.read_parquet(lab.results / "scores/search/tiny/none/animals.0.parquet")
    assert given["key"].tolist() == made["key"].tolist()
    base = given["plan"] == "base"
    change = given[base]["loglikelihoods"].explode() - made[base]["loglikelihoods"].explode()
    assert 1e-3 < change.astype(float).abs().mean() < 10
