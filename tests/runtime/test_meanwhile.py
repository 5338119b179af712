"""Tests of libraries that are imported in a second thread."""

import sys
import threading

import pytest

from frankenlab.runtime.meanwhile import import_meanwhile


@pytest.fixture
def slow_library(tmp_path, monkeypatch):
    """Return the name of a library that takes a twentieth of a second and ends with `done`."""
    (tmp_path / "slow_library.py").write_text("import time\ntime.sleep(0.05)\ndone = True\n")
    (tmp_path / "broken_library.py").write_text("import time\ntime.sleep(0.05)\n1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "slow_library"
    sys.modules.pop("slow_library", None)


def test_who_imports_it_later_gets_the_whole_of_it(slow_library):
    import_meanwhile(slow_library)
    import slow_library as found

    assert found.done


def test_who_imports_it_later_gets_its_error(slow_library, monkeypatch):
    unhandled: list[object] = []
    monkeypatch.setattr(threading, "excepthook", unhandled.append)
    import_meanwhile("broken_library")
    with pytest.raises(ZeroDivisionError):
        import broken_library  # noqa: F401
    for thread in threading.enumerate():
        if thread.name == "import broken_library":
            thread.join()
    assert not unhandled
