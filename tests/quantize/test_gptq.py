"""GPTQ against a slow one, options against the bytes they make, choices against all choices."""

from itertools import product
from math import prod

import pytest
import torch

from frankenlab.io.errors import UserError
from frankenlab.models.exl2.format import check_linear, dequantize, group_scales, pack
from frankenlab.models.exl2.options import (
    HEAD_OPTIONS,
    OPTIONS,
    Option,
    attainable_bits,
    check_shapes,
)
from frankenlab.models.shape import HEAD, ModelShape
from frankenlab.quantize import gptq
from frankenlab.quantize.allocation import allocate
from frankenlab.quantize.gptq import (
    DAMPING,
    MEASURED_OUTPUTS,
    measure_errors,
    prepare_inputs,
    quantize_linears,
    sample_outputs,
)
from frankenlab.quantize.scales import code_range, fit_scales
from tests.support.processes import one_line

pytestmark = pytest.mark.slow

ALL_OPTIONS = (*OPTIONS, *HEAD_OPTIONS.values())


def correlated(tokens: int, inputs: int, seed: int = 0) -> torch.Tensor:
    """Inputs as a language model has them: correlated, some much larger than others."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(inputs, inputs, generator=generator, dtype=torch.float64)
    spread = torch.logspace(-1, 1, inputs, dtype=torch.float64)
    spread = spread[torch.randperm(inputs, generator=generator)]
    x = torch.randn(tokens, inputs, generator=generator, dtype=torch.float64)
    return (x @ mixing / inputs**0.5 + 0.3 * x) * spread


def hessian_of(x: torch.Tensor) -> torch.Tensor:
    return x.T @ x / len(x)


def random_weight(outputs: int, inputs: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(outputs, inputs, generator=generator, dtype=torch.float64) * 0.05


def damped(hessian: torch.Tensor) -> torch.Tensor:
    return hessian + DAMPING * hessian.diagonal().mean() * torch.eye(len(hessian))


def quantize_slowly(weight: torch.Tensor, hessian: torch.Tensor, option: Option) -> torch.Tensor:
    """Signed codes [K, N] of Wᵀ in sorted order, as the paper's second section says it: round an
    input, correct all later ones with the inverse of their own Hessian, remove it from that."""
    order = hessian.diagonal().argsort(descending=True)
    left = weight.T[order].clone()
    inverse = torch.linalg.inv(damped(hessian)[order][:, order])
    steps = []
    for i in range(len(left)):
        steps.append(inverse.clone())
        inverse -= torch.outer(inverse[:, i], inverse[i]) / inverse[i, i]
    codes = torch.zeros_like(left)
    row = 0
    for bits, rows in option.groups(len(left)):
        group = range(row, row + rows)
        importance = torch.stack([1 / steps[i][i, i] for i in group])
        scale = fit_scales(left[row : row + rows], importance, bits, [left.shape[1]]).values
        for i in group:
            codes[i] = (left[i] / scale).round().clamp(*code_range(bits))
            error = (left[i] - codes[i] * scale) / steps[i][i, i]
            left[i + 1 :] -= torch.outer(steps[i][i + 1 :, i], error)
        row += rows
    return codes


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_the_codes_are_those_of_the_slow_algorithm(option):
    # 288 inputs: more than two blocks, and a last group of other size.
    weight, hessian = random_weight(24, 288), hessian_of(correlated(600, 288))
    inputs = prepare_inputs("w", hessian)
    (codes,) = quantize_linears([weight], inputs, [option])
    zeros = torch.cat([torch.full((rows,), 1 << (bits - 1)) for bits, rows in codes.groups])
    signed = codes.values.double() - zeros.unsqueeze(-1)
    assert torch.equal(signed, quantize_slowly(weight, hessian, option))


@pytest.mark.parametrize("option", ALL_OPTIONS, ids=str)
def test_the_measured_error_is_that_of_the_stored_weights_outputs(option):
    weight, x = random_weight(40, 160), correlated(500, 160)
    hessian = hessian_of(x)
    inputs = prepare_inputs("w", hessian)
    for known in (inputs, inputs.nearest()):
        (codes,) = quantize_linears([weight], known, [option])
        linear = pack(codes)
        check_linear("w", linear, 40, 160)
        change = dequantize(linear, 40, torch.float64) - weight
        ((measured,),) = measure_errors([weight], known, [option]).tolist()
        # Rounding to nearest does not pass errors on: its squares are those of the weights.
        matrix = damped(hessian) if known is inputs else torch.eye(160)
        assert measured == pytest.approx(
            float(((change @ matrix.double()) * change).sum()), rel=0.01
        )


@pytest.mark.parametrize("seed", range(4))
def test_gptq_is_never_worse_than_rounding_to_nearest(seed):
    weights = [random_weight(32, 192, seed), random_weight(64, 192, seed + 10)]
    hessian = hessian_of(correlated(400, 192, seed))
    inputs = prepare_inputs("w", hessian)
    for option in OPTIONS:
        errors = []
        for known in (inputs, inputs.nearest()):
            both = quantize_linears(weights, known, [option, option])
            changes = [
                dequantize(pack(codes), len(weight), torch.float64) - weight
                for codes, weight in zip(both, weights, strict=True)
            ]
            errors.append([float(((d @ hessian) * d).sum()) for d in changes])
        assert all(passed < nearest for passed, nearest in zip(*errors, strict=True))


def test_a_sample_of_the_outputs_tells_the_errors_of_all():
    weight = random_weight(20 * MEASURED_OUTPUTS + 7, 160)
    inputs = prepare_inputs("w", hessian_of(correlated(300, 160)))
    sample, times = sample_outputs(weight)
    assert MEASURED_OUTPUTS // 2 < len(sample) <= MEASURED_OUTPUTS
    assert len(sample) * times == pytest.approx(len(weight))
    estimated = times * measure_errors([sample], inputs, OPTIONS)
    torch.testing.assert_close(
        estimated, measure_errors([weight], inputs, OPTIONS), rtol=0.1, atol=0
    )
    small = random_weight(MEASURED_OUTPUTS, 160)
    assert torch.equal(sample_outputs(small)[0], small)


def test_layers_and_options_side_by_side_do_not_touch_each_other(monkeypatch):
    weights = [random_weight(outputs, 160, outputs) * outputs for outputs in (32, 8, 64)]
    inputs = prepare_inputs("w", hessian_of(correlated(300, 160)))
    together = measure_errors(weights, inputs, OPTIONS)
    alone = torch.cat(
        [
            torch.cat([measure_errors([weight], inputs, [option]) for option in OPTIONS], dim=1)
            for weight in weights
        ]
    )
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=0)
    monkeypatch.setattr(gptq, "AT_ONCE", 2 * 160 * sum(map(len, weights)))
    torch.testing.assert_close(
        measure_errors(weights, inputs, OPTIONS), together, rtol=1e-9, atol=0
    )
    options = [OPTIONS[4], OPTIONS[0], OPTIONS[4]]
    both = quantize_linears(weights, inputs, options)
    for codes, weight, option in zip(both, weights, options, strict=True):
        (single,) = quantize_linears([weight], inputs, [option])
        assert torch.equal(codes.values, single.values)
        assert torch.equal(codes.scales, single.scales)
        assert torch.equal(codes.scale_max, single.scale_max)


def test_important_inputs_come_first_and_get_the_wider_codes():
    x = correlated(400, 256)
    x[:, 200] *= 50
    option = Option(64, ((8, 5), (2, 95)))
    inputs = prepare_inputs("w", hessian_of(x))
    weight = random_weight(32, 256)
    (codes,) = quantize_linears([weight], inputs, [option])
    assert codes.order[0] == 200 and codes.groups == ((8, 64), (2, 64), (2, 64), (2, 64))
    change = (dequantize(pack(codes), 32, torch.float64) - weight).square().mean(dim=0)
    assert change[codes.order[:64]].max() < change[codes.order[64:]].min() / 10


def test_inputs_that_are_few_or_never_seen_still_work():
    x = correlated(20, 96)
    x[:, 7] = 0
    inputs = prepare_inputs("w", hessian_of(x).float())
    (codes,) = quantize_linears([random_weight(32, 96).float()], inputs, [OPTIONS[4]])
    linear = pack(codes)
    check_linear("w", linear, 32, 96)
    assert torch.isfinite(dequantize(linear, 32)).all()
    silent = prepare_inputs("w", torch.zeros(96, 96))
    assert torch.isfinite(measure_errors([random_weight(32, 96)], silent, OPTIONS)).all()


def test_a_hessian_that_rounding_left_indefinite_is_damped_more():
    hessian = hessian_of(correlated(500, 64))
    below = 3 * DAMPING * hessian.diagonal().mean() * torch.eye(64)
    shifted = hessian - torch.linalg.eigvalsh(hessian)[0] * torch.eye(64) - below
    inputs = prepare_inputs("w", shifted)
    ordered = shifted[inputs.order][:, inputs.order]
    found = torch.linalg.inv(inputs.factor.T @ inputs.factor)
    more = 10 * DAMPING * shifted.diagonal().mean() * torch.eye(64)
    torch.testing.assert_close(found, ordered + more)
    with pytest.raises(UserError) as error:
        prepare_inputs("model.layers.3.mlp.up_proj", torch.diag(torch.tensor([2.0, -1.999])))
    assert "'model.layers.3.mlp.up_proj.weight'" in one_line(error)


def test_inputs_that_are_not_finite_are_refused():
    hessian = hessian_of(correlated(50, 32))
    hessian[3, 3] = float("inf")
    with pytest.raises(UserError) as error:
        prepare_inputs("model.layers.0.mlp.down_proj", hessian)
    assert "'model.layers.0.mlp.down_proj.weight'" in one_line(error)
    assert "makes its inputs infinite" in str(error.value)


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-4, 0.02, 30.0])
def test_scales_hold_for_weights_of_any_size(size):
    weight = random_weight(8, 64).T * size * 20
    scales = fit_scales(weight, torch.ones(64, dtype=torch.float64), 4, [8])
    assert (scales.values > 0).all() and torch.isfinite(scales.values).all()
    stored = group_scales(scales.nibbles.unsqueeze(0), scales.largest)[0]
    assert torch.equal(stored.double(), scales.values)
    rounded = (weight / scales.values).round().clamp(-8, 7) * scales.values
    if size >= 1e-4:
        # An error like that of uniform rounding: a step of about a seventh of the largest.
        assert (rounded - weight).square().mean() < (weight.abs().max() / 7) ** 2 / 6


@pytest.mark.parametrize("bits", HEAD_OPTIONS)
def test_scales_are_nearly_the_best_and_better_than_the_largest(bits):
    weight = random_weight(48, 64).T
    importance = torch.linspace(0.1, 3, 64, dtype=torch.float64)

    def error(scale: torch.Tensor) -> torch.Tensor:
        rounded = (weight / scale).round().clamp(*code_range(bits)) * scale
        return (importance.unsqueeze(-1) * (rounded - weight) ** 2).sum(0)

    scales = fit_scales(weight, importance, bits, [16, 32])
    found = error(scales.values)
    spread = scales.largest.repeat_interleave(torch.tensor([16, 32])).double()
    every = torch.stack([error(spread / 256 * level**2) for level in range(1, 17)])
    # The three that are tried are enough: nearly as good as the best of all sixteen.
    assert found.sum() < every.amin(0).sum() * 1.005
    largest = weight.abs().amax(0) / (2 ** (bits - 1) - 0.5)
    # Clipping gains at few bits what the coarse scales lose at many.
    assert (
        found.sum() < error(largest).sum() * {2: 0.7, 3: 0.8, 4: 0.9, 5: 1.0, 6: 1.1, 8: 1.25}[bits]
    )


def test_each_layer_has_its_own_largest_scale():
    weight = torch.cat([random_weight(16, 64).T, random_weight(16, 64, 2).T * 100], dim=1)
    ones = torch.ones(64, dtype=torch.float64)
    both = fit_scales(weight, ones, 4, [16, 16])
    small = fit_scales(weight[:, :16], ones, 4, [16])
    assert torch.equal(both.largest[:1], small.largest) and both.largest[1] > 50 * both.largest[0]
    assert torch.equal(both.nibbles[:16], small.nibbles)


@pytest.mark.parametrize("option", ALL_OPTIONS, ids=str)
@pytest.mark.parametrize("shape", [(64, 32), (40, 96), (192, 576), (64, 1536), (32, 352)])
def test_an_options_size_is_that_of_what_is_stored(option, shape):
    outputs, inputs = shape
    groups = option.groups(inputs)
    assert sum(rows for _, rows in groups) == inputs
    assert all(rows == option.group for _, rows in groups[:-1])
    weight = torch.randn(outputs, inputs)
    known = gptq.Inputs(torch.arange(inputs), torch.eye(inputs))
    linear = pack(quantize_linears([weight], known, [option])[0])
    check_linear("w", linear, outputs, inputs)
    size = sum(8 * tensor.nbytes for tensor in linear.tensors().values())
    assert option.size(outputs, inputs) == size


def shapes_of(n_layers: int, hidden: int = 64, **changed) -> ModelShape:
    config = {
        "hidden_size": hidden,
        "intermediate_size": 3 * hidden,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": n_layers,
        "vocab_size": 384,
    }
    return ModelShape.from_config({**config, **changed})


SIZES = {
    "tiny-2": shapes_of(2),
    "tiny-30": shapes_of(30),
    "smollm2": shapes_of(
        30, 576, intermediate_size=1536, num_attention_heads=9, num_key_value_heads=3
    ),
    "7b": shapes_of(32, 4096, intermediate_size=11008, num_attention_heads=32),
    "one-layer": shapes_of(1, 256),
}


def items(shapes: ModelShape, seed: int = 0) -> tuple[list, list, int]:
    """Sizes, errors that fall with the size at a layer's own pace, and the number of weights."""
    linears = [shape for name, shape in shapes.linears.items() if name != HEAD]
    generator = torch.Generator().manual_seed(seed)
    pace = torch.rand(len(linears), generator=generator).tolist()
    sizes = [[option.size(*shape) for option in OPTIONS] for shape in linears]
    errors = [
        [(1 + 9 * p) * 4 ** -(size / prod(shape)) for size in row]
        for row, shape, p in zip(sizes, linears, pace, strict=True)
    ]
    return sizes, errors, sum(map(prod, linears))


