"""The GPU check's comparison with peers, on a tiny model and a CPU: what it runs and counts."""

import json
from types import SimpleNamespace

import gpu_check
import gpu_peers
import gpu_steps
import pytest
import torch
import yaml
from gpu_models import TINY_HF

from benchmarks.speed import peers
from frankenlab import cli
from frankenlab.io.errors import UserError
from frankenlab.models.directory import model_shape
from frankenlab.plans.plan import parse
from tests.support.paths import ROOT
from tests.support.processes import one_line
from tests.support.task_rows import arc_row, write_rows

pytestmark = pytest.mark.slow

LARGE = json.loads((TINY_HF / "config.json").read_text()) | {
    "hidden_act": "silu",
    "num_hidden_layers": 4,
}


@pytest.fixture(scope="module")
def setup(tiny, tmp_path_factory):
    """The check's setup in a folder of its own, which is the current one."""
    folder = tmp_path_factory.mktemp("peers")
    arc = write_rows(folder / "arc.jsonl", [arc_row(i) for i in range(14)])
    experiment = {
        "experiment": "peers",
        "models": {"tiny": {"source": {"path": str(tiny("tied"))}, "n_layers": 4}},
        "tasks": {"arc_easy": {"role": "search", "metric": "acc", "data": {"file": str(arc)}}},
        "plans": [{"generator": "layer", "times": 2}],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(experiment))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(gpu_peers, "REPEATS", 1)
        patch.setattr(gpu_peers, "BATCH_SIZES", (2, 4))
        patch.setattr(gpu_peers, "TUNING_DOCUMENTS", 2)
        assert cli.main(["fetch", "--config", "config.yaml"]) == 0
        yield gpu_steps.Setup(
            *(None, None, folder / "scratch", "cpu"),
            large=LARGE,
            config=folder / "config.yaml",
            peer_documents=5,
            peer_plans=1,
        )


def test_the_sweep_stands_beside_its_peers_and_the_peak(setup, monkeypatch):
    merged = {"plans": {}, "tasks": {}}

    def run_written(setting, sizes):
        assert set(peers.read_sizes(sizes)) == {"arc_easy", "arc_easy_5shot"}
        merged["plans"]["0:3,1:4"] = {"write": 1.0, "load": 1.0, "bytes": 2e9}
        return merged | {"tasks": {"arc_easy": {"0:3,1:4": {"seconds": 2.0}}}}

    monkeypatch.setattr(peers, "run_written", run_written)
    monkeypatch.setattr(gpu_peers, "find_spec", lambda name: name)
    rows = []
    gpu_steps.compare_peers(setup, rows)
    found = dict(rows)
    assert found["product of 2048 x 1024 x 1024"].endswith("TFLOP/s")
    for task in ("arc_easy", "arc_easy_5shot"):
        own = [key for key in found if key.startswith(f"{task}: the sweep of ")]
        assert [key.split(", ")[-3] for key in own] == ["1 plan", "4 plans", "4 plans"]
        assert all("of the product" in found[key] and "5 documents" in key for key in own)
        harness, mean = (key for key in found if key.startswith(f"{task}: lm-eval in memory, "))
        assert "times the sweep's seconds a plan" in found[harness] == found[mean]
    assert "1.0 s to write 2.0 GB" in found["arc_easy: mergekit, then lm-eval, 0:3,1:4"]


def test_without_mergekit_the_page_says_so(setup, monkeypatch):
    monkeypatch.setattr(gpu_peers, "find_spec", lambda name: None)
    rows = []
    gpu_peers.time_merges(SimpleNamespace(), {}, {}, rows)
    assert rows == [("mergekit, then lm-eval", "mergekit is not installed")]


def test_a_sweep_s_products_are_counted_as_the_estimate_counts_them(setup, monkeypatch):
    setting = gpu_steps.peers_setting(setup, [])
    shape = model_shape(setting.model)
    plans = [parse(text, 4) for text in ("base", "0:3,1:4")]
    work = SimpleNamespace(count=5, scored=7, computed=lambda budget: 100)
    # 4 layers of the base, and 4 more, since the plans part after layer 2.
    flops = 2 * ((3 + 1 + 3) * 100 * shape.layer_weights + 2 * 7 * shape.head_weights)
    row = gpu_peers.sweep_row(setting, "x", plans, work, 2.0, 2 * flops / 2.0 / 1e12)
    assert row[0] == "x, 2 plans, 5 documents, 100 tokens"
    assert row[1].startswith("1.000 s a plan, 3.5 layer passes each; ")
    assert row[1].endswith("50% of the product")


def test_the_fastest_batch_that_memory_holds_is_taken(monkeypatch):
    monkeypatch.setattr(gpu_peers, "BATCH_SIZES", (1, 2, 4, 8))

    def seconds(size: int) -> float:
        if size == 8:
            raise torch.cuda.OutOfMemoryError
        return {1: 3.0, 2: 1.0, 4: 2.0}[size]

    assert gpu_peers.fastest_batch(seconds) == 2
    monkeypatch.setattr(gpu_peers, "BATCH_SIZES", (8,))
    with pytest.raises(UserError) as error:
        gpu_peers.fastest_batch(seconds)
    assert "out of memory with 8 rows" in one_line(error)


def test_the_profile_tells_the_device_s_time_by_operator(setup):
    gpu_steps.peers_setting(setup, rows := [])
    rows.clear()
    gpu_steps.profile_peers_sweep(setup, rows)
    assert rows[0][0] == "seconds of the same sweep, not profiled"
    shares = [float(share.rstrip("%")) for _, share in rows[2:]]
    assert len(shares) == gpu_peers.SHOWN_OPERATORS and shares == sorted(shares, reverse=True)


def test_kernels_of_no_operator_are_a_row_of_the_profile():
    def event(key: str, kind: str, microseconds: float) -> SimpleNamespace:
        device_type = getattr(torch.autograd.DeviceType, kind)
        return SimpleNamespace(
            key=key, device_type=device_type, self_device_time_total=microseconds
        )

    events = [
        event("aten::mm", "CPU", 6e6),
        event("gemm", "CUDA", 6e6),
        event("_swiglu", "CUDA", 2e6),
    ]
    assert gpu_peers.profile_rows(events, True, 9.0) == [
        ("seconds of the same sweep, not profiled", "9.00"),
        ("seconds of the device's work", "8.00"),
        ("aten::mm", "75.0%"),
        ("kernels of no operator (Triton)", "25.0%"),
    ]


def test_without_a_tokenizer_it_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = ROOT / "config" / "config.yaml"
    with pytest.raises(UserError) as error:
        gpu_peers.random_with_tokenizer(tmp_path / "x", LARGE, config, "cpu", [])
    assert "`frankenlab fetch` brings the model" in one_line(error)


def test_the_whole_command_runs_on_a_cpu(setup, tmp_path, monkeypatch):
    """The table of a command without a GPU, on a shape of its own."""
    monkeypatch.setattr(gpu_check, "prepare", lambda given: None)
    (tmp_path / "large.json").write_text(json.dumps(LARGE))
    out = tmp_path / "page.md"
    steps = ["--device", "cpu", "--steps", "profile", "--large", str(tmp_path / "large.json")]
    scratch = ["--scratch", str(tmp_path), "--config", str(setup.config), "--peer-documents", "4"]
    assert gpu_check.main([*steps, *scratch, "--out", str(out)]) == 0
    page = out.read_text()
    assert "| profile | Where the sweep's time goes |" in page and "none: on the CPU" in page
