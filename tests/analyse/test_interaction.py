"""Bits x duplication on invented scores whose truth is known."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from frankenlab.analyse.interaction import bitrates, corrected, task_bitrates
from frankenlab.analyse.settings import Statistics
from frankenlab.models.footprint import Footprint
from frankenlab.models.shape import ModelShape
from frankenlab.plans.plan import parse

pytestmark = pytest.mark.slow

RULES = Statistics(fdr=0.05, alpha=0.05, margin=3.0, resamples=400, seed=1)
FRANKEN, CONTROL = "0:3,1:4", "0:2,0:4"
NONE, SIX, FOUR = "none", "exl2-6.0", "exl2-4.0"


def footprint(bits_per_weight: float) -> Footprint:
    """Four layers of 7,200 weights, a head and embeddings of 14,400, all at one bitrate but the
    embeddings, which stay at 16 bits."""
    size = round(3600 * bits_per_weight / 8)
    return Footprint(
        shape=ModelShape("llama", 4, 30, 40, 1, 1, 30, 480, 512, tied_embeddings=False),
        bits_per_weight=bits_per_weight,
        head_bits=bits_per_weight,
        parts={"attn": (size,) * 4, "mlp": (size,) * 4},
        head=4 * size,
        embeddings=28_800,
    )


FOOTPRINTS = {NONE: footprint(16), SIX: footprint(6), FOUR: footprint(4)}


def scores(cells: dict[tuple[str, str], list[float]], metric="acc", weights=None) -> pd.DataFrame:
    """(plan, quantization) -> right answers, or with weights the log-likelihoods lost; one a
    document."""
    parts = []
    for (plan, quantization), values in cells.items():
        values = np.asarray(values, dtype=float)
        part = pd.DataFrame({"document": range(len(values)), metric: values})
        if weights is not None:
            part[metric] = np.exp(values / weights)
            part[f"{metric}_weight"] = np.asarray(weights, dtype=float)
        parts.append(part.assign(plan=plan, quantization=quantization))
    table = pd.concat(parts, ignore_index=True)
    cluster = "d" + table["document"].astype(str)
    return table.assign(cluster=cluster, stage="confirm", model="m", task="t", hardware="a card")


def made(table: pd.DataFrame, metric="acc", reference=NONE, rules=RULES, sizes=FOOTPRINTS):
    found = task_bitrates(
        table, SimpleNamespace(metric=metric, role="search"), FRANKEN, reference, sizes, 4, rules
    )
    return corrected([found], rules).set_index(["plan", "quantization"])


def test_the_interaction_is_the_difference_of_differences():
    found = made(
        scores(
            {
                ("base", NONE): [1, 1, 1, 0, 0] * 20,
                (FRANKEN, NONE): [1, 1, 0, 1, 0] * 20,  # no net change
                ("base", FOUR): [1, 1, 1, 0, 0] * 20,
                (FRANKEN, FOUR): [1, 0, 0, 0, 0] * 20,  # loses two in five
            }
        )
    )
    row = found.loc[(FRANKEN, FOUR)]
    assert found.loc[(FRANKEN, NONE), "effect"] == pytest.approx(0)
    assert row["effect"] == row["interaction"] == pytest.approx(-40)
    assert row["interaction_low"] < -40 < row["interaction_high"] < 0
    assert row["interaction_verdict"] == "harmed"
    assert pd.isna(found.loc[(FRANKEN, NONE), "interaction"])
    assert found.loc[("base", FOUR), "shift"] == 0 and row["shift"] == pytest.approx(-40)


def test_what_quantizing_costs_the_base_is_no_interaction():
    """Base and franken lose the same documents: repeating costs the same at both."""
    found = made(
        scores(
            {
                ("base", NONE): [1, 1, 1, 0] * 100,
                (FRANKEN, NONE): [1, 1, 0, 0] * 100,
                ("base", FOUR): [1, 0, 1, 0] * 100,
                (FRANKEN, FOUR): [1, 0, 0, 0] * 100,
            }
        )
    )
    row = found.loc[(FRANKEN, FOUR)]
    assert found.loc[("base", FOUR), "shift"] == pytest.approx(-25)
    assert row["effect"] == pytest.approx(-25) and row["interaction"] == 0
    assert row["interaction_p"] == 1 and row["interaction_verdict"] == "equivalent"
    assert row["interaction_low"] < 0 < row["interaction_high"], "nothing seen is not nothing"


def test_few_documents_never_prove_that_there_is_no_interaction():
    same = {(plan, q): [1, 0] * 10 for plan in ("base", FRANKEN) for q in (NONE, FOUR)}
    assert made(scores(same)).loc[(FRANKEN, FOUR), "interaction_verdict"] == "inconclusive"


def test_documents_that_move_two_steps_count_twice():
    """Six documents up by two and eight down by one: the effect is up, most signs are down."""
    up, down, rest = 6, 8, 86
    found = made(
        scores(
            {
                ("base", NONE): [1] * up + [0] * down + [1] * rest,
                (FRANKEN, NONE): [0] * up + [0] * down + [1] * rest,
                ("base", FOUR): [0] * up + [1] * down + [1] * rest,
                (FRANKEN, FOUR): [1] * up + [0] * down + [1] * rest,
            }
        )
    )
    row = found.loc[(FRANKEN, FOUR)]
    assert row["interaction"] == pytest.approx(2 * up - down)
    # sd of the flipped sum is sqrt(6 * 4 + 8), the sum 4, in steps of 2: p is near
    # 2 * (1 - Phi(3 / 5.66)).
    assert row["interaction_p"] == pytest.approx(0.596, abs=0.01)


def test_perplexities_are_ratios_of_sums():
    words = np.array([10, 40, 25, 15, 30] * 4)
    nll = {
        ("base", NONE): 3.0 * words,
        (FRANKEN, NONE): 3.1 * words,
        ("base", FOUR): 3.2 * words,
        (FRANKEN, FOUR): 3.4 * words + np.where(words == 40, 1.0, 0),
    }
    found = made(scores(nll, "word_perplexity", words), "word_perplexity")
    row = found.loc[(FRANKEN, FOUR)]
    extra = 4 * 1.0 / words.sum()
    assert row["interaction"] == pytest.approx(-100 * (0.1 + extra))
    assert found.loc[("base", FOUR), "value"] == pytest.approx(math.exp(3.2))
    assert found.loc[("base", FOUR), "shift"] == pytest.approx(-20)
    assert row["unit"] == "log-percent" and row["interaction_p"] < 0.01


def test_only_documents_seen_at_every_quantization_are_compared():
    table = scores({(plan, q): [1, 0, 1] * 10 for plan in ("base", FRANKEN) for q in (NONE, FOUR)})
    fewer = table[(table["quantization"] == NONE) | (table["document"] % 3 > 0)]
    found = made(fewer)
    assert (found["n"] == 20).all()
    assert found.loc[("base", NONE), "value"] == 0.5


def accurate(shares: dict[tuple[str, str], int], n: int = 300) -> pd.DataFrame:
    """(plan, quantization) -> how many of the first documents are right."""
    return scores({key: [1] * right + [0] * (n - right) for key, right in shares.items()})


def test_the_rival_is_the_cheapest_base_that_costs_at_least_as_much():
    """At 4 bits the franken reads 8/6 of its base's: more than 5.3 bits, less than 6."""
    found = made(
        accurate(
            {
                **{("base", q): n for q, n in ((NONE, 200), (SIX, 190), (FOUR, 150))},
                **{(FRANKEN, q): n for q, n in ((NONE, 205), (SIX, 200), (FOUR, 180))},
            }
        )
    )
    row = found.loc[(FRANKEN, FOUR)]
    assert row["read_bytes"] == 8 / 6 * FOOTPRINTS[FOUR].read_bytes(parse("base", 4))
    assert (row["read_rival"], row["read_effect"]) == (SIX, pytest.approx(-10 / 3))
    assert row["read_rival_bytes"] == FOOTPRINTS[SIX].read_bytes(parse("base", 4))
    assert found.loc[(FRANKEN, SIX), "read_rival"] == NONE
    assert found.loc[(FRANKEN, SIX), "read_effect"] == 0
    highest = found.loc[(FRANKEN, NONE)]
    assert pd.isna(highest["read_rival"]) and pd.isna(highest["read_effect"])
    assert pd.isna(highest["read_verdict"]) and pd.isna(found.loc[("base", FOUR), "read_rival"])


