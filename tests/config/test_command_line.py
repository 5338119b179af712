"""Values on Snakemake's command line, as Snakemake itself reads and merges them."""

from copy import deepcopy

import pytest
from snakemake.cli import parse_config
from snakemake.utils import update_config

from frankenlab.config import experiment as config
from frankenlab.config.command_line import with_types
from frankenlab.io.errors import UserError
from tests.config.test_config import MINIMAL, changed
from tests.support.processes import one_line


def merged(*arguments: str, into=MINIMAL) -> dict:
    """The config that the workflow checks."""
    raw, given = deepcopy(into), parse_config(arguments)
    update_config(raw, given)
    return with_types(raw, given)


@pytest.mark.parametrize(
    ("argument", "key", "value"),
    [
        ("stages={search: {limit: 10}}", "stages.search.limit", 10),
        ("stages={confirm: {transfer: false}}", "stages.confirm.transfer", False),
        ("statistics={alpha: 0.01}", "statistics.alpha", 0.01),
        ("gpu_memory_gb=24", "gpu_memory_gb", 24),
        ("experiment=20261127", "experiment", "20261127"),
        ("models={tiny: {description: 7}}", "models.tiny.description", "7"),
        ("plans=[{generator: layer, times: [2, 3], scale: 0.5}]", "plans",
         [{"generator": "layer", "times": [2, 3], "scale": 0.5}]),
        ("tasks={arc_easy: {num_fewshot: 5}}", "tasks.arc_easy.num_fewshot", 5),
        ("stages={search: {racing: {rounds: [20, 40]}}}", "stages.search.racing.rounds", [20, 40]),
    ],
)  # fmt: skip
def test_a_value_means_what_it_means_in_a_file(argument, key, value):
    assert config.check(merged(argument)) == config.check(changed(key, value))


def test_what_is_beside_it_in_the_file_stays():
    raw = changed("stages.search.shards", 3)
    found = config.check(merged("stages={search: {limit: 10}, seed: 4}", into=raw)).settings.stages
    assert (found.search.limit, found.search.shards, found.seed) == (10, 3, 4)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("stages={search: {limit: ten}}", "stages.search.limit: 'ten' is not a whole number"),
        ("stages={search: {limit: 1.5}}", "stages.search.limit: 1.5 is not a whole number"),
        ("stages={search: {limit: 5}}", "stages.search.limit: 5 is out of bounds"),
        ("stages={search: {limits: 10}}", 'stages.search: unknown key "limits"; did you mean'),
        ("gpu_memory_gb={a: 1}", "gpu_memory_gb: "),
        ("plans=[{generator: layer, times: null}]", "plans.0.times"),
        ("stages=", "stages"),
    ],
)
def test_a_wrong_one_is_named_as_in_a_file(argument, said):
    with pytest.raises(UserError) as error:
        config.check(merged(argument))
    assert one_line(error).startswith(f"config: {said}")


def test_types_in_a_file_stay_exact():
    with pytest.raises(UserError, match="statistics.seed: '7' is not a whole number"):
        config.check(merged("gpu_memory_gb=24", into=changed("statistics.seed", "7")))
