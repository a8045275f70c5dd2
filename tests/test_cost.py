"""Arithmetic of models: parameters and FLOPs, against published counts and against real modules."""

import json

import pytest

from core.config import UserError
from core.cost import PEAK_FLOPS, QWEN25, ModelShape, peak_flops

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
}


# total parameters of the safetensors on the hub
@pytest.mark.parametrize(
    ("size", "num_parameters"),
    [
        ("0.5B", 494_032_768),
        ("1.5B", 1_543_714_304),
        ("3B", 3_085_938_688),
        ("7B", 7_615_616_512),
        ("14B", 14_770_033_664),
        ("32B", 32_763_876_352),
        ("72B", 72_706_203_648),
    ],
)
def test_parameters_of_qwen(size, num_parameters):
    assert QWEN25[f"Qwen/Qwen2.5-{size}-Instruct"].num_parameters == num_parameters


def test_flops_of_the_published_run():
    """About 26 minutes of 16 H100 at 23% MFU: 315 steps of 16 examples of 5.6K tokens."""
    shape = ModelShape.of("Qwen/Qwen2.5-32B-Instruct")
    assert shape.num_matmul_parameters == pytest.approx(31.985e9, rel=1e-4)
    linear = 6 * shape.num_matmul_parameters * 5600
    assert shape.flops(5600) / linear - 1 == pytest.approx(5600 * 1.02e-5, rel=0.01)  # attention beside matrices
    assert 5040 * shape.flops(5600) == pytest.approx(5.7e18, rel=0.02)


def test_a_card_is_known_by_part_of_its_name():
    assert peak_flops("NVIDIA H100 80GB HBM3") == PEAK_FLOPS["H100"]
    assert peak_flops("NVIDIA H100 PCIe") == PEAK_FLOPS["H100 PCIe"] < PEAK_FLOPS["H100"]
    assert peak_flops("NVIDIA H200") == PEAK_FLOPS["H200"] != PEAK_FLOPS["H20"]
    assert peak_flops("abacus") is None


def test_a_folder_is_read(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(LLAMA))
    assert ModelShape.of(str(tmp_path)) == ModelShape.of(str(tmp_path / "model"))
    assert ModelShape.of(str(tmp_path)).head_dim == 16


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps(LLAMA | {"num_experts": 8}), "it has experts"),
        (json.dumps({"model_type": "gpt2", "n_embd": 768}), "'gpt2' is no dense decoder .* has no hidden_size"),
        ("{", "config.json: not valid JSON"),
    ],
)
def test_what_is_no_dense_decoder_is_refused(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        ModelShape.of(str(tmp_path))


def test_a_missing_model_is_refused():
    with pytest.raises(UserError, match="model=./nowhere: no folder with a config.json"):
        ModelShape.of("./nowhere")


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        {"model_type": "qwen2"},
        {"model_type": "qwen3", "head_dim": 32},
    ],
)
def test_parameters_of_real_modules(changes):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**{"attention_bias": False, **LLAMA, **changes})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shape = ModelShape.from_config(config.to_dict(), "test")
    assert shape.num_parameters == sum(p.numel() for p in model.parameters())
    matrices = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]  # a tied head is one too
    assert shape.num_matmul_parameters == sum(m.weight.numel() for m in matrices)
