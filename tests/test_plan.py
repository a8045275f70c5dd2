"""train.plan: the steps of train.sft, what does not go together or fit, and what does."""

import json
import re
import statistics
from pathlib import Path

import pytest
from some_traces import some_traces
from tiny_model import weightless_model
from tiny_tokenizer import SPECIAL_TOKENS, tiny_tokenizer

from core.config import UserError, load
from core.types import write_jsonl
from train.lengths import draw_lengths, read_histogram
from train.plan import PlanConfig, as_published, check_cluster, main, make_plan, read
from train.sft import SftConfig, prepare
from train.steps import Layout

ROOT = Path(__file__).parent.parent
S1K = ROOT / "configs/train/lengths/s1k.csv"
S1_32B = str(ROOT / "configs/train/s1-32b.yaml")


@pytest.fixture(autouse=True)
def outputs(monkeypatch, tmp_path):
    monkeypatch.setattr("core.runs.OUTPUTS", tmp_path / "outputs")
    monkeypatch.setattr("train.plan.OVERLAYS", ROOT / "configs/train/parallel")


@pytest.fixture
def local(tmp_path) -> list[str]:
    """Arguments that name a model folder without weights, and traces."""
    folder = tmp_path / "model"
    weightless_model(folder, max_position_embeddings=2048)
    write_jsonl(tmp_path / "traces.jsonl", some_traces())
    return ["name=tiny", f"model={folder}", f"data={tmp_path}/traces.jsonl", "max_length=2048"]


def config_of(*args: str) -> PlanConfig:
    return load(PlanConfig, list(args))


def drawn(*args: str) -> PlanConfig:
    return config_of(S1_32B, f"lengths={S1K}", *args)


def few(*args: str) -> PlanConfig:
    return drawn("num_rows=48", *args)


def plan_of(config: PlanConfig):
    check_cluster(config)
    shape, rows = read(config)
    return make_plan(config, shape, rows.lengths)


@pytest.mark.slow
def test_the_paper_on_sixteen_gpus():
    config = drawn()
    shape, rows = read(config)
    plan = make_plan(config, shape, rows.lengths)
    assert (plan.num_steps, plan.num_visits) == (315, 5040)
    assert plan.layout == Layout(16, 4, 1)
    assert plan.flops == pytest.approx(5.78e18, rel=0.02)  # by hand: 28 M tokens of 5.6K a row
    assert plan.balance >= 0.95
    assert plan.fits
    assert plan.minutes == pytest.approx(16, rel=0.03)  # 15.2 of computing, over balance
    published = as_published(config, shape, rows.lengths)
    assert published.layout == Layout(16, 1, 1)
    assert published.balance == pytest.approx(0.72, abs=0.01)
    assert published == plan_of(drawn("sequence_parallel=1", "accumulation=1"))


def test_lengths_follow_the_histogram():
    lengths = draw_lengths(read_histogram(S1K), 900, seed=0)
    assert len(lengths) == 1000
    assert statistics.fmean(lengths) == pytest.approx(4699 + 900, rel=0.01)  # of simplescaling/s1K
    assert lengths != draw_lengths(read_histogram(S1K), 900, seed=1)
    many = draw_lengths(read_histogram(S1K), 900, seed=0, num_rows=5000)
    assert len(many) == 5000
    assert statistics.fmean(many) == pytest.approx(5599, rel=0.02)
    r1 = draw_lengths(read_histogram(S1K.with_name("s1.1.csv")), 0, seed=0)
    assert statistics.fmean(r1) == pytest.approx(9285, rel=0.01)
    assert max(r1) <= 26235


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("first,last\n1,2\n", "must be first_token,last_token,count"),
        ("first_token,last_token,count\n1,x,3\n", "'1,x,3' is not three whole numbers"),
        ("first_token,last_token,count\n9,2,3\n", "'9,2,3' is no bin"),
        ("first_token,last_token,count\n1,2,0\n", "counts no rows"),
    ],
)
def test_wrong_histograms_are_refused(tmp_path, text, message):
    (tmp_path / "lengths.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_histogram(tmp_path / "lengths.csv")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nodes=3"], "batch_size=16 cannot be divided evenly over 24 devices"),
        (["nodes=1", "gpus=6", "sequence_parallel=4"], "sequence_parallel=4 does not divide the 6 devices"),
        (["nodes=2", "sequence_parallel=16"], "does not divide the model's 40 attention and 8 key-value heads"),
        (["gpu=H1000"], "gpu=H1000 is unknown; known: H100, "),
        (["nodes=0"], "nodes=0 gpus=8 leaves nothing"),
        (["mfu=40"], "mfu=40.0 is a share"),
        (["backend=single"], "backend=single is for one device"),
        (["max_length=4096"], r"of 1000 lengths drawn from .* are over max_length=4096"),
        (["lengths=none.csv"], "lengths=none.csv does not exist"),
        (["model=./none"], "model=./none does not exist"),
    ],
)
def test_what_does_not_go_together_is_refused(args, message):
    with pytest.raises(UserError, match=message):
        plan_of(drawn(*args))


