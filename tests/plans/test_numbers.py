"""Numbers of a config's plans: counted layers and shares of the depth."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from frankenlab.plans.numbers import (
    LayerNumbers,
    Length,
    Parts,
    Scales,
    lengths,
    numbers,
    positions,
)

shares = st.floats(0, 1)
depths = st.integers(1, 200)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, [3]), ((4, 1), [4, 1]), ("2:5", [2, 3, 4]), ("0:10:4", [0, 4, 8]), ("3:3", [])],
)
def test_numbers_are_written_as_in_python(value, expected):
    assert list(numbers(value)) == expected


@pytest.mark.parametrize(
    ("share", "n_layers", "position", "length"),
    [
        (0.0, 30, 0, 1),
        (0.25, 16, 4, 4),
        (0.25, 30, 7, 8),
        (0.1, 16, 1, 2),
        (0.1, 80, 8, 8),
        (0.29, 100, 29, 29),
        (0.03, 16, 0, 1),
        (1.0, 16, 15, 16),
    ],
)
def test_a_share_of_the_depth_is_rounded_as_documented(share, n_layers, position, length):
    assert positions(share, n_layers) == [position]
    assert lengths(share, n_layers) == [length]


@given(shares, shares, depths)
def test_a_block_whose_shares_fit_the_depth_fits_every_model(start, length, n_layers):
    length *= 1 - start
    (first,), (count,) = positions(start, n_layers), lengths(length, n_layers)
    assert 0 <= first < n_layers and count >= 1
    assert first + count <= n_layers or start + length > 1 - 1e-9


@given(st.lists(shares, min_size=2, max_size=2), depths)
def test_a_larger_share_is_no_earlier_and_no_shorter(pair, n_layers):
    low, high = sorted(pair)
    for found in (positions, lengths):
        assert found(low, n_layers)[0] <= found(high, n_layers)[0]


@given(st.integers(0, 99))
def test_a_whole_number_is_layers_whatever_the_depth(value):
    assert positions(value, 100) == [value]
    assert lengths(value + 1, 100) == [value + 1]


def test_a_list_may_mix_shares_and_layers_and_1_is_a_layer_where_1_0_is_the_whole_depth():
    assert positions((0.5, 3, 1, 1.0), 8) == [4, 3, 1, 7]
    assert lengths((0.5, 3, 1, 1.0), 8) == [4, 3, 1, 8]
    read = TypeAdapter(LayerNumbers).validate_python
    assert [type(item) for item in read([0.5, 3, 1, 1.0])] == [float, int, int, float]
    assert (type(read(1)), type(read(1.0))) == (int, float)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (LayerNumbers, [1.5, -0.1, -1, True, "0.1:0.5", [], ["a"], {}]),
        (Length, [0, 0.0, 1.1, "3"]),
        (Parts, ["attention", [], ["attn", "all"], 1]),
        (Scales, [0, 0.0, 1e7, "1", [], [0.5, 0]]),
    ],
)
def test_what_is_no_such_number_has_one_error(kind, wrong):
    for value in wrong:
        with pytest.raises(ValidationError) as failure:
            TypeAdapter(kind, config={"strict": True}).validate_python(value)
        assert failure.value.error_count() == 1, value
