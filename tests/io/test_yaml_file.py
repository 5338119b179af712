"""YAML files of users: what is said twice, explodes or is no YAML ends in one line, at once."""

import pytest

from frankenlab.io.errors import UserError
from frankenlab.io.yaml_file import MAX_BYTES, read_yaml
from tests.support.processes import one_line

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: 1\nb: 2\na: 3", 'line 3: the key "a" is there twice'),
        ("a: 1\n'a': 2", 'line 2: the key "a" is there twice'),
        ("x:\n  y: {a: 1, a: 2}", 'line 2: the key "a" is there twice'),
        ("a: &a {x: 1}\nb: {<<: *a, x: 2, x: 3}", 'line 2: the key "x" is there twice'),
        ('{"a": 1, "a": 2}', 'line 1: the key "a" is there twice'),
        (LAUGHS, "with its aliases it has more than 300,000 values"),
        ("a: &a [*a]", "line 1: an alias that contains itself"),
        ("&a {<<: *a}", "line 1: an alias that contains itself"),
        ("[" * 100 + "]" * 100, "line 1: nested more than 40 levels deep"),
        ("[" * 100_000, "line 1: nested more than 40 levels deep"),
        ("a:\n\tb: 1", "line 2: found character"),
        ("a: 1\n---\nb: 2", "line 2: but found another document"),
        ("a: !!python/object/apply:os.getcwd []", "line 1: could not determine a constructor"),
        ("a: 2020-13-45", "month must be in 1..12"),
        ("a: " + "9" * 5000, "4300 digits"),
        ("? [a]\n: 1", "line 1: found unhashable key"),
        ("#" * (MAX_BYTES + 1), "bytes, at most 1,048,576 are read"),
        (b"a: \xe9", "it is not UTF-8 (byte 3)"),
        ("a: 1".encode("utf-16"), "it is not UTF-8 (byte 0)"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path, text, fault):
    path = tmp_path / "file.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as error:
        read_yaml(path)
    assert fault in one_line(error) and len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "it is a directory"),
        ("/dev/zero", "it is no regular file"),
        ("none.yaml", "no such file or directory"),
    ],
)
def test_what_is_no_file_is_not_read(tmp_path, name, fault):
    with pytest.raises(UserError, match=fault):
        read_yaml(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("\ufeffa: 1", {"a": 1}),
        ("a: &a {x: 1, y: 1}\nb: {<<: *a, x: 2}", {"a": {"x": 1, "y": 1}, "b": {"x": 2, "y": 1}}),
        ('{"a": [1, 2.5, true, null, "x"]}', {"a": [1, 2.5, True, None, "x"]}),
    ],
)
def test_everything_else_is_read(tmp_path, text, value):
    path = tmp_path / "file.yaml"
    path.write_text(text)
    assert read_yaml(path) == value
