"""Tensors kept for a later run are those that were saved, or damaged by their own word."""

import random

import pytest
import torch

from frankenlab.quantize.resume import Damaged, is_whole, load_tensors, save_tensors
from tests.support.processes import one_line

TENSORS = {
    "codes": torch.arange(60, dtype=torch.uint8).reshape(5, 12),
    "scales": torch.linspace(-1, 1, 7).half(),
    "one": torch.ones(2, 2).bfloat16()[:1, :1],
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "none": torch.zeros(0, 3),
    "number": torch.tensor(3.5, dtype=torch.float64),
}


def test_tensors_come_back_as_they_were(tmp_path):
    save_tensors(tmp_path / "part", TENSORS)
    found = load_tensors(tmp_path / "part")
    assert found.keys() == TENSORS.keys() and is_whole(tmp_path / "part")
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)


def test_every_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "part"
    save_tensors(path, TENSORS)
    contents, draw = path.read_bytes(), random.Random(0)
    for at in {draw.randrange(len(contents)) for _ in range(150)}:
        changed = bytearray(contents)
        changed[at] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        assert not is_whole(path), at


def test_a_file_without_its_hash_does_not_count(tmp_path):
    """As where a job was killed between the two."""
    save_tensors(tmp_path / "part", TENSORS)
    (tmp_path / "part.sha256").unlink()
    assert not is_whole(tmp_path / "part")


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_part_that_was_cut_is_damaged(tmp_path, size):
    path = tmp_path / "part"
    save_tensors(path, TENSORS)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(Damaged) as error:
        load_tensors(path)
    assert str(path) in one_line(error)
    assert not is_whole(path) and not is_whole(tmp_path / "absent")
