import pandas as pd
import pytest

from frankenlab.report.bitrates import bits_answer, bits_html
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


@pytest.mark.parametrize(
    ("verdict", "read", "first", "second"),
    [
        ("harmed", "harmed", "Yes:", "No:"),
        ("improved", "improved", "No, it costs less, in 1 of 1 comparison:", "Yes:"),
        ("equivalent", "equivalent", "No, or by less than the margin:", "No:"),
        ("inconclusive", "inconclusive", "Inconclusive:", "Inconclusive on these documents:"),
    ],
)
def test_the_sentences_on_bits_open_with_their_answers(verdict, read, first, second):
    table = bits_rows(("t", "none", 16, None, None), ("t", "exl2-4.0", 4, verdict, read))
    sentences = bits_answer(table)
    assert len(sentences) == 2
    assert f"when it is quantized? {first} " in sentences[0]
    assert f"costs the same? {second} " in sentences[1]


def test_the_sentences_on_bits_count_name_and_say_what_was_compared():
    table = bits_rows(
        ("a", "none", 16, None, None),
        ("a", "exl2-4.0", 4, "harmed", "harmed"),
        ("b", "none", 16, None, None),
        ("b", "exl2-4.0", 4, "inconclusive", "improved"),
    )
    first, second = bits_answer(table)
    assert "Yes, in 1 of 2 comparisons: over 2 comparisons of the frozen franken's change" in first
    assert "it cost more at fewer bits in 1 and was inconclusive in 1 (after Holm" in first
    assert (
        "namely: a −2.0 points at none and −3.0 at exl2-4.0, a difference of −1.0 [−1.5, −0.5] "
        "(n = 200); b −2.0" in first
    )
    assert first.endswith("brackets are 95\N{NO-BREAK SPACE}% intervals.")
    assert "Yes, in 1 of 2 comparisons: against the base" in second
    assert "it was better in 1 of 2 comparisons and worse in 1; by the memory of a" in second
    assert (
        "b at exl2-4.0 against the base at exl2-6.0, which reads 1.20 times the bytes, "
        "+1.0 [−2.0, +3.0] points (n = 200)" in second
    )
    assert "up to 1.50 times the base's" in second


def test_a_gain_at_more_bits_than_the_reference_is_a_cost_at_fewer():
    rows = (("t", "exl2-4.0", 4, None, None), ("t", "none", 16, "improved", None))
    first, second = bits_answer(bits_rows(*rows, reference="exl2-4.0"))
    assert "quantized? Yes:" in first and "it cost more at fewer bits in 1" in first
    assert "This has no answer here" in second


def test_one_quantization_says_nothing_of_bits():
    assert bits_answer(pd.DataFrame()) == []
    assert bits_html(synthetic.results({})) == ""