@pytest.mark.parametrize("name", SIZES)
def test_every_bitrate_between_the_ends_is_met_from_below(name):
    sizes, errors, weights = items(SIZES[name])
    low, high = attainable_bits(SIZES[name], 6)
    ladder = [low + (high - low) * share for share in (0.05, 0.3, 0.6, 0.95)]
    for bits in (*ladder, low, high):
        chosen = allocate(sizes, errors, weights, bits)
        found = sum(row[i] for row, i in zip(sizes, chosen, strict=True)) / weights
        assert 0.99 * bits <= found <= bits


def test_attainable_bits_of_known_models():
    low, high = attainable_bits(SIZES["smollm2"], 6)
    assert 2.1 < low < 2.4 and 8.0 < high < 8.2
    low, high = attainable_bits(SIZES["7b"], 6)
    assert 2.1 < low < 2.2 and 8.0 < high < 8.1


def test_the_choice_is_the_best_of_all_choices():
    generator = torch.Generator().manual_seed(5)
    sizes = torch.randint(100, 900, (6, 4), generator=generator).sort(dim=1).values.tolist()
    errors = torch.rand((6, 4), generator=generator).sort(dim=1, descending=True).values.tolist()

    def total(table: list, choice: tuple) -> float:
        return sum(row[i] for row, i in zip(table, choice, strict=True))

    for budget in (1800, 2500, 3200):
        allowed = [
            choice
            for choice in product(range(4), repeat=6)
            if 0.99 * budget <= total(sizes, choice) <= budget
        ]
        best = min(total(errors, choice) for choice in allowed)
        chosen = allocate(sizes, errors, 100, budget / 100)
        assert tuple(chosen) in allowed
        assert total(errors, chosen) == pytest.approx(best)


