import pandas as pd
import pytest

from frankenlab.report.bitrates import bits_answer, bits_html
from tests.support import synthetic_bits
from tests.support import synthetic_tables as synthetic


def bits_rows(*rows: tuple, reference: str = "none") -> pd.DataFrame:
    """Frozen rows of one model: (task, quantization, bits, interaction verdict, read verdict)."""
    columns = ["task", "quantization", "bits_per_weight", "interaction_verdict", "read_verdict"]
    table = pd.DataFrame(rows, columns=columns)
    sign = {"improved": 1.0, "harmed": -1.0}
    difference = table["interaction_verdict"].map(sign).fillna(-0.2)
    own = table["quantization"] == reference
    lower = table["read_verdict"].notna()
    return table.assign(
        model="m",
        reference=reference,
        plan="0:3,1:4",
        group="frozen",
        unit="points",
        n=200,
        relative_compute=1.5,
        effect=difference.where(~own, 0.0) - 2,
        interaction=difference.where(~own),
        interaction_low=difference.where(~own) - 0.5,
        interaction_high=difference.where(~own) + 0.5,
        interaction_p=pd.Series(0.01 * (table.index + 1)).where(~own),
        read_bytes=100,
        read_rival=pd.Series("exl2-6.0", index=table.index).where(lower),
        read_rival_bytes=120.0,
        read_effect=table["read_verdict"].map(sign).fillna(0.1).where(lower),
        read_low=-2.0,
        read_high=3.0,
        read_p=0.3,
        memory_rival=pd.Series("exl2-6.0", index=table.index).where(lower),
        memory_verdict=table["read_verdict"],
    )


MORE = "Repeating layers costs significantly more at fewer bits"


@pytest.mark.parametrize(
    ("verdict", "read", "first", "second"),
    [
        ("harmed", "harmed", f"{MORE}: on t", "significantly worse on t (−1.0 points)."),
        (
            "improved",
            "improved",
            "Repeating layers costs significantly less at fewer bits: on t",
            "significantly better on t (+1.0 points).",
        ),
        (
            "equivalent",
            "equivalent",
            "Repeating layers costs the same at fewer bits, within the margin.",
            "equivalent on t.",
        ),
        (
            "inconclusive",
            "inconclusive",
            "There is no evidence that repeating layers costs more or less at fewer bits. The",
            "inconclusive on t.",
        ),
    ],
)
def test_the_sentences_on_bits_open_with_their_answers(verdict, read, first, second):
    table = bits_rows(("t", "none", 16, None, None), ("t", "exl2-4.0", 4, verdict, read))
    sentences = bits_answer(table)
    assert len(sentences) == 2
    assert sentences[0].startswith(first)
    assert second in f"{sentences[1].split('. It takes')[0]}."


def test_the_sentences_on_bits_name_what_is_significant_and_count_the_rest():
    table = bits_rows(
        ("a", "none", 16, None, None),
        ("a", "exl2-4.0", 4, "harmed", "harmed"),
        ("b", "none", 16, None, None),
        ("b", "exl2-4.0", 4, "inconclusive", "improved"),
    )
    first, second = bits_answer(table)
    assert first == (
        f"{MORE} in 1 of 2 comparisons: on a the change is −2.0 points unquantized and −3.0 "
        "points at exl2-4.0. The other comparison is inconclusive."
    )
    assert second == (
        "Against the base at exl2-6.0, which reads 1.20 times as many bytes for a token, the "
        "frozen plan at exl2-4.0 is significantly better on b (+1.0 points) and significantly "
        "worse on a (−1.0 points). It takes 50 % more arithmetic, which no bitrate of the base "
        "does."
    )


def test_perplexities_change_in_percent():
    table = bits_rows(("t", "none", 16, None, None), ("t", "exl2-4.0", 4, "harmed", "harmed"))
    first, second = bits_answer(table.assign(unit="log-percent"))
    assert "on t the change is +2.0 % in perplexity unquantized and +3.0 % in perplexity" in first
    assert "significantly worse on t (+1.0 % in perplexity)" in second


def test_a_gain_at_more_bits_than_the_reference_is_a_cost_at_fewer():
    rows = (("t", "exl2-4.0", 4, None, None), ("t", "none", 16, "improved", None))
    first, second = bits_answer(bits_rows(*rows, reference="exl2-4.0"))
    assert first.startswith(MORE)
    assert second.startswith("No bitrate of the base costs as much")


def test_nothing_uncorrected_is_said_of_bits():
    table = bits_rows(("t", "none", 16, None, None), ("t", "exl2-4.0", 4, *["inconclusive"] * 2))
    sure = table.assign(interaction_p=1e-9, read_p=1e-9, read_low=1.0, interaction_low=1.0)
    assert bits_answer(table) == bits_answer(sure)


@pytest.mark.slow
def test_one_half_stands_where_both_costs_have_the_same_base():
    tables = synthetic_bits.make_bits(quantizations=("none", "exl2-4.0"), tasks=synthetic.TASKS[:1])
    html = bits_html(synthetic.results(tables))
    assert "and held in memory" in html and "base, by read" not in html
    rivals = tables["bits"]["memory_rival"].notna()
    tables["bits"].loc[rivals, "memory_rival"] = "exl2-6.0"
    assert "base, by memory" in bits_html(synthetic.results(tables))


def test_one_quantization_says_nothing_of_bits():
    assert bits_answer(pd.DataFrame()) == []
    assert bits_html(synthetic.results({})) == ""
