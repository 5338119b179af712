import pytest

from frankenlab.report import text


def test_effects_of_perplexities_are_in_percent_and_turned():
    assert text.change_text(10.0, -0.04, 19.9, "points") == "+10.0 points [0.0, +19.9]"
    assert text.change_text(-26.57, -38.2, -18.7, "log-percent") == "+30 % [+21 %, +47 %]"
    assert text.effect_words(2.0, "log-percent") == "−2.0 % in perplexity"
    assert text.effect_words(-1.0, "points") == "−1.0 points"


@pytest.mark.parametrize(
    ("size", "unit", "expected"),
    [(5.04, "points", "5 points"), (14.6, "points", "15 points"), (12, "log-percent", "13 %")],
)
def test_sizes_are_rounded_to_what_can_be_said(size, unit, expected):
    assert text.size_words(size, unit).startswith(expected)


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (0.587, "mean", "58.7 %"),
        (-0.2, "mean", "-0.20"),
        (75.6005, "perplexity", "75.6"),
        (1234.5, "perplexity", "1,234.5"),
        (0.98, "perplexity", "0.98"),
    ],
)
def test_values_are_said_with_the_digits_that_they_deserve(value, kind, expected):
    assert text.spoken_value(value, kind) == expected


def test_plans_quantizations_and_metrics_are_in_words():
    assert text.plan_words("0:24,23:30", 30) == "layer 23 twice"
    assert text.layers_of({"depth": 31.0, "relative_depth": 31 / 30}) == 30
    assert text.quantization_name("none") == "unquantized"
    assert text.quantization_words("exl2-4.0") == "at exl2-4.0"
    assert text.metric_name("acc") == "accuracy" and text.metric_name("f1") == "f1"


def test_markup_of_restructured_text_is_escaped():
    assert text.rst(r"a_ *b* `c` <d> |e| \f") == r"a\_ \*b\* \`c\` \<d\> \|e\| \\f"
