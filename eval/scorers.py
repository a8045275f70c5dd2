"""How good is a path of thinking? A number between 0 and 1 for search, best-of-N and the weighted vote.

    mean_logprob   how likely its tokens were to the model that sampled them: exp of their mean log-probability. Needs
                   no second model and reads no token.
    prm            a process reward model judges every step (eval/prm.py)

Scores of a model are kept by text in the run's scorer.jsonl: no text is read twice, whoever asks and however often the
run is resumed.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from core.config import UserError, option
from core.journal import Journal
from core.runs import Run

KINDS = ("mean_logprob", "prm")
AGGREGATES = ("last", "min", "prod")


@dataclass(frozen=True)
class ScoredPath:
    """What there is to judge. steps: as text, without delimiters; of a finished path the answer is the last one.

    mean_logprob: of all sampled tokens, natural logarithm; None where it was not recorded.
    """

    question: str
    steps: tuple[str, ...]
    mean_logprob: float | None = None


class Scorer(Protocol):
    """reads_text: it judges the steps, else the log-probability alone. num_read: tokens really read in this sitting."""

    name: str
    reads_text: bool
    num_read: int

    def score(self, paths: Sequence[ScoredPath]) -> list[float]:
        """One value between 0 and 1 a path, higher being better. No value depends on the others in the list."""
        ...

    def num_tokens(self, path: ScoredPath) -> int:
        """How many tokens were read to score this path. Asked after `score`."""
        ...

    def close(self) -> None: ...


@dataclass
class ScorerConfig:
    """A scorer. Everything below `aggregate` is about the process reward model, and how it was trained to be asked."""

    kind: str = option("mean_logprob", help="mean_logprob, or prm: a process reward model")
    model: str | None = option(None, help="prm: local folder or hub id")
    backend: str = option("transformers", help="prm: transformers or vllm")
    aggregate: str = option("last", help="scores of the steps to one: last, min or prod")
    step_delimiter: str = option("\n\n", help="where the thinking of a whole sample is cut into steps")
    prompt: str | None = option(None, help="text before the steps, with {question}; null: the model's chat template")
    system: str | None = option(None, help="system message, with a chat template")
    step_tag: str = option("\n", help="written after every step; the score is read at its last token")
    between: str = option("", help="written between a tag and the next step")
    in_pieces: bool = option(False, help="prompt, steps and tags are tokenized one by one, as TRL's PRMTrainer does")
    good_token: str | None = option(None, help="causal model: its answer for a good step; null: it has classes instead")
    bad_token: str | None = option(None, help="and for a bad one; null: good_token's logit is a score by itself")
    revision: str | None = option(None, help="hub revision, when the model is a hub id")
    dtype: str = option("auto", help="auto (the checkpoint's), bfloat16, float32, float16")
    max_model_len: int = option(4096, help="question and steps, in its own tokens", affects_result=False)
    batch_size: int = option(8, help="texts read at a time", affects_result=False)
    options: dict[str, Any] = option({}, help="passed verbatim to the backend")


class MeanLogprob:
    name = "mean_logprob"
    reads_text = False
    num_read = 0

    def score(self, paths: Sequence[ScoredPath]) -> list[float]:
        for path in paths:
            if path.mean_logprob is None:
                raise UserError(f"scorer: no log-probability was recorded for a sample of {path.question[:60]!r}")
        return [math.exp(path.mean_logprob) for path in paths]

    def num_tokens(self, path: ScoredPath) -> int:
        return 0

    def close(self) -> None:
        pass


class ModelScorer:
    """Scores by a process reward model, each text once.

    journal: of the run; what it holds is not asked again. The model is loaded when the first unknown text comes.
    """

    reads_text = True

    def __init__(self, config: ScorerConfig, journal: Journal):
        self.name = f"prm {config.model} {config.aggregate}"
        self.config, self.num_read = config, 0
        self._journal, self._model = journal, None
        self._known = {row["key"]: (row["score"], row["num_tokens"]) for row in journal.rows}

    def score(self, paths: Sequence[ScoredPath]) -> list[float]:
        unknown = {key: path for path in paths if (key := self._key(path)) not in self._known}
        if unknown:
            self._read(unknown)
        return [self._known[self._key(path)][0] for path in paths]

    def num_tokens(self, path: ScoredPath) -> int:
        return self._known[self._key(path)][1]

    def close(self) -> None:
        """Frees the model; it is loaded again where another unknown text comes."""
        if self._model is not None:
            self._model.close()
            self._model = None

    def _read(self, unknown: dict[str, ScoredPath]) -> None:
        if self._model is None:
            from eval.prm import load_prm

            self._model = load_prm(self.config)
        judged = self._model.judge([(path.question, path.steps) for path in unknown.values()])
        for key, (step_scores, num_tokens) in zip(unknown, judged, strict=True):
            score = aggregate(step_scores, self.config.aggregate)
            self._known[key] = score, num_tokens
            self._journal.append({"key": key, "score": score, "steps": step_scores, "num_tokens": num_tokens})
            self.num_read += num_tokens

    def _key(self, path: ScoredPath) -> str:
        return hashlib.sha256(json.dumps([path.question, path.steps]).encode()).hexdigest()[:24]


def aggregate(step_scores: Sequence[float], how: str) -> float:
    """Scores of the steps to one for the path."""
    return {"last": lambda s: s[-1], "min": min, "prod": math.prod}[how](step_scores)


def load_scorer(config: ScorerConfig, run: Run) -> Scorer:
    """Loads no model yet. run: its scorer.jsonl keeps what a model said."""
    check_scorer(config)
    if config.kind == "mean_logprob":
        return MeanLogprob()
    return ModelScorer(config, run.journal("scorer.jsonl", can_redo=True))


def check_scorer(config: ScorerConfig) -> None:
    """Raises UserError for a config that fits no scorer."""
    if config.kind not in KINDS or config.aggregate not in AGGREGATES:
        raise UserError(f"scorer: kind is one of {', '.join(KINDS)}, aggregate one of {', '.join(AGGREGATES)}")
    if config.kind == "mean_logprob":
        return
    if config.model is None:
        raise UserError("scorer.kind=prm needs scorer.model, a process reward model")
    if config.backend not in ("transformers", "vllm"):
        raise UserError(f"scorer.backend={config.backend!r} is unknown; use transformers or vllm")
    if (config.prompt is not None or config.in_pieces) and "{question}" not in (config.prompt or ""):
        raise UserError("scorer.prompt needs {question} in it (with in_pieces it cannot be null)")
    if config.in_pieces and config.between:
        raise UserError("scorer.between goes with whole texts; with in_pieces put it into step_tag")
