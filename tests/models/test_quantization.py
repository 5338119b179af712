"""Names of quantizations: one spelling each, and every other text refused."""

import pytest

from frankenlab.io.errors import UserError
from frankenlab.models.quantization import NONE, Quantization
from tests.support.processes import one_line


@pytest.mark.parametrize(
    ("text", "parts", "spelling"),
    [
        ("none", ("none", None), "none"),
        ("exl2-4.0", ("exl2", 4.0), "exl2-4.0"),
        ("exl2-4", ("exl2", 4.0), "exl2-4.0"),
        ("exl2-4.25", ("exl2", 4.25), "exl2-4.25"),
        ("exl2-2.0", ("exl2", 2.0), "exl2-2.0"),
        ("exl2-8.08", ("exl2", 8.08), "exl2-8.08"),
    ],
)
def test_a_name_is_a_format_and_its_bits(text, parts, spelling):
    parsed = Quantization.parse(text)
    assert parsed == parts and parsed.text == spelling
    assert Quantization.parse(parsed.text) == parsed
    assert (parsed == NONE) == (text == "none")


@pytest.mark.parametrize(
    "text", ["", "exl2", "exl2-", "exl2-1.9", "exl2-9", "exl2-16.0", "exl2--4", "gptq-4.0", "4.0",
             "EXL2-4.0", "exl2-4.0 ", "exl2-4.00001", "None", "exl2-nan"],
)  # fmt: skip
def test_anything_else_is_refused_with_what_is_allowed(text):
    with pytest.raises(UserError) as error:
        Quantization.parse(text, "config: quantizations")
    line = one_line(error)
    assert line.startswith(f'config: quantizations: "{text}"')
    assert "2.0 to 8.5" in line and "exl2-4.0" in line
