"""Process reward models: what is read where, and that transformers and vLLM read the same."""

import importlib.util
import math
import random
from pathlib import Path

import pytest
from tiny_model import tiny_model
from tiny_tokenizer import tiny_tokenizer

from core.config import UserError, load
from eval.prm import Prm, load_prm, probability
from eval.run import EvalConfig
from eval.scorers import ScorerConfig, check_scorer

CONFIGS = Path(__file__).parents[1] / "configs" / "scorer"

QUESTION = "How many legs do 3 spiders have?"
STEPS = ["3 spiders", "a spider has 8 legs", "3 * 8 = 24", "Answer: 24"]
KINDS = {
    "token": {"prompt": "{question}", "in_pieces": True},
    "process": {"step_tag": "<|endoftext|>"},
    "causal": {"prompt": "{question} ", "step_tag": " <think>", "between": "\n", "good_token": "3", "bad_token": "8"},
    "one logit": {"prompt": "{question}\n\n", "step_tag": "\n\n", "good_token": "3"},
}


def some_solutions(num: int) -> list[tuple[str, list[str]]]:
    rng = random.Random(0)
    return [(QUESTION, [rng.choice(STEPS) for _ in range(rng.randint(1, 6))]) for _ in range(num)]


def tiny_prm(folder, kind: str):
    """A random model of one of the known kinds."""
    if kind in ("causal", "one logit"):
        return tiny_model(folder, kind="qwen2", spare_ids=0, tie_word_embeddings=kind == "one logit")
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForTokenClassification

    tiny_model(folder, kind="qwen2", spare_ids=0)
    model = AutoModelForTokenClassification.from_pretrained(folder, num_labels=2)
    torch.nn.init.normal_(model.score.weight)
    torch.nn.init.normal_(model.score.bias)
    model.save_pretrained(folder)
    if kind == "process":
        weights = load_file(folder / "model.safetensors")
        weights = {name: value for name, value in weights.items() if not name.startswith("score")}
        for name, shape in {"0.weight": (64, 64), "0.bias": (64,), "2.weight": (2, 64), "2.bias": (2,)}.items():
            weights[f"score.{name}"] = torch.randn(shape) / 4
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        config = (folder / "config.json").read_text()
        (folder / "config.json").write_text(config.replace("Qwen2ForTokenClassification", "Qwen2ForProcessRewardModel"))
    return folder


class TagCounter:
    """Instead of a model: the logit of a step is the number of ids up to its tag."""

    def logits(self, token_ids, positions):
        return [[[float(position)] for position in row] for row in positions]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_read_at_the_last_token_of_each_tag(kind):
    tokenizer = tiny_tokenizer()
    prm = Prm(ScorerConfig(kind="prm", **KINDS[kind]), tokenizer, TagCounter())
    ids, positions = prm.encode(QUESTION, STEPS)
    tag, between = KINDS[kind].get("step_tag", "\n"), KINDS[kind].get("between", "")
    texts = [tokenizer.decode(ids[: position + 1]) for position in positions]
    for i, text in enumerate(texts):
        written = (tag + between).join(STEPS[: i + 1]) + tag
        assert text.endswith(written) or (kind == "process" and text.replace("<|endoftext|>", tag).endswith(written))
        assert QUESTION in text
    assert positions[-1] == len(ids) - 1, "nothing is read after the last tag"


def test_a_step_without_text_is_judged_and_a_long_one_refused():
    prm = Prm(ScorerConfig(kind="prm", prompt="{question}", max_model_len=20), tiny_tokenizer(), TagCounter())
    [(scores, num_tokens)] = prm.judge([("12 + 34", [])])
    assert len(scores) == 1 and num_tokens > 3
    with pytest.raises(UserError, match="scorer.max_model_len=20"):
        prm.judge([(QUESTION, STEPS)])


def test_probability_of_two_classes_and_of_one_logit():
    assert probability([1.0, 3.0]) == pytest.approx(math.exp(3) / (math.exp(1) + math.exp(3)))
    assert probability([0.0]) == 0.5
    assert probability([-800.0]) == pytest.approx(0.0) and probability([800.0]) == 1.0


def test_a_way_of_asking_that_does_not_fit_is_refused(tmp_path):
    from tiny_model import weightless_model

    weightless_model(tmp_path, architectures=["Qwen2ForCausalLM"])
    with pytest.raises(UserError, match="needs scorer.good_token"):
        load_prm(ScorerConfig(kind="prm", model=str(tmp_path), max_model_len=64))
    weightless_model(tmp_path, architectures=["Qwen2ForTokenClassification"])
    with pytest.raises(UserError, match="leave scorer.good_token"):
        load_prm(ScorerConfig(kind="prm", model=str(tmp_path), good_token="3", max_model_len=64))
    with pytest.raises(UserError, match="'good' is no token"):
        load_prm(ScorerConfig(kind="prm", model=str(tmp_path), good_token="good", max_model_len=64))


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_configs_of_known_models_fit(file):
    config = load(EvalConfig, [str(file), "name=x", "model=m"]).scorer
    check_scorer(config)
    assert config.model and config.kind == "prm"


def naive(folder, kind: str, solutions):
    """One forward pass for every step, of the text up to its tag alone."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    prm = Prm(ScorerConfig(kind="prm", **KINDS[kind]), tokenizer, TagCounter())
    weights = load_file(folder / "model.safetensors")
    loader = {"token": AutoModelForTokenClassification, "process": AutoModel}.get(kind, AutoModelForCausalLM)
    model = loader.from_pretrained(folder)
    scores = []
    for question, steps in solutions:
        ids, positions = prm.encode(question, steps)
        scores.append([])
        for position in positions:
            with torch.no_grad():
                out = model(torch.tensor([ids[: position + 1]]))
            if kind == "process":
                hidden = torch.relu(
                    out.last_hidden_state[0, -1] @ weights["score.0.weight"].T + weights["score.0.bias"]
                )
                logits = hidden @ weights["score.2.weight"].T + weights["score.2.bias"]
            else:
                logits = out.logits[0, -1]
            if kind == "causal":
                logits = logits[tokenizer.convert_tokens_to_ids(["8", "3"])]
            if kind == "one logit":
                scores[-1].append(torch.sigmoid(logits[tokenizer.convert_tokens_to_ids("3")]).item())
            else:
                scores[-1].append(torch.softmax(logits, dim=-1)[1].item())
    return scores


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ["transformers", "vllm"])
def test_a_backend_reads_what_the_naive_way_reads(tmp_path, kind, backend):
    if backend == "vllm" and importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed on this platform")
    folder, solutions = tiny_prm(tmp_path, kind), some_solutions(9)
    config = ScorerConfig(
        kind="prm", model=str(folder), backend=backend, dtype="float32", max_model_len=256, batch_size=4, **KINDS[kind]
    )
    prm = load_prm(config)
    try:
        judged = prm.judge(solutions)
        backwards = prm.judge(solutions[::-1])[::-1]
    finally:
        prm.close()
    expected = naive(folder, kind, solutions)
    assert [len(scores) for scores, _ in judged] == [len(steps) for _, steps in solutions]
    flat = [score for scores, _ in judged for score in scores]
    assert flat == pytest.approx([score for scores in expected for score in scores], abs=1e-4)
    assert flat == pytest.approx([score for scores, _ in backwards for score in scores], abs=1e-4), "order matters not"
    assert max(flat) - min(flat) > 0.05, "otherwise the equality says little"
