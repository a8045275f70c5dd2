"""Memory by arithmetic, against published figures, real objects, and the allocations of the real code.

Those of a 32B model are counted on fake tensors, which have sizes and no contents: the code of transformers, TRL, peft
and FSDP2 runs at its true width, on a CPU, and nothing is allocated.
"""

import dataclasses

import pytest

from core.cost import ModelShape
from train.memory import RESERVED_BYTES, Setup, lora_parameters, memory, states

QWEN32 = ModelShape.of("Qwen/Qwen2.5-32B-Instruct")
SMALL = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 4096,
    "tie_word_embeddings": False,
}


def test_states_of_32b():
    sharded = states(QWEN32, Setup("fsdp2", 16, 8192))
    assert sharded.parameters + sharded.gradients + sharded.optimizer == pytest.approx(32.8e9, rel=0.002)
    assert sharded.checkpoint == pytest.approx(393e9, rel=0.001)
    assert sharded.export == pytest.approx(65.5e9, rel=0.001)
    offloaded = states(QWEN32, Setup("zero3", 8, 8192, offload_optimizer=True))
    assert offloaded.parameters + offloaded.gradients == pytest.approx(16.4e9, rel=0.002)
    assert offloaded.host_optimizer == pytest.approx(524e9, rel=0.001)
    assert lora_parameters(QWEN32, 16) == 134_217_728
    adapters = states(QWEN32, Setup("single", 1, 8192, lora_rank=16, quantize="nf4"))
    assert adapters.parameters + adapters.gradients + adapters.optimizer == pytest.approx(21e9, rel=0.03)


FSDP2 = {"backend": "fsdp2"}
LORA = {"backend": "single", "num_devices": 1, "lora_rank": 16}


# Another estimate of the same, in GB. Its rows are estimates too, made in another way: they add up gradients, head and
# layer inputs, which never all meet, so ours lie a little lower where those are large.
@pytest.mark.parametrize(
    ("setup", "expected"),
    [
        (Setup(**FSDP2, num_devices=16, tokens=8192), 50),
        (Setup(**FSDP2, num_devices=16, tokens=14400), 57),
        (Setup(**FSDP2, num_devices=16, tokens=20000), 63),
        (Setup(**FSDP2, num_devices=16, tokens=32768), 76),
        (Setup(**FSDP2, num_devices=16, tokens=8192, checkpointing="selective"), 55),
        (Setup(**FSDP2, num_devices=16, tokens=14400, checkpointing="selective"), 66),
        (Setup(**FSDP2, num_devices=8, tokens=8192), 83),
        (Setup(**FSDP2, num_devices=8, tokens=32768, checkpointing="selective"), 131),
        (Setup("zero3", 8, 32768, offload_optimizer=True), 60),
        (Setup(**LORA, tokens=8192), 80),
        (Setup(**LORA, tokens=32768), 106),
        (Setup(**LORA, tokens=16384, quantize="nf4"), 44),
        (Setup(**LORA, tokens=32768, quantize="nf4"), 62),
    ],
)
def test_other_estimates_are_near(setup, expected):
    assert memory(QWEN32, setup).peak + RESERVED_BYTES == pytest.approx(expected * 1e9, rel=0.15)


