from types import MappingProxyType

import numpy as np
import pandas as pd
import pytest

from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.bitrates import bits, bits_finding, compared_costs, round_ticks
from frankenlab.report.figures.style import plan_looks, spec_of, svg_of
from tests.support import synthetic_bits
from tests.support import synthetic_tables as synthetic
from tests.support.charts import faults, rows_of_spec, words_of

WHERE = MappingProxyType({"model": synthetic.MODEL})
LEVELS = Statistics()


@pytest.fixture(scope="module")
def tables():
    return synthetic_bits.make_bits(tasks=synthetic.TASKS[:1])


def other_rivals(tables) -> dict[str, pd.DataFrame]:
    """The tables, with another base that takes as much memory than the one that reads as much."""
    table = tables["bits"].copy()
    table["memory_rival"] = table["memory_rival"].where(table["memory_rival"] != "exl2-4.0", "none")
    return {"bits": table}


def places(rows: list[dict], column: str) -> set[tuple]:
    return {(r["quantization"], r[column], round(r["at_effect"], 3)) for r in rows}


@pytest.mark.slow
def test_a_plan_stands_at_its_bytes_and_at_its_own_change_beyond_its_bases(tables):
    rows = [r for r in rows_of_spec(spec_of(bits(tables, LEVELS, **WHERE))) if "at_effect" in r]
    table = tables["bits"]
    base = table[table["plan"] == "base"].set_index("quantization")
    level = base["shift"].fillna(0)
    stars = places([row for row in rows if row["plan"] == "base"], "read_bytes")
    assert stars == {
        (name, round(row["read_bytes"] / 1e6, 4), round(level[name], 3))
        for name, row in base.iterrows()
    }
    frozen = table[table["group"] == "frozen"].set_index("quantization")
    drawn = places([r for r in rows if r["plan"] == frozen["plan"].iloc[0]], "read_bytes")
    assert len(drawn) == len(synthetic_bits.QUANTIZATIONS)
    for name, cost, at in drawn:
        assert cost == pytest.approx(frozen.loc[name, "read_bytes"] / 1e6)
        assert at == pytest.approx(level[name] + frozen.loc[name, "effect"], abs=0.002)


def test_reading_and_memory_are_one_comparison_where_their_rivals_are_the_same(tables):
    assert compared_costs(tables["bits"]) == ["read_bytes"]
    both = ["read_bytes", "materialized_bytes"]
    assert compared_costs(other_rivals(tables)["bits"]) == both


@pytest.mark.slow
def test_no_panel_is_drawn_twice(tables):
    once = words_of(svg_of(spec_of(bits(tables, LEVELS, **WHERE))))
    assert "weights read for each token" in once and "in memory" not in once
    svg = svg_of(spec_of(bits(other_rivals(tables), LEVELS, **WHERE)))
    assert "weights read for each token" in words_of(svg)
    assert "weights in memory, standalone" in words_of(svg) and faults(svg) == []
    assert words_of(svg).count("exl2-6.0") == 2, "over each of the two panels"


@pytest.mark.slow
def test_controls_keep_the_colours_of_the_other_figures(tables):
    others = synthetic.make_tables(step=15, tasks=synthetic.TASKS[:2])[0]
    named = others["verdicts"].iloc[::-1].reset_index(drop=True)
    together = tables | {"verdicts": named}
    spec = str(spec_of(bits(together, LEVELS, **WHERE)))
    for plan, look in plan_looks(together, synthetic.MODEL).items():
        if plan in set(tables["bits"]["plan"]):
            assert look.color in spec and look.shape in spec


def verdicts(*rows: tuple) -> dict[str, pd.DataFrame]:
    """Frozen rows of one model: (quantization, verdict against equal bytes, of the interaction)."""
    table = pd.DataFrame(rows, columns=["quantization", "read_verdict", "interaction_verdict"])
    table = table.assign(**WHERE, plan="0:23,22:30", group="frozen", reference="none")
    return {"bits": table.assign(depth=31, relative_depth=31 / 30)}


@pytest.mark.parametrize(
    ("read", "interaction", "first", "second"),
    [
        ("improved", "improved", "is better in 1 of", "is smaller in 1 of"),
        ("harmed", "harmed", "is worse in 1 of", "is larger in 1 of"),
        ("equivalent", "inconclusive", "is equivalent in 1 of", "is inconclusive in 1 of"),
    ],
)
def test_the_finding_on_bits_says_both_comparisons(read, interaction, first, second):
    finding = bits_finding(
        verdicts(("none", None, None), ("exl2-4.0", read, interaction)), LEVELS, **WHERE
    )
    assert finding == (
        f"Against the base that reads as many bytes, running layer 22 twice {first} 1 comparison. "
        f"Compared with unquantized, its cost at other bits {second} 1 comparison."
    )


def test_several_verdicts_are_counted_in_a_fixed_order():
    rows = [(f"exl2-{n}", verdict, None) for n, verdict in enumerate(("inconclusive", "harmed"))]
    finding = bits_finding(verdicts(("none", None, None), *rows), LEVELS, **WHERE)
    assert finding.endswith("is worse in 1 and inconclusive in 1 of 2 comparisons.")


def test_one_quantization_has_no_finding_and_no_picture(tables):
    table = tables["bits"]
    for nothing in ({}, {"bits": table[table["quantization"] == "none"]}):
        assert bits_finding(nothing, LEVELS, **WHERE) == ""
        assert "title" not in spec_of(bits(nothing, LEVELS, **WHERE))


@pytest.mark.parametrize(("low", "high"), [(58.0, 310.0), (74.0, 110.0), (3.1, 4.4)])
def test_ticks_of_bytes_are_round_and_apart(low, high):
    ticks = np.array(round_ticks(low, high, 0.07))
    assert low <= ticks.min() and ticks.max() <= high and 3 <= len(ticks) <= 12
    assert (np.diff(np.log(ticks)) > 0.07 * np.log(high / low)).all()
    assert all(len(f"{tick:g}") <= 4 for tick in ticks)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1.0, 40.0])
def test_labels_of_bytes_have_one_unit(tables, size):
    table = tables["bits"].copy()
    for column in ("read_bytes", "materialized_bytes"):
        table[column] = (table[column] * size).astype(np.int64)
    svg = svg_of(spec_of(bits({"bits": table}, LEVELS, **WHERE)))
    assert faults(svg) == []
    assert ("GB (logarithmic)" in words_of(svg)) == (size > 1)
