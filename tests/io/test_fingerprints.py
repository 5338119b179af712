"""Code is stale when it does something else, and only then."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from frankenlab.evaluate.model_spec import scoring_fingerprint
from frankenlab.io import code_cache, fingerprints
from frankenlab.io.files import CACHE_VARIABLE
from frankenlab.io.fingerprints import (
    ENGINE_LIBRARIES,
    SURROUNDINGS,
    code_fingerprint,
    engine_module,
    library_versions,
    other_engines,
)
from tests.support.paths import ROOT

TOP = '''"""A module."""
from frankenlab.middle import double
from frankenlab import aside

# A comment.
def work(x):
    """What it does."""
    return double(x) + 1
'''
MIDDLE = """def double(x):
    from frankenlab.bottom import two

    if x > 9:
        most = "nine"
        allowed = f"at most {most}"
        allowed += " can"
        raise UserError(f"{x} is too large: {allowed}") from None
    unit = "mm"
    seen = two()
    return two() * x, unit
"""


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """Put a small package in the place of the real one; no module imports `unused`."""
    root = tmp_path / "frankenlab"
    (root / "inner").mkdir(parents=True)
    for name, text in {
        "__init__": '__version__ = "0.1.0"\n',
        "top": TOP,
        "middle": MIDDLE,
        "bottom": "from frankenlab.inner.deep import TWO\ntwo = lambda: TWO\n",
        "inner/__init__": '"""Nothing but words."""\n',
        "inner/deep": "TWO = 2\n",
        "aside": "import frankenlab.top\n",
        "unused": "ONE = 1\n",
    }.items():
        (root / f"{name}.py").write_text(text)
    monkeypatch.setattr(fingerprints, "ROOT", root)
    return root


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("top", "# A comment.", "# Another\n\n# comment."),
        ("top", '"""A module."""', '"""Other words."""'),
        ("top", '"""What it does."""', '"""What it really does."""'),
        ("top", '    """What it does."""\n', ""),
        ("top", "double(x) + 1", "( double( x )\n        + 1 )"),
        ("middle", "    return", "    # why\n    return"),
        ("middle", "is too large", "cannot be doubled, 9 can"),
        ("middle", "nine", "ten"),
        ("middle", "at most", "up to"),
        ("middle", 'allowed += " can"', 'allowed += ", ".join("is")'),
        ("inner/__init__", "Nothing but words", "Other words"),
        ("inner/__init__", '"""Nothing but words."""', '"""Words."""\n__all__ = ["deep"]'),
        ("inner/deep", "TWO = 2", 'TWO = 2\n"""A text below an attribute."""'),
        ("unused", "1", "2"),
        ("__init__", "0.1.0", "0.2.0"),
    ],
)
def test_words_layout_and_unused_modules_change_nothing(package, file, old, new):
    before = code_fingerprint("frankenlab.top")
    edit(package / f"{file}.py", old, new)
    assert code_fingerprint("frankenlab.top") == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("top", "+ 1", "+ 2"),
        ("middle", "* x", "** x"),
        ("middle", "x > 9", "x > 8"),
        ("middle", "UserError", "ValueError"),
        ("middle", "mm", "cm"),
        ("middle", '"nine"', "two()"),
        ("middle", "seen = two()", "seen = [two()]"),
        ("bottom", "lambda: TWO", "lambda: TWO + 0"),
        ("inner/deep", "TWO = 2", "TWO = 3"),
        ("inner/__init__", '"""Nothing but words."""', "import os"),
        ("aside", "import frankenlab.top", "import frankenlab.top, os"),
    ],
)
def test_an_edit_of_anything_that_is_reached_changes_it(package, file, old, new):
    before = code_fingerprint("frankenlab.top")
    edit(package / f"{file}.py", old, new)
    assert code_fingerprint("frankenlab.top") != before


def test_it_is_the_same_wherever_the_checkout_is(package, tmp_path, monkeypatch):
    before = code_fingerprint("frankenlab.top")
    moved = shutil.copytree(package, tmp_path / "other" / "place")
    monkeypatch.setattr(fingerprints, "ROOT", moved)
    assert code_fingerprint("frankenlab.top") == before


def test_a_file_outside_the_package_counts_with_what_it_imports(package, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from frankenlab.inner import deep\nprint(deep.TWO)\n")
    before = code_fingerprint(script)
    edit(package / "inner/deep.py", "2", "3")
    after = code_fingerprint(script)
    edit(script, "print", "repr")
    assert len({before, after, code_fingerprint(script)}) == 3


def test_a_module_that_is_left_out_does_not_count_nor_what_only_it_imports(package):
    def found():
        without = (["frankenlab.bottom"], ["frankenlab.inner"], ["frankenlab.top"])
        return [code_fingerprint("frankenlab.top", without=each) for each in without]

    before = found()
    edit(package / "inner/deep.py", "2", "3")
    after = found()
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, True]
    edit(package / "bottom.py", "lambda: TWO", "lambda: TWO + 0")
    assert [a == b for a, b in zip(before, found(), strict=True)] == [True, False, True]


@pytest.fixture
def real_package(tmp_path, monkeypatch) -> Path:
    """Return a copy of the real package that can be edited."""
    copy = shutil.copytree(fingerprints.ROOT, tmp_path / "frankenlab")
    monkeypatch.setattr(fingerprints, "ROOT", copy)
    return copy


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "stale"),
    [
        ("engines/torch.py", True),
        ("engines/batches.py", True),
        ("engines/packing.py", True),
        ("engines/token_tree.py", True),
        ("engines/tree_mask.py", True),
        ("engines/triton_kernels.py", True),
        ("evaluate/sweep.py", True),
        ("tasks/encoding.py", True),
        ("tasks/task.py", True),
        ("plans/plan.py", True),
        ("models/directory.py", True),
        ("models/exl2/format.py", True),
        ("engines/exllamav2.py", False),
        ("evaluate/runner.py", False),
        ("evaluate/store.py", False),
        ("evaluate/model_spec.py", False),
        ("analyse/paired_tests.py", False),
        ("plans/grid.py", False),
        ("cli/evaluate.py", False),
        ("estimate/work.py", False),
        ("io/progress.py", False),
        ("io/errors.py", False),
        ("io/signals.py", False),
        ("evaluate/cost.py", False),
    ],
)
def test_scores_are_stale_when_code_that_makes_them_changes(real_package, file, stale):
    before = scoring_fingerprint()
    with (real_package / file).open("a") as handle:
        handle.write("\nMORE = 1\n")
    assert (scoring_fingerprint() != before) is stale


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "stale"),
    [
        # exllamav2's weights are multiplied by the torch engine.
        ("engines/torch.py", ["torch", "exllamav2"]),
        ("engines/exllamav2.py", ["exllamav2"]),
        ("engines/exllamav2_loading.py", ["exllamav2"]),
        ("evaluate/sweep.py", ["torch", "exllamav2"]),
        ("evaluate/runner.py", ["torch", "exllamav2"]),
        ("config/settings.py", []),
        ("config/experiment.py", []),
        ("estimate/memory.py", []),
        ("runtime/job.py", []),
    ],
)
def test_jobs_that_score_are_stale_with_the_code_of_their_engine(
    real_package, tmp_path, file, stale
):
    # What a file imports is found once in a process, and this one is to import the copy.
    script = Path(shutil.copy(ROOT / "workflow" / "scripts" / "evaluate.py", tmp_path))

    def found():
        without = {e: [*SURROUNDINGS, *other_engines(e)] for e in ENGINE_LIBRARIES}
        return {e: code_fingerprint(script, without=names) for e, names in without.items()}

    before = found()
    with (real_package / file).open("a") as handle:
        handle.write("\nMORE = 1\n")
    after = found()
    assert [engine for engine in before if before[engine] != after[engine]] == stale


def test_every_engine_has_the_module_and_the_libraries_of_its_name():
    names = {path.stem for path in (fingerprints.ROOT / "engines").glob("*.py")}
    assert {"torch", "exllamav2"} == set(ENGINE_LIBRARIES) <= names
    assert all(map(find_spec, map(engine_module, ENGINE_LIBRARIES)))


def test_no_module_is_imported_by_a_name_that_fingerprints_cannot_see():
    for path in fingerprints.ROOT.rglob("*.py"):
        assert "import_module" not in path.read_text(), path


def test_versions_are_those_of_the_imported_libraries():
    import tokenizers
    import torch
    import transformers

    found = library_versions()
    assert found["torch"] == torch.__version__
    assert found["transformers"] == transformers.__version__
    assert found["tokenizers"] == tokenizers.__version__
    assert set(found) == {"torch", "transformers", "tokenizers", "lm-eval"}


def test_a_changed_asset_of_a_module_changes_its_fingerprint_and_no_other(package):
    (package / "assets").mkdir()
    (package / "assets" / "middle.css").write_text("a {}")
    before = {name: code_fingerprint(f"frankenlab.{name}") for name in ("top", "bottom")}
    (package / "assets" / "middle.css").write_text("b {}")
    assert code_fingerprint("frankenlab.top") != before["top"]
    assert code_fingerprint("frankenlab.bottom") == before["bottom"]


def test_the_page_is_rendered_anew_when_its_style_or_its_script_changes():
    assets = {path.name for path in (ROOT / "src/frankenlab/report/assets").iterdir()}
    assert assets == {"page.html", "page.css", "page.js"}, "named after the module that uses them"


def test_what_was_parsed_before_is_not_parsed_again(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))

    def parsed() -> tuple[code_cache.Parsed, list[str]]:
        code_cache._kept.cache_clear()
        seen: list[str] = []
        found = code_cache.of("x = 1", lambda source: seen.append(source) or ("digest", ["os"]))
        code_cache._write()
        return found, seen

    try:
        assert parsed() == (("digest", ["os"]), ["x = 1"])
        assert parsed() == (("digest", ["os"]), [])
        for damaged in ("", "[1]", '{"a": 1}', '{"a": [1]}'):
            code_cache._file().write_text(damaged)
            assert parsed() == (("digest", ["os"]), ["x = 1"])
    finally:
        monkeypatch.undo()
        code_cache._kept.cache_clear()