def test_more_bits_go_where_the_errors_are():
    sizes, errors, weights = items(SIZES["smollm2"])
    errors = [[100 * e for e in row] if i % 7 == 0 else row for i, row in enumerate(errors)]
    chosen = allocate(sizes, errors, weights, 4.0)
    costly = [option for i, option in enumerate(chosen) if i % 7 == 0]
    others = [option for i, option in enumerate(chosen) if i % 7]
    assert sum(costly) / len(costly) > sum(others) / len(others) + 1


def test_a_bitrate_that_no_choice_meets_is_refused():
    with pytest.raises(UserError) as error:
        allocate([[300, 500]], [[1.0, 0.5]], 100, 4.0)
    assert "within 1%" in one_line(error) and "nearest below is 3.000" in one_line(error)
    assert "3.000 to 5.000" in one_line(error)
    with pytest.raises(UserError, match="3.000 to 5.000"):
        allocate([[300, 500]], [[1.0, 0.5]], 100, 2.0)


@pytest.mark.parametrize(
    ("changed", "name", "reason"),
    [
        ({"hidden_size": 72}, "model.layers.0.self_attn.q_proj.weight", "72 inputs"),
        ({"intermediate_size": 200}, "model.layers.0.mlp.down_proj.weight", "200 inputs"),
        ({"num_key_value_heads": 1}, "model.layers.0.self_attn.k_proj.weight", "16 outputs"),
    ],
)
def test_shapes_that_the_format_cannot_hold_are_refused(changed, name, reason):
    with pytest.raises(UserError) as error:
        check_shapes(shapes_of(2, **changed), 6)
    assert f"'{name}'" in one_line(error) and reason in one_line(error)
    assert "32" in one_line(error)


def test_head_bits_are_those_of_the_format():
    with pytest.raises(UserError, match="head bits 7: EXL2 has 2, 3, 4, 5, 6, 8"):
        attainable_bits(shapes_of(2), 7)