def test_memory_counts_every_occurrence_and_the_embeddings():
    plan, base, size = parse(FRANKEN, 4), parse("base", 4), FOOTPRINTS[FOUR]
    assert size.weight_bytes == size.materialized_bytes(base) == 21_600 + 28_800
    assert size.materialized_bytes(plan) == 28_800 + 28_800
    assert size.read_bytes(plan) == 28_800
    assert size.read_bytes(parse("0:4,1@attn", 4)) == 21_600 + 1800
    assert size.relative_compute(plan) == pytest.approx(8 / 6)
    assert FOOTPRINTS[NONE].relative_compute(plan) == pytest.approx(8 / 6)


def test_a_gain_at_equal_bytes_is_significant():
    found = made(
        accurate(
            {
                **{("base", q): n for q, n in ((NONE, 200), (SIX, 150), (FOUR, 150))},
                **{(FRANKEN, q): n for q, n in ((NONE, 200), (SIX, 150), (FOUR, 190))},
                **{(CONTROL, q): n for q, n in ((NONE, 200), (SIX, 150), (FOUR, 100))},
            }
        )
    )
    row, control = found.loc[(FRANKEN, FOUR)], found.loc[(CONTROL, FOUR)]
    assert (row["read_verdict"], control["read_verdict"]) == ("improved", "harmed")
    assert (row["group"], control["group"]) == ("frozen", "control")
    assert row["read_low"] > 0


