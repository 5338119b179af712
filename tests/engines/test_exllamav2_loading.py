"""What exllamav2 does not run correctly, or at all, is refused in one line; the rest is loaded."""

import json
import sys

import pytest
import torch

from frankenlab.engines import exllamav2_loading as loading
from frankenlab.engines.exllamav2 import Exllamav2Engine
from frankenlab.io.errors import UserError
from frankenlab.plans.plan import base
from tests.support.processes import one_line
from tests.support.tiny import make_tiny_exl2

pytestmark = pytest.mark.usefixtures("exllamav2_on_cpu")


def test_nothing_of_the_loading_stays_behind(directories, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    threads = torch.get_num_threads()
    engine = Exllamav2Engine(directories("several-files"))
    engine.decoder(base(3), 4).feed([5, 6, 7])
    assert list(tmp_path.iterdir()) == [] and torch.get_num_threads() == threads


def mlp_biases(config):
    config["mlp_bias"] = True


def rope(kind: str):
    def edit(config):
        config["rope_parameters"] = {
            "rope_type": kind,
            "rope_theta": 10000.0,
            "factor": 2.0,
            "original_max_position_embeddings": 128,
        }

    return edit


REFUSED = {
    "mlp-bias": ({"edit": mlp_biases}, "mlp_bias is true"),
    "narrow-keys": (
        {"heads": 8, "kv_heads": 1},
        r"'model.layers.0.self_attn.k_proj.weight': 16 outputs; .* multiples of 32",
    ),
    **{
        kind: ({"edit": rope(kind)}, f'rope type "{kind}" .*default, linear, llama3 are')
        for kind in ("dynamic", "yarn")
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_models_that_exllamav2_gets_wrong_are_refused(tmp_path, case):
    arguments, message = REFUSED[case]
    directory = make_tiny_exl2(tmp_path / "model", **arguments)
    with pytest.raises(UserError, match=message) as error:
        Exllamav2Engine(directory)
    assert one_line(error).startswith(str(directory))


def test_a_directory_that_is_not_exl2_is_refused(tiny):
    with pytest.raises(UserError) as error:
        Exllamav2Engine(tiny())
    assert "not EXL2" in one_line(error) and "engine torch runs it" in str(error.value)


def test_a_damaged_directory_is_named_by_its_tensor(tmp_path):
    directory = make_tiny_exl2(tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    with pytest.raises(UserError) as error:
        Exllamav2Engine(directory)
    assert "model.layers.3." in one_line(error)


def test_what_exllamav2_itself_refuses_is_one_line(directories, monkeypatch):
    from exllamav2 import ExLlamaV2

    def load(self, split):
        raise AssertionError("Partially quantized attention layer")

    monkeypatch.setattr(ExLlamaV2, "load", load)
    with pytest.raises(UserError) as error:
        Exllamav2Engine(directories("plain"))
    assert "does not load it (Partially quantized attention layer)" in one_line(error)


def test_cuda_asked_for_and_absent_is_refused(directories, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError) as error:
        Exllamav2Engine(directories("plain"))
    assert '"cuda:0"' in one_line(error)


def test_the_cpu_is_refused(directories):
    with pytest.raises(UserError) as error:
        Exllamav2Engine(directories("plain"), "cpu")
    assert "runs on CUDA only" in one_line(error)


def test_without_exllamav2_it_says_how_to_get_it(directories, monkeypatch):
    monkeypatch.setitem(sys.modules, "exllamav2", None)
    with pytest.raises(UserError) as error:
        Exllamav2Engine(directories("plain"))
    assert "exllamav2 is not installed; pip install 'frankenlab[exl2]'" in one_line(error)


def test_an_extension_that_does_not_compile_is_one_line(directories, monkeypatch, tmp_path):
    (tmp_path / "exllamav2.py").write_text("raise OSError('CUDA_HOME is\\nnot set')")
    monkeypatch.delitem(sys.modules, "exllamav2")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as error:
        Exllamav2Engine(directories("plain"))
    assert "does not compile or load here (CUDA_HOME is not set)" in one_line(error)


def test_the_device_asked_for_gets_the_model(directories, monkeypatch):
    from exllamav2 import ExLlamaV2

    split, model = [], ExLlamaV2.load

    def note(self, gpu_split):
        split.append(gpu_split)
        model(self, [99999.0])

    monkeypatch.setattr(ExLlamaV2, "load", note)
    for device in ("cuda", "cuda:0", "cuda:2"):
        Exllamav2Engine(directories("plain"), device).close()
    assert split == [[99999.0], [99999.0], [0.0, 0.0, 99999.0]]


def test_the_config_that_exllamav2_sees_has_nothing_that_it_misreads():
    made = loading.as_exllamav2_reads(
        {
            "model_type": "mistral",
            "sliding_window": 4096,
            "head_dim": None,
            "hidden_size": 64,
            "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5},
        }
    )
    assert made == {
        "model_type": "mistral",
        "architectures": ["MistralForCausalLM"],
        "hidden_size": 64,
        "rope_theta": 5e5,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    }


def test_a_model_that_does_not_fit_is_refused(directories, monkeypatch):
    from exllamav2 import ExLlamaV2

    def load(self, split):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(ExLlamaV2, "load", load)
    with pytest.raises(UserError) as error:
        Exllamav2Engine(directories("plain"))
    assert "does not fit into the memory of cuda:0" in one_line(error)
