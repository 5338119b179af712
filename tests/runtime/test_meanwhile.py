"""Tests of torch's import in a second thread."""

import importlib
import sys
import threading

import pytest

from frankenlab.runtime.meanwhile import import_torch_meanwhile


@pytest.fixture
def other_torch(tmp_path, monkeypatch):
    """Return a function that puts a module with this text in torch's place."""
    found = {name: module for name, module in sys.modules.items() if name == "torch"}
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)

    def write(text: str) -> None:
        (tmp_path / "torch.py").write_text("import time\ntime.sleep(0.05)\n" + text)
        # The folder may have been looked at within the same tick of the clock.
        importlib.invalidate_caches()

    yield write
    sys.modules.pop("torch", None)
    sys.modules.update(found)


def test_who_imports_it_later_gets_the_whole_of_it(other_torch):
    other_torch("done = True\n")
    import_torch_meanwhile()
    import torch

    assert torch.done


def test_why_the_import_fails_is_said(other_torch, monkeypatch):
    unhandled = []
    monkeypatch.setattr(threading, "excepthook", unhandled.append)
    other_torch("1 / 0\n")
    import_torch_meanwhile()
    for thread in threading.enumerate():
        if thread.name == "import torch":
            thread.join()
    (error,) = unhandled
    assert error.exc_type is ZeroDivisionError
