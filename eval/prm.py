"""Process reward models: one probability that a step is right, for every step of a solution.

Three kinds are known by the architecture in the model's config.json:

    ...ForTokenClassification   two classes a token (TRL's PRMTrainer); the second is "right"
    ...ForProcessRewardModel    the same with a two-layer head (Qwen2.5-Math-PRM; its own code is not run)
    ...ForCausalLM              answers by one of two tokens after each step (Math-Shepherd), or by one token's logit
                                alone (the llemma model that REBASE was published with)

The score of a step is read at the last token of the tag that follows it. How question, steps and tags are put together
is the model's own affair: see `eval.scorers.ScorerConfig`, and configs/scorer for known models.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

from core.config import UserError
from eval.scorers import ScorerConfig
from inference import checkpoint

Judged = tuple[list[float], int]  # (a probability for each step, tokens read)


class Backend(Protocol):
    """Logits [steps][1 or 2] at the given positions of each text: of (wrong, right), or of "right" alone."""

    def logits(self, token_ids: list[list[int]], positions: list[list[int]]) -> list[list[list[float]]]: ...

    def close(self) -> None: ...


class Prm:
    """A process reward model with its own tokenizer."""

    def __init__(self, config: ScorerConfig, tokenizer: Any, backend: Backend):
        self.config, self.tokenizer, self.backend = config, tokenizer, backend

    def judge(self, solutions: Sequence[tuple[str, Sequence[str]]]) -> list[Judged]:
        """solutions: (question, steps). In batches of texts of like length, which changes no score (float32 rounding
        aside)."""
        texts = [self.encode(question, steps or ("",)) for question, steps in solutions]
        judged: list[Judged] = [([], 0)] * len(texts)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i][0]))
        for start in range(0, len(order), self.config.batch_size):
            batch = order[start : start + self.config.batch_size]
            logits = self.backend.logits([texts[i][0] for i in batch], [texts[i][1] for i in batch])
            for i, steps in zip(batch, logits, strict=True):
                judged[i] = [probability(step) for step in steps], len(texts[i][0])
        return judged

    def encode(self, question: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
        """(token ids, the position of each step's tag). Raises UserError for a text longer than the context."""
        read = self._encode_pieces if self.config.in_pieces else self._encode_text
        ids, positions = read(question, steps)
        if len(ids) > self.config.max_model_len:
            raise UserError(
                f"scorer: {len(steps)} steps for {question[:60]!r} are {len(ids)} tokens, more than "
                f"scorer.max_model_len={self.config.max_model_len}; raise it, and run this again"
            )
        return ids, positions

    def _encode_pieces(self, question: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
        bos, tag = self.tokenizer.bos_token_id, self._ids(self.config.step_tag)
        ids = ([] if bos is None else [bos]) + self._ids(self.config.prompt.replace("{question}", question))
        positions = []
        for step in steps:
            ids += self._ids(step) + tag
            positions.append(len(ids) - 1)
        return ids, positions

    def _encode_text(self, question: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
        before, after = self._around(question)
        ends, text = [], before
        for step in steps:
            text += (self.config.between if ends else "") + step + self.config.step_tag
            ends.append(len(text))
        with_bos = self.config.prompt is not None  # a chat template writes its own
        encoding = self.tokenizer(text + after, add_special_tokens=with_bos, return_offsets_mapping=True)
        positions = [encoding.char_to_token(end - 1) for end in ends]
        return encoding["input_ids"][: positions[-1] + 1], positions  # what comes after the last tag changes nothing

    def _around(self, question: str) -> tuple[str, str]:
        """Text before and after the steps."""
        if self.config.prompt is not None:
            return self.config.prompt.replace("{question}", question), ""
        here = "\x00"
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": here}]
        if self.config.system is not None:
            messages.insert(0, {"role": "system", "content": self.config.system})
        before, after = self.tokenizer.apply_chat_template(messages, tokenize=False).split(here)
        return before, after

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def close(self) -> None:
        self.backend.close()


def probability(logits: Sequence[float]) -> float:
    """That a step is right, by the logits of (wrong, right), or by one logit alone."""
    margin = logits[0] if len(logits) == 1 else logits[1] - logits[0]
    return 1 / (1 + math.exp(-margin)) if margin >= 0 else math.exp(margin) / (1 + math.exp(margin))


def load_prm(config: ScorerConfig) -> Prm:
    """Raises UserError for a model that is none, and for a way of asking that does not fit it."""
    path = checkpoint.resolve(config.model, config.revision)
    tokenizer = checkpoint.load_tokenizer(path)
    checkpoint.check_context(path, config.max_model_len)
    if config.prompt is None and not tokenizer.chat_template:
        raise UserError(
            f"{path} has no chat template; give scorer.prompt, the text before the steps, with {{question}}"
        )
    architecture = checkpoint.architecture_of(path)
    answers = answer_ids(config, tokenizer)
    if architecture.endswith("ForCausalLM") != bool(answers):
        wanted = "needs scorer.good_token" if not answers else "has classes: leave scorer.good_token and bad_token out"
        raise UserError(f"{path}: {architecture} {wanted}")
    if not architecture.endswith(("ForCausalLM", "ForTokenClassification", "ForProcessRewardModel")):
        raise UserError(f"{path}: {architecture} is no process reward model")
    if config.backend == "vllm":
        from eval.prm_backends import VllmBackend as load
    else:
        from eval.prm_backends import TransformersBackend as load
    return Prm(config, tokenizer, load(path, architecture, answers, config))


def answer_ids(config: ScorerConfig, tokenizer: Any) -> list[int]:
    """Ids of a causal model's answers, (wrong, right) or right alone; none for a model with classes."""
    texts = [text for text in (config.bad_token, config.good_token) if text is not None]
    ids = [tokenizer.convert_tokens_to_ids(text) for text in texts]
    unknown = [text for text, i in zip(texts, ids, strict=True) if i is None or i == tokenizer.unk_token_id]
    if unknown:
        raise UserError(f"scorer: {unknown[0]!r} is no token of {config.model}; write it as its vocabulary does")
    return ids