def test_more_devices_checkpointing_and_shorter_parts_take_less():
    plain = memory(QWEN32, Setup("fsdp2", 16, 8192, checkpointing="none")).peak
    selective = memory(QWEN32, Setup("fsdp2", 16, 8192, checkpointing="selective")).peak
    full = memory(QWEN32, Setup("fsdp2", 16, 8192)).peak
    assert plain > selective > full > memory(QWEN32, Setup("fsdp2", 16, 4096)).peak
    assert full > memory(QWEN32, Setup("fsdp2", 32, 8192)).peak
    assert full < memory(QWEN32, Setup("fsdp2", 16, 8192, accumulation=2)).peak  # gradients of the pass before


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_bytes_of_real_objects(kind):
    """Exact: parameters, gradients after a backward pass, AdamW's two moments."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, **SMALL)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
    optimizer.step()
    expected = states(
        ModelShape.from_config(config.to_dict(), kind), Setup("single", 1, 8, checkpointing="none", precision="float32")
    )
    assert sum(p.nbytes for p in model.parameters()) == expected.parameters
    assert sum(p.grad.nbytes for p in model.parameters()) == expected.gradients
    moments = [s[key] for s in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    assert sum(m.nbytes for m in moments) == expected.optimizer


@pytest.mark.slow
def test_bytes_of_real_adapters():
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    peft = pytest.importorskip("peft")
    config = AutoConfig.for_model("qwen2", **SMALL)
    base = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = peft.get_peft_model(base, peft.LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    shape = ModelShape.from_config(config.to_dict(), "qwen2")
    assert model.get_nb_trainable_parameters()[0] == lora_parameters(shape, 8)
    expected = states(shape, Setup("single", 1, 8, lora_rank=8))
    assert sum(p.nbytes for p in model.parameters()) == expected.parameters


@pytest.fixture
def sixteen_devices():
    """A process group that sends nothing: this process is rank 0 of 16."""
    from torch import distributed
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=16)
    yield 16
    distributed.destroy_process_group()


def build_model(config, dtype, checkpointing: str):
    from allocations import attend
    from transformers import AttentionInterface, AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    AttentionInterface.register("one_example", attend)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="one_example")
    add_fused_lm_head(model)
    if checkpointing == "full":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def true_width(num_layers: int):
    """(config, shape) of Qwen2.5-32B with fewer layers."""
    from transformers import AutoConfig

    shape = dataclasses.replace(QWEN32, num_layers=num_layers)
    config = AutoConfig.for_model(
        "qwen2",
        num_hidden_layers=num_layers,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        vocab_size=shape.vocab_size,
        tie_word_embeddings=False,
    )
    return config, shape


def expected_peak(shape: ModelShape, setup: Setup) -> float:
    """Of a first step: no optimizer states yet, and the parameters not counted."""
    held = memory(shape, setup)
    return held.peak - held.states.parameters - held.states.optimizer


# On a CPU TRL's head works on float32 copies of its tiles, some 2 GB that a GPU does not take; it is the peak where
# nothing is checkpointed.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_layers", "num_tokens", "checkpointing", "tolerance"),
    [(8, 32768, "full", 0.03), (64, 8192, "full", 0.05), (8, 8192, "none", 0.08)],
)
def test_peak_of_a_true_width_step_under_fsdp2(sixteen_devices, num_layers, num_tokens, checkpointing, tolerance):
    import torch
    from allocations import Allocations, peak_of_step
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    config, shape = true_width(num_layers)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    options = {"mesh": init_device_mesh("cpu", (sixteen_devices,)), "mp_policy": policy}
    with FakeTensorMode(allow_non_fake_inputs=True), Allocations() as allocations:
        model = build_model(config, torch.float32, checkpointing)
        for layer in (*model.model.layers, model.model.embed_tokens):  # as accelerate wraps it
            fully_shard(layer, **options, reshard_after_forward=True)
        fully_shard([model.model.norm, model.lm_head], **options, reshard_after_forward=False)
        fully_shard(model, **options)
        measured = peak_of_step(model, num_tokens, True, allocations)
    setup = Setup("fsdp2", sixteen_devices, num_tokens, checkpointing=checkpointing)
    kept = states(shape, setup)
    assert sum(p.to_local().nbytes for p in model.parameters()) == kept.parameters
    assert sum(p.grad.to_local().nbytes for p in model.parameters()) == kept.gradients
    assert measured == pytest.approx(expected_peak(shape, setup), rel=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_tokens", "checkpointing", "tolerance"), [(16384, "full", 0.03), (32768, "full", 0.03), (16384, "none", 0.12)]
)
def test_peak_of_a_true_width_step_on_one_device(num_tokens, checkpointing, tolerance):
    import torch
    from allocations import Allocations, peak_of_step
    from torch._subclasses.fake_tensor import FakeTensorMode

    config, shape = true_width(4)
    with FakeTensorMode(allow_non_fake_inputs=True), Allocations() as allocations:
        model = build_model(config, torch.float32, checkpointing)
        measured = peak_of_step(model, num_tokens, True, allocations)
    setup = Setup("single", 1, num_tokens, checkpointing=checkpointing)
    assert measured == pytest.approx(expected_peak(shape, setup), rel=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(("checkpointing", "tolerance"), [("full", 0.03), ("none", 0.06)])
def test_peak_of_a_true_width_step_with_adapters(monkeypatch, checkpointing, tolerance):
    import torch
    from allocations import Allocations, peak_of_step
    from torch._subclasses.fake_tensor import FakeTensorMode

    peft = pytest.importorskip("peft")
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_, **__: self)  # of which fake tensors are not capable
    config, shape = true_width(4)
    with FakeTensorMode(allow_non_fake_inputs=True), Allocations() as allocations:
        base = build_model(config, torch.bfloat16, checkpointing)
        model = peft.get_peft_model(base, peft.LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
        model.enable_input_require_grads()
        measured = peak_of_step(model, 16384, True, allocations)
    setup = Setup("single", 1, 16384, checkpointing=checkpointing, lora_rank=16)
    assert measured == pytest.approx(expected_peak(shape, setup), rel=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", ["full", "none"])
def test_peak_of_a_real_step_on_the_cpu(checkpointing):
    """Real tensors in float32."""
    import torch
    from allocations import Allocations, peak_of_step
    from transformers import AutoConfig

    config = AutoConfig.for_model("qwen2", **SMALL | {"intermediate_size": 8192, "vocab_size": 512})
    shape = ModelShape.from_config(config.to_dict(), "qwen2")
    with Allocations() as allocations:
        model = build_model(config, torch.float32, checkpointing)
        measured = peak_of_step(model, 2048, False, allocations)
    setup = Setup("single", 1, 2048, checkpointing=checkpointing, precision="float32")
    assert measured == pytest.approx(expected_peak(shape, setup), rel=0.05)
