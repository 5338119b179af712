"""An exported franken, saved and loaded again, is the virtual one."""

import contextlib
import io
import json
import os
import shutil
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from frankenlab import cli
from frankenlab.engines.torch import TorchEngine
from frankenlab.io.errors import UserError
from frankenlab.models import export
from frankenlab.models.export import materialize
from frankenlab.models.fetch import fetch_model
from frankenlab.models.sources import Source
from frankenlab.models.weight_writing import write_weights
from frankenlab.plans.plan import Plan, parse
from frankenlab.runtime import clean as clearing
from tests.support.models import PLANS, SCALED_EXPORTS, VARIANTS, assert_close, load_hf, parse_all
from tests.support.paths import DATA
from tests.support.processes import one_line, with_file_limit

TOKENS = torch.randint(2, 384, (40,), generator=torch.Generator().manual_seed(5)).tolist()

# Scales that a LLaMA layer can hold: in the output matrix of one part.


def run_cli(command: str, model: Path, plan: str, target: Path) -> tuple[int, str]:
    """Exit status and what is said."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = cli.main([command, str(model), "--plan", plan, "--output", str(target)])
    return status, said.getvalue()


def virtual_logits(directory, plan: Plan) -> torch.Tensor:
    """For the token after each of `TOKENS`, [tokens, vocabulary]."""
    decoder = TorchEngine(directory, "float32").decoder(plan, len(TOKENS))
    return torch.stack([decoder.feed([token]) for token in TOKENS])


def loaded_logits(directory) -> torch.Tensor:
    with torch.inference_mode():
        return load_hf(directory)(torch.tensor([TOKENS])).logits[0]


def tensors(directory) -> dict[str, torch.Tensor]:
    found = {}
    for path in directory.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("text", [*PLANS, *SCALED_EXPORTS])
def test_the_exported_franken_is_the_virtual_one(tiny, tmp_path, variant, text):
    plan, target = parse(text, 4), tmp_path / "new" / "franken"
    materialize(tiny(variant), plan, target)
    model = load_hf(target)
    assert model.config.num_hidden_layers == len(model.model.layers) == len(plan.steps)
    expected = virtual_logits(tiny(variant), plan).log_softmax(-1)
    assert_close(loaded_logits(target).log_softmax(-1), expected)
    engine = TorchEngine(target, "float32")
    assert engine.n_layers == len(plan.steps)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_base_exported_is_the_base_to_the_bit(tiny, tmp_path, variant):
    materialize(tiny(variant), *parse_all(["base"]), tmp_path / "out")
    before, after = tensors(tiny(variant)), tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    old, new = (
        json.loads((directory / "config.json").read_text())
        for directory in (tiny(variant), tmp_path / "out")
    )
    # Of Qwen2: from which layer on attention might slide over a window, which it must not here.
    told = {"frankenlab": {"plan": "base", "base": variant, "base_layers": 4}}
    assert old | {"max_window_layers": None} | told == new | {"max_window_layers": None}


def test_a_checkpoint_says_of_which_base_it_is_which_plan(tiny, tmp_path):
    source = Source("path", str(tiny()))
    fetch_model(source, tmp_path / "base", 4, "")
    materialize(tmp_path / "base", parse("0:3,1:4", 4), tmp_path / "out")
    made = {"plan": "0:3,1:4", "base": source.text, "base_layers": 4}
    assert AutoConfig.from_pretrained(tmp_path / "out").frankenlab == made
    card = (tmp_path / "out/README.md").read_text()
    assert source.text in card and "layers 1–2 twice" in card and "base_model" not in card
    # A franken of a franken says so of itself.
    materialize(tmp_path / "out", parse("0:6,5", 6), tmp_path / "again")
    again = json.loads((tmp_path / "again/config.json").read_text())["frankenlab"]
    assert again == {"plan": "0:6,5", "base": "out", "base_layers": 6}


def test_the_card_of_a_model_of_the_hub_names_it_as_the_hub_does():
    card = export._card(parse("0:3,1:4", 4), f"Hugging Face hub owner/name at {'ab' * 20}")
    assert "\nbase_model: owner/name\n" in card


def test_the_numbers_format_of_the_base_is_kept(tiny, tmp_path):
    AutoModelForCausalLM.from_pretrained(tiny(), dtype=torch.bfloat16).save_pretrained(
        tmp_path / "bf16"
    )
    plan = parse("0:4,1@attn*0.5", 4)
    materialize(tmp_path / "bf16", plan, tmp_path / "out")
    assert {t.dtype for t in tensors(tmp_path / "out").values()} == {torch.bfloat16}


@pytest.mark.parametrize("text", ["0:3,1:4", "3,0:2"])
def test_a_large_checkpoint_is_written_in_shards_and_read_from_them(
    tiny, tmp_path, monkeypatch, text
):
    plan = parse(text, 4)
    small = partial(write_weights, shard_bytes=30_000)
    monkeypatch.setattr(export, "write_weights", small)
    materialize(tiny(), plan, tmp_path / "shards")
    files = sorted(path.name for path in (tmp_path / "shards").glob("*.safetensors"))
    assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((tmp_path / "shards/model.safetensors.index.json").read_text())
    stored = tensors(tmp_path / "shards")
    assert index["weight_map"].keys() == stored.keys()
    assert set(index["weight_map"].values()) == set(files)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in stored.values())
    expected = virtual_logits(tiny(), plan)
    assert_close(loaded_logits(tmp_path / "shards"), expected)

    monkeypatch.undo()
    again = parse("base", len(plan.steps))
    materialize(tmp_path / "shards", again, tmp_path / "one")
    assert [path.name for path in (tmp_path / "one").glob("model*")] == ["model.safetensors"]
    assert_close(loaded_logits(tmp_path / "one"), expected)


def test_the_tokenizer_comes_along(tiny, tmp_path):
    materialize(tiny("qwen2"), *parse_all(["0:3,1:4"]), tmp_path / "out")
    one, other = (AutoTokenizer.from_pretrained(d) for d in (tiny("qwen2"), tmp_path / "out"))
    text = "The river runs, größer 123"
    assert one.encode(text) == other.encode(text)
    assert (one.bos_token, one.eos_token) == (other.bos_token, other.eos_token)


def test_a_scaled_block_is_refused_because_no_llama_layer_computes_it(tiny, tmp_path):
    with pytest.raises(UserError) as error:
        materialize(tiny(), parse("0:2,1*0.5,2:4", 4), tmp_path / "out")
    assert 'plan "0:2,1*0.5,2:4": step 3 scales' in one_line(error)
    assert not (tmp_path / "out").exists()


def test_a_damped_window_is_refused_by_name_and_its_layers_undamped_are_exported(tiny, tmp_path):
    with pytest.raises(UserError) as error:
        materialize(tiny(), parse("0,(1:3)x2*0.5,3", 4), tmp_path / "out")
    assert 'plan "0,(1:3)x2*0.5,3": steps 2 to 3 are a damped window' in one_line(error)
    assert not (tmp_path / "out").exists()
    materialize(tiny(), parse("0,(1:3)x2*1,3", 4), tmp_path / "out")
    assert load_hf(tmp_path / "out").config.num_hidden_layers == 6


def test_an_existing_target_is_left_alone(tiny, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError) as error:
        materialize(tiny(), *parse_all(["base"]), tmp_path / "out")
    assert "exists already" in one_line(error)
    assert os.listdir(tmp_path / "out") == []


def test_a_plan_of_another_depth_is_refused_with_both_depths(tiny, tmp_path):
    with pytest.raises(UserError) as error:
        materialize(tiny(), parse("base", 5), tmp_path / "out")
    assert "4" in one_line(error) and "5" in str(error.value)
    assert os.listdir(tmp_path) == []


def test_a_failure_halfway_leaves_nothing_and_the_next_try_works(tiny, tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(28, "No space left on device")

    (plan,) = parse_all(["0:3,1:4"])
    with monkeypatch.context() as patch:
        patch.setattr(export, "copy_companions", fails)
        with pytest.raises(UserError) as error:
            materialize(tiny(), plan, tmp_path / "out")
    assert "No space left" in one_line(error) and str(tmp_path / "out") in str(error.value)
    assert os.listdir(tmp_path) == []
    materialize(tiny(), plan, tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tiny, tmp_path):
    """For real: the kernel refuses to write a file of more than 50,000 bytes."""
    target = tmp_path / "folder" / "out"
    command = ["materialize", str(tiny()), "--plan", "base", "--output", str(target)]
    status, message = with_file_limit(50_000, lambda: cli.main(command), tmp_path / "log")
    assert status == 2 and "File too large" in one_line(message)
    assert os.listdir(target.parent) == []


def test_what_a_killed_export_leaves_is_replaced(tiny, tmp_path):
    for name in (".out.part", ".out.abcd1234.part", ".out.more.abcd1234.part"):
        shutil.copytree(tiny(), tmp_path / name)
        (tmp_path / name / "leftover").touch()
    materialize(tiny(), *parse_all(["base"]), tmp_path / "out")
    # The last is what an export to "out.more" left.
    assert sorted(os.listdir(tmp_path)) == [".out.more.abcd1234.part", "out"]
    assert not (tmp_path / "out/leftover").exists()


def test_an_unfinished_export_has_the_name_that_a_clear_up_looks_for(tiny, tmp_path, monkeypatch):
    seen = []

    def write(directory, tensors, **options):
        seen.append(directory.name)
        write_weights(directory, tensors, **options)

    monkeypatch.setattr(export, "write_weights", write)
    materialize(tiny(), *parse_all(["base"]), tmp_path / "out")
    (match,) = map(clearing.LEFTOVER.fullmatch, seen)
    assert match["target"] == "out"


def test_of_two_exports_to_one_name_one_wins_and_the_other_is_told(tiny, tmp_path, monkeypatch):
    """The second begins and ends while the first is at work, and neither touches the other's."""
    first, second = parse_all(["0:3,1:4", "base"])
    target = tmp_path / "out"

    def write(directory, tensors, **options):
        monkeypatch.undo()
        materialize(tiny(), second, target)
        assert directory.is_dir(), "the second does not take the first's for a leftover"
        write_weights(directory, tensors, **options)

    monkeypatch.setattr(export, "write_weights", write)
    with pytest.raises(UserError, match="another export wrote it in the meantime") as error:
        materialize(tiny(), first, target)
    assert one_line(error).startswith(str(target))
    assert os.listdir(tmp_path) == ["out"]
    assert load_hf(target).config.num_hidden_layers == 4


