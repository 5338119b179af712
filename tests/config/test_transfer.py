"""Frozen plans of other models, as a config asks for them."""

import pytest

from frankenlab.config import experiment as config
from frankenlab.config.stages import Stage
from frankenlab.estimate.work import Workload
from frankenlab.io.errors import UserError
from tests.support.two_models import settings

CONFIRM = Stage("confirm")


def asked(transfer: bool) -> dict:
    raw = settings()
    raw["stages"]["confirm"] |= {"transfer": transfer, "controls": 2}
    return raw


def test_plans_are_transferred_between_two_models_or_more():
    assert not config.check(settings()).settings.stages.confirm.transfer
    raw = asked(True)
    del raw["models"]["large"]
    with pytest.raises(UserError, match="stages.confirm.transfer: there is one model only"):
        config.check(raw)


def test_a_model_confirms_one_more_plan_for_each_other_model():
    counts = [
        Workload(config.check(asked(transfer))).plans("small", CONFIRM).count
        for transfer in (False, True)
    ]
    assert counts == [4, 5]
    without = Workload(config.check(asked(True)))
    assert without.plans("small", CONFIRM, with_finalists=False).count == 4
