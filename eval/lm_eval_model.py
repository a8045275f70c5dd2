"""Any task of lm-evaluation-harness with budget forcing: our engine as its model `s1`, under its own command line.

    python -m eval.lm_eval_model run --model s1 --tasks gsm8k_cot_zeroshot --log_samples --output_path lm_eval \\
        --model_args pretrained=outputs/train/demo-1234abcd/model,max_thinking_tokens=512,num_ignore=1,profile=s1
    python -m eval.lm_eval_model run --model s1 --tasks aime24 --gen_kwargs max_thinking_tokens=2048 --model_args ...

Everything but the model is the harness's (python -m eval.lm_eval_model run --help). --model_args takes:

    pretrained            local folder or hub id
    profile, system       as in eval.run; system also where a task's prompt is wrapped by --apply_chat_template
    max_thinking_tokens, min_thinking_tokens, num_ignore, ignore_text, cue, budget_per_round
                          the budget (inference/budget.py); --gen_kwargs and tasks may set each of them, too
    max_answer_tokens     the answer's limit: the smaller of this (512) and the task's max_gen_toks
    return_thinking       true: responses hold the thinking and the delimiters as well, as the released evaluator's did
    seed                  of the sampling, where a task or --gen_kwargs asks for a temperature above 0
    backend, dtype, max_model_len, max_num_seqs, revision      as `engine` in eval.run
    options               the same, as JSON: --model_args '{"pretrained": ..., "options": {"tensor_parallel_size": 8}}'

A response is the answer alone: thinking that was cut off is never a part of it, and only there the stop strings of a
task (`until`) are looked for. A task's prompt becomes the user's message; with --apply_chat_template the harness builds
the conversation, few-shot turns included, and we render it. Tasks that compare log-likelihoods are refused.
"""

import atexit
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from typing import Any

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from core.chat import ChatFormat
from core.config import UserError
from core.log import Progress, say
from core.types import Sample
from inference.budget import Budget, ForcedDecode, derived_seed
from inference.engine import EngineConfig, Sampling, open_driver

BUDGET_KEYS = frozenset(f.name for f in fields(Budget))
SAMPLING_KEYS = frozenset(f.name for f in fields(Sampling))
ENGINE_KEYS = frozenset(f.name for f in fields(EngineConfig))
HARNESS_KEYS = frozenset({"batch_size", "max_batch_size", "device"})  # the harness passes them to every model
NO_LOGLIKELIHOOD = (
    "the task compares log-likelihoods of given answers, and there is no thinking in those; take a task that "
    "generates its answer (output_type: generate_until), e.g. a variant called ..._cot_zeroshot or ..._generative"
)


@dataclass(frozen=True)
class Settings:
    """How one request is decoded: generation settings of a task over those of the model."""

    budget: Budget
    sampling: Sampling
    until: tuple[str, ...]


def settings_of(budget: Budget, gen_kwargs: Mapping[str, Any]) -> Settings:
    """gen_kwargs: of a task, with those of the command line over them. Raises UserError for a budget that cannot be."""
    from lm_eval.models.utils import normalize_gen_kwargs

    known = normalize_gen_kwargs(dict(gen_kwargs), default_max_gen_toks=budget.max_answer_tokens)
    changes = {key: known[key] for key in BUDGET_KEYS & known.keys()}
    changes["max_answer_tokens"] = min(budget.max_answer_tokens, known["max_gen_toks"])
    sampling = Sampling(**{key: known[key] for key in SAMPLING_KEYS if known.get(key) is not None})
    until = tuple(text for text in known["until"] if text)
    return Settings(checked_budget({**asdict(budget), **changes}), sampling, until)


def checked_budget(values: Mapping[str, Any]) -> Budget:
    """Texts come from a command line, where \\n is two characters. Raises UserError for values that cannot be."""
    texts = {
        key: values[key].replace("\\n", "\n") for key in ("ignore_text", "cue") if isinstance(values.get(key), str)
    }
    try:
        return Budget(**{**values, **texts})
    except (ValueError, TypeError) as error:
        raise UserError(f"budget: {error}") from None


def without_effect(gen_kwargs: Mapping[str, Any]) -> list[str]:
    """Names of generation settings that change nothing here. Raises UserError for a budget in another's words."""
    known = BUDGET_KEYS | SAMPLING_KEYS | {"until", "do_sample", "max_gen_toks", "max_new_tokens", "max_tokens"}
    unknown = sorted(set(gen_kwargs) - known - {"max_completion_tokens"})
    foreign = [key for key in unknown if "thinking" in key or key == "rejection_sample"]
    if foreign:
        raise UserError(f"gen_kwargs: {foreign[0]!r} is unknown; a budget is named by {', '.join(sorted(BUDGET_KEYS))}")
    return unknown


def cut_at(text: str, until: Sequence[str]) -> str:
    """The text up to the first of the stop strings. White space before it is the chat format's, not an answer."""
    text = text.lstrip()
    return text[: min((at for stop in until if (at := text.find(stop)) >= 0), default=len(text))]