def test_a_rival_by_both_costs_is_one_test():
    table = accurate(
        {
            **{("base", q): n for q, n in ((NONE, 200), (SIX, 150), (FOUR, 150))},
            **{(FRANKEN, q): n for q, n in ((NONE, 200), (SIX, 157), (FOUR, 157))},
        }
    )
    row = made(table).loc[(FRANKEN, FOUR)]
    assert row["read_rival"] == row["memory_rival"] == SIX
    # Four tests in all: at 4 bits against 6, at 6 against none, and two interactions.
    assert row["level"] == pytest.approx(0.05 * 0.04 / 4)
    assert row["read_p"] == pytest.approx(2 / 2**7)
    assert row["read_p_corrected"] == row["memory_p_corrected"] == min(1, row["read_p"] * 100)
    assert row["read_verdict"] == "inconclusive" and row["read_low"] > 0 >= row["read_verdict_low"]


def test_an_interaction_can_reach_the_level_of_its_small_budget():
    """With 400 random flips the smallest p were 0.0025, and nothing could be significant."""
    half = {
        **{("base", q): [0] * 40 for q in (NONE, SIX, FOUR)},
        **{(FRANKEN, q): [0] * 40 for q in (NONE, SIX)},
        (FRANKEN, FOUR): list(np.linspace(0.31, 0.77, 40)),
    }
    frozen = {"m": {"frozen": FRANKEN, "reference_quantization": NONE}}
    tasks = {"t": SimpleNamespace(metric="acc", role="search")}
    found = bitrates(scores(half), tasks, frozen, {"m": FOOTPRINTS}, {"m": 4}, RULES)
    row = found.set_index(["plan", "quantization"]).loc[(FRANKEN, FOUR)]
    assert row["interaction_p"] < row["level"] and row["interaction_verdict"] == "improved"


def test_a_reference_below_the_others_turns_the_interaction_round():
    cells = {
        ("base", FOUR): [1, 1] * 50,
        (FRANKEN, FOUR): [1, 0] * 50,
        ("base", NONE): [1, 1] * 50,
        (FRANKEN, NONE): [1, 1] * 50,
    }
    found = made(scores(cells), reference=FOUR)
    assert found.loc[(FRANKEN, NONE), "interaction"] == pytest.approx(50)
    assert pd.isna(found.loc[(FRANKEN, FOUR), "interaction"])


def simulated(rng: np.random.Generator, n: int, planted: float) -> pd.DataFrame:
    """Answers whose truth depends on the document, with flips by quantizing and by repeating;
    repeating at 4 bits turns `planted` of the right answers wrong besides."""
    base = rng.random(n) < rng.beta(2, 2, n)

    def flipped(answers, share):
        return np.where(rng.random(n) < share, ~answers, answers)

    franken, quantized = flipped(base, 0.06), flipped(base, 0.05)
    both = np.where(franken != base, franken, quantized)
    both = flipped(both, 0.03) & ~(rng.random(n) < planted)
    return scores(
        {
            ("base", NONE): base,
            (FRANKEN, NONE): franken,
            ("base", FOUR): quantized,
            (FRANKEN, FOUR): both,
        }
    )


def interaction_of(table: pd.DataFrame) -> float:
    """In points, without the module under test."""
    right = table.groupby(["plan", "quantization"])["acc"].mean()
    effects = {q: right[(FRANKEN, q)] - right[("base", q)] for q in (NONE, FOUR)}
    return 100 * (effects[FOUR] - effects[NONE])


@pytest.mark.parametrize("planted", [0.0, 0.25])
def test_intervals_of_interactions_cover_the_truth(planted):
    rng = np.random.default_rng(3)
    quick = Statistics(fdr=0.05, alpha=0.05, margin=3.0, resamples=200, seed=1)
    truth = interaction_of(simulated(rng, 20_000, planted))
    rows = []
    for _ in range(100):
        table = simulated(rng, 100, planted)
        found = task_bitrates(
            table, SimpleNamespace(metric="acc", role="search"), FRANKEN, NONE, FOOTPRINTS, 4, quick
        )
        rows.append(found.table.set_index(["plan", "quantization"]).loc[(FRANKEN, FOUR)])
        assert rows[-1]["interaction"] == pytest.approx(interaction_of(table))
    covered = np.mean([r["interaction_low"] <= truth <= r["interaction_high"] for r in rows])
    assert 0.88 <= covered <= 0.99
    rejected = np.mean([r["interaction_p"] < 0.05 for r in rows])
    assert rejected > 0.5 if planted else rejected < 0.12