def test_exports_at_once_leave_one_whole_directory(tiny, tmp_path):
    """For real: eight threads, one target."""
    plans = parse_all(["0:3,1:4", "0:3", "base", "1:4"] * 2)
    results = []

    def run(plan: Plan) -> None:
        try:
            materialize(tiny(), plan, tmp_path / "out")
            results.append(len(plan.steps))
        except UserError as error:
            assert "exists already" in str(error)

    tiny()
    threads = [threading.Thread(target=run, args=(plan,)) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (depth,) = results
    assert os.listdir(tmp_path) == ["out"]
    assert load_hf(tmp_path / "out").config.num_hidden_layers == depth


def test_an_exl2_directory_is_refused_before_anything_is_written(tmp_path):
    for command in ("base", "0:2,1"):
        status, message = run_cli("materialize", DATA / "llama-tiny-exl2", command, tmp_path / "f")
        assert status == 2
        assert "llama-tiny-exl2: it is EXL2, and an export needs the unquantized model" in message
        assert ".part" not in message and message.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_targets_that_cannot_be_made_are_one_line(tiny, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    for target, reason in (
        (tmp_path / "file", "exists already"),
        (tmp_path / "dangling", "exists already"),
        (tmp_path / "file" / "f", "cannot be written"),
        (tmp_path / ("x" * 300), "cannot be written"),
        (Path("/proc/f"), "cannot be written"),
    ):
        with pytest.raises(UserError, match=reason) as error:
            materialize(tiny(), *parse_all(["base"]), target)
        assert one_line(error).startswith(str(target))
    assert sorted(os.listdir(tmp_path)) == ["dangling", "file"]


def test_others_may_read_what_is_exported(tiny, tmp_path):
    before = os.umask(0o027)
    try:
        materialize(tiny(), *parse_all(["base"]), tmp_path / "out")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "out").iterdir()} == {0o640}