@register_model("s1")
class BudgetForcingLM(LM):
    """The engine and one budget as a model of the harness. One process; the engine batches by itself."""

    def __init__(
        self,
        pretrained: str | None = None,
        profile: str = "s1",
        system: str | None = None,
        return_thinking: bool = False,
        seed: int = 0,
        **more: Any,
    ):
        super().__init__()
        if not pretrained:
            raise UserError("--model_args needs pretrained=<local folder or hub id>")
        unknown = sorted(set(more) - BUDGET_KEYS - ENGINE_KEYS - HARNESS_KEYS)
        if unknown:
            raise UserError(f"--model_args: unknown key {unknown[0]!r}; see the first lines of eval/lm_eval_model.py")
        if not isinstance(more.get("options", {}), dict):
            raise UserError("--model_args: options is a mapping, which takes JSON: '{\"options\": {...}, ...}'")
        self.budget = checked_budget({key: value for key, value in more.items() if key in BUDGET_KEYS})
        self.system, self.return_thinking, self.seed = system, return_thinking, seed
        self._told: set[str] = set()
        engine = EngineConfig(**{key: value for key, value in more.items() if key in ENGINE_KEYS})
        resources = ExitStack()
        atexit.register(resources.close)  # the harness never closes its models
        driver = open_driver(pretrained, engine, writer=f"lm-eval-{os.getpid()}")
        self.driver, self.tokenizer = resources.enter_context(driver)
        self.chat = ChatFormat(profile, self.tokenizer)
        # what a rendered conversation ends in, so that one that the harness has rendered is known
        self._turn_end = self._render([{"role": "user", "content": "\0"}]).rpartition("\0")[2]

    # What the harness calls

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        settings = [self._settings(request.args[1]) for request in requests]
        responses = [""] * len(requests)
        ended: Counter[str] = Counter()
        with Progress("lm-eval", len(requests), "requests") as progress:
            for done, (number, decoding) in enumerate(self.driver.run(self._decodings(requests, settings)), 1):
                sample = decoding.sample()
                ended[sample.ended if sample.answer_finish else f"{sample.ended} without an answer"] += 1
                responses[number] = self._response(sample, settings[number].until)
                self.cache_hook.add_partial("generate_until", requests[number].args, responses[number])
                progress.update(done, f"{sum(self.driver.num_sampled.values()):,} tokens sampled")
        say("lm-eval | thinking ended: " + ", ".join(f"{why} {count}" for why, count in sorted(ended.items())))
        return responses

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        raise UserError(NO_LOGLIKELIHOOD)

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        raise UserError(NO_LOGLIKELIHOOD)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        if not add_generation_prompt:
            raise UserError("the task begins the answer itself (gen_prefix), and thinking would have to come before it")
        if self.system is not None and all(message["role"] != "system" for message in chat_history):
            chat_history = [{"role": "system", "content": self.system}, *chat_history]
        return self._render(chat_history)

    def chat_template(self, chat_template: bool | str = False) -> str:
        return self.tokenizer.chat_template if chat_template else ""

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    @property
    def max_length(self) -> int:
        return self.driver.engine.max_model_len

    # How

    def _decodings(self, requests: Sequence[Any], settings: Sequence[Settings]) -> Iterator[tuple[int, ForcedDecode]]:
        """n samples of a prompt are n equal requests: each has a seed of its own."""
        drawn: Counter[tuple[str, str]] = Counter()
        for number, (request, how) in enumerate(zip(requests, settings, strict=True)):
            prompt, gen_kwargs = request.args
            seed = derived_seed(self.seed, prompt, drawn[prompt, repr(gen_kwargs)])
            drawn[prompt, repr(gen_kwargs)] += 1
            context = self.driver.engine.max_model_len
            yield number, ForcedDecode(self._prompt_ids(prompt), how.budget, self.chat, context, how.sampling, seed)

    def _render(self, messages: list[dict[str, str]]) -> str:
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def _prompt_ids(self, prompt: str) -> list[int]:
        if self._turn_end and prompt.endswith(self._turn_end):  # --apply_chat_template
            return self.chat.opened_ids(prompt)
        return self.chat.prompt_ids(prompt, self.system)

    def _settings(self, gen_kwargs: Mapping[str, Any]) -> Settings:
        for name in without_effect(gen_kwargs):
            if name not in self._told:
                self._told.add(name)
                say(f"lm-eval | generation setting {name}={gen_kwargs[name]!r} has no effect here")
        return settings_of(self.budget, gen_kwargs)

    def _response(self, sample: Sample, until: Sequence[str]) -> str:
        if sample.error:
            say(f"lm-eval | a request failed, its response is empty: {sample.error}")
        answer = cut_at(self.chat.answer_text(sample.ids("answer")), until)
        if not self.return_thinking or self.chat.name == "plain":
            return answer
        profile = self.chat.profile
        thinking = self.chat.decode(sample.ids("thinking")).strip("\n")
        return f"{profile.start}\n{thinking}\n{profile.ends[0]}\n{answer}"


def main() -> None:
    """Hands over to the harness's command line, which finds the model `s1` in its registry now."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
