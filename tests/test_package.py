"""The package as it is installed, where there is no checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
SOURCES += ("config", "notebooks", "src", "workflow")


def test_the_command_line_works_without_a_checkout(tmp_path):
    checkout, empty = tmp_path / "checkout", tmp_path / "empty"
    for folder in (checkout, empty):
        folder.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, checkout / name)
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('..'))"
    printed = subprocess.run(
        [sys.executable, "-c", build], cwd=checkout, capture_output=True, text=True, check=True
    ).stdout
    with zipfile.ZipFile(tmp_path / printed.splitlines()[-1]) as wheel:
        wheel.extractall(tmp_path / "installed")
    assets = {path.name for path in tmp_path.glob("installed/frankenlab/report/assets/*")}
    assert {"page.html", "page.css", "page.js"} <= assets
    report = tmp_path / "installed" / "frankenlab" / "report" / "shipped"
    for part, place in (("captions", "workflow/report"), ("notebooks", "notebooks")):
        shipped, sources = (
            {str(path.relative_to(folder)) for path in folder.rglob("*.*")}
            for folder in (report / part, checkout / place)
        )
        assert shipped == sources and shipped
    shutil.rmtree(checkout)
    planned = subprocess.run(
        [sys.executable, "-m", "frankenlab", "plans", "--summary"],
        cwd=empty,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert planned.startswith("experiment default\n")
    assert list(Path(empty).iterdir()) == []
