"""Jobs use what is on this machine, and downloads have what the user's environment says."""

import os

import pytest

from frankenlab.runtime import network


@pytest.mark.parametrize("own", [{}, {"HF_HUB_OFFLINE": "1"}, {"HF_DATASETS_OFFLINE": "0"}])
def test_a_download_has_the_users_own_setting(own: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(own))
    # Once in the workflow, and again in the process of its job.
    network.forbid()
    network.forbid()
    assert {os.environ[name] for name in network.OFFLINE} == {"1"}
    network.allow()
    assert {k: v for k, v in os.environ.items() if k in network.OFFLINE} == own