def test_cut_lengths_are_planned_as_cut():
    config = drawn("max_length=4096", "truncate=true")
    _, rows = read(config)
    assert max(rows.lengths) == 4096


def test_the_plan_is_that_of_training(local, monkeypatch):
    monkeypatch.setattr("inference.checkpoint.check_weights", lambda path: None)  # it has none
    monkeypatch.setenv("WORLD_SIZE", "4")
    trained = prepare(load(SftConfig, local))
    monkeypatch.delenv("WORLD_SIZE")
    plan = plan_of(config_of(*local, "nodes=2", "gpus=2"))
    assert plan.layout == trained.batches.layout
    assert plan.tokens == sum(trained.tokens)
    assert plan.flops == sum(trained.flops)
    passes = [micro for step in trained.batches.passes for micro in step]
    widths = [sum(len(trained.batches.rows[row]["input_ids"]) for row in group) for micro in passes for group in micro]
    assert plan.tokens_on_device == -(-max(widths) // plan.layout.sequence_parallel)


def test_wrong_data_and_models_are_refused(local, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match="empty.jsonl holds no traces"):
        read(config_of(*local, f"data={tmp_path}/empty.jsonl"))
    with pytest.raises(UserError, match=r"24 of 24 traces are longer than max_length=20 tokens: "):
        read(config_of(*local, "max_length=20"))
    weightless_model(tmp_path / "model", max_position_embeddings=30)
    with pytest.raises(UserError, match="24 of 24 traces are longer than the context of"):
        read(config_of(*local))
    weightless_model(tmp_path / "model", max_position_embeddings=2048)
    tiny_tokenizer(SPECIAL_TOKENS[:1] + SPECIAL_TOKENS[2:]).save_pretrained(tmp_path / "model")
    for args in (local, [*local, f"lengths={S1K}", "max_length=32768"]):
        with pytest.raises(UserError, match=r"which the tokenizer of .* splits into ordinary text"):
            read(config_of(*args))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "first"),
    [
        (["activation_checkpointing=none"], "activation_checkpointing=full"),
        (["accumulation=1", "sequence_parallel=1", "gpu_memory_gb=43.5"], "sequence_parallel="),
        (["nodes=1", "gpus=4"], "zero3-offload.yaml"),
        (["nodes=1", "gpus=4", "host_memory_gb=300"], "lora.yaml nodes=1 gpus=1"),
        (["nodes=1", "gpus=4", "host_memory_gb=300", "sequence_parallel=4"], "sequence_parallel=null"),
        (["nodes=1", "gpus=1", "gpu_memory_gb=60"], "qlora.yaml"),
    ],
)
def test_what_cannot_fit_is_refused_with_what_does(args, first):
    """The way out that it names is planned again, as a person would."""
    with pytest.raises(UserError, match="GB at the peak .estimate. do not fit into") as error:
        main(few(*args))
    found = re.search(r"what fits: (.*) \(", str(error.value))
    words = found.group(1).split()
    assert first in found.group(1)
    main(few(*args, *words))


@pytest.mark.slow
def test_nothing_fits():
    with pytest.raises(UserError, match="no overlay makes it fit; take larger or more GPUs"):
        main(few("nodes=1", "gpus=1", "gpu_memory_gb=8"))


def test_too_little_host_memory_is_refused():
    with pytest.raises(UserError, match=r"a machine needs 131.1 GB of host memory \(estimate\) and has 100"):
        main(few("host_memory_gb=100"))


def test_a_plan_is_printed_and_kept(capsys):
    path = main(few())
    printed = capsys.readouterr().err
    for label in ("rows", "steps", "layout", "balance", "memory", "host", "network", "time"):
        assert re.search(rf"^{label} ", printed, re.MULTILINE)
    for label in ("memory", "host", "network", "time"):
        assert "estimate" in re.search(rf"^{label} .*", printed, re.MULTILINE).group()
    written = json.loads((path / "plan.json").read_text())
    assert written["memory"]["states"]["checkpoint"] == pytest.approx(393e9, rel=0.01)
    assert written["minutes"] == plan_of(few()).minutes
    assert (path / "DONE").exists()
    assert main(few()) == path
    assert main(few("backend=zero3")) != path  # of training, the backend would not name the folder


@pytest.mark.parametrize("recipe", sorted((ROOT / "configs/train").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_can_be_planned(recipe):
    config = config_of(str(recipe), f"lengths={S1K}", "num_rows=48")
    assert plan_of(config).fits
