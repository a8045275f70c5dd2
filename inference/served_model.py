"""From a request's body to decodings: budgets, prompts as token ids, and limits. Knows nothing of HTTP."""

import copy
import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from core.chat import ChatFormat
from core.config import UserError
from inference.api import (
    MAX_STOPS,
    MIN_TEMPERATURE,
    ApiError,
    ChatRequest,
    CompletionRequest,
    check_supported,
    check_unicode,
    shown,
)
from inference.api_messages import template_messages
from inference.budget import Budget, derived_seed, thinking_limit
from inference.engine import Engine, Sampling
from inference.serve_config import BUDGET_FIELDS, ServeConfig
from inference.stream import StreamedDecode

DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's, for a completion that says nothing
ASKING = (*BUDGET_FIELDS, "thinking_token_budget", "reasoning_effort")  # for a budget
Body = ChatRequest | CompletionRequest


@dataclass(frozen=True)
class Work:
    """What a request asks of the engine. decodings: n for each prompt, those of one prompt side by side.

    cut_by_max_tokens: of each decoding, whether max_tokens ends it before the context does.
    thinks: whether there is a thinking phase to tell about.
    """

    decodings: list[StreamedDecode]
    cut_by_max_tokens: list[bool]
    num_prompt_tokens: int
    thinks: bool

    def ended(self, index: int) -> str | None:
        """Why thinking ended; None where there was none."""
        ended = self.decodings[index].ended if self.thinks else None
        return "max_tokens" if ended == "context" and self.cut_by_max_tokens[index] else ended


class ServedModel:
    """One model behind one name. chat: its format. engine: for its limits alone."""

    def __init__(self, name: str, chat: ChatFormat, engine: Engine, config: ServeConfig):
        self.name, self.chat, self._config = name, chat, config
        self.max_model_len, self._num_token_ids = engine.max_model_len, engine.num_token_ids
        self._plain = ChatFormat("plain", chat.tokenizer)  # continues a text as it is
        longest_token = max(map(len, chat.tokenizer.get_vocab()))
        self._max_chars = self.max_model_len * longest_token  # a longer prompt has too many tokens for certain

    def work(self, body: Body) -> Work:
        """Raises ApiError for what is refused. Takes long for a long prompt: not for the event loop."""
        check_supported(body)
        check_unicode(body)
        self._check_n(body)
        if body.model is not None and body.model != self.name:
            message = f"the model {shown(body.model)} does not exist; this server has {self.name!r}"
            raise ApiError(message, "model", 404, "model_not_found")
        if isinstance(body, ChatRequest):
            rendered = self._rendered(body)
            if self.chat.closes_thinking(rendered) and body.chat_template_kwargs:
                ids, budget = self.chat.encode(rendered), self._no_thinking(body)
                return self._work(body, [ids], budget, self._plain, _max_tokens(body))
            budget = self._budget(body, self.chat)
            return self._work(body, [self.chat.opened_ids(rendered)], budget, self.chat, _max_tokens(body))
        if self._asks_for_budget(body):
            budget = self._budget(body, self.chat)
            prompts = self._prompt_ids(body, add_special_tokens=False)
            return self._work(body, prompts, budget, self.chat, body.max_tokens, raw=True)
        budget = Budget(None, cue="", max_answer_tokens=self.max_model_len, answer_reserve=1)
        prompts = self._prompt_ids(body, add_special_tokens=True)
        return self._work(body, prompts, budget, self._plain, body.max_tokens or DEFAULT_COMPLETION_TOKENS)

    # budgets

    def _asks_for_budget(self, body: Body) -> bool:
        return any(getattr(body, field) is not None for field in ASKING)

    def _budget(self, body: Body, chat: ChatFormat) -> Budget:
        """What the request says, over what its reasoning_effort means, over the server's defaults. The answer's
        reserve is settled when the prompt is known."""
        config = self._config
        values = {field: getattr(config, field, None) for field in BUDGET_FIELDS}
        values["max_answer_tokens"] = config.max_answer_tokens or self.max_model_len
        values |= self._effort(body.reasoning_effort)
        if body.thinking_token_budget is not None:
            if body.max_thinking_tokens not in (None, body.thinking_token_budget):
                raise ApiError("max_thinking_tokens and thinking_token_budget differ: send one", "max_thinking_tokens")
            values["max_thinking_tokens"] = body.thinking_token_budget
        values |= {field: value for field in BUDGET_FIELDS if (value := getattr(body, field)) is not None}
        if values["num_ignore"] and values["num_ignore"] > config.max_num_ignore:
            raise ApiError(f"num_ignore: at most {config.max_num_ignore} on this server", "num_ignore")
        is_forced = bool(values["num_ignore"] or values["min_thinking_tokens"])
        limit = self._within(thinking_limit(values.pop("max_thinking_tokens"), chat.name, is_forced))
        if limit is None:
            values["cue"] = ""  # the whole turn is the answer
        return Budget(limit, **{field: value for field, value in values.items() if value is not None})

    def _no_thinking(self, body: ChatRequest) -> Budget:
        """The whole turn is the answer. Raises ApiError where the request says how to think all the same."""
        for field in ASKING:
            if field != "max_answer_tokens" and getattr(body, field) is not None:
                raise ApiError(f"{field}: chat_template_kwargs switch thinking off; leave out one of the two", field)
        longest = body.max_answer_tokens or self._config.max_answer_tokens or self.max_model_len
        return Budget(None, cue="", max_answer_tokens=longest)

    def _effort(self, effort: str | None) -> dict[str, Any]:
        if effort is None:
            return {}
        if effort not in self._config.efforts:
            known = ", ".join(self._config.efforts)
            raise ApiError(f"reasoning_effort {shown(effort)} is unknown; known: {known}", "reasoning_effort")
        return self._config.efforts[effort]

    def _within(self, limit: int | str | None) -> int | str | None:
        """Where the server has a limit, "auto" is that, and more is refused."""
        most = self._config.max_thinking_limit
        if most is None or limit is None:
            return limit
        if limit != "auto" and limit > most:
            raise ApiError(f"max_thinking_tokens: at most {most} on this server", "max_thinking_tokens")
        return most if limit == "auto" else limit

    # prompts

    def _rendered(self, body: ChatRequest) -> str:
        messages = template_messages(body.messages)
        tools = None if body.tool_choice == "none" else body.tools
        variables = body.chat_template_kwargs or {}
        more = [json.dumps(given) for given in (tools, variables) if given]
        self._check_text("messages", *(message["content"] for message in messages), *more)
        if tools and not self.chat.takes_tools:
            raise ApiError("this model's chat template takes no tools", "tools", code="unsupported_parameter")
        if variables:
            self._check_variables(variables)
        try:
            return self.chat.render(messages, tools, variables)
        except UserError as error:  # it names the model's folder, which is not the client's business
            reason = str(error).replace(str(self.chat.tokenizer.name_or_path), self.name)
            raise ApiError(reason, "messages") from None

    def _check_variables(self, names: Iterable[str]) -> None:
        known = self.chat.template_variables
        for name in names:
            if name not in known:
                reads = ", ".join(sorted(known)) or "nothing of that kind"
                message = f"chat_template_kwargs: the chat template reads no {shown(name)}; it reads {reads}"
                raise ApiError(message, "chat_template_kwargs", code="unsupported_parameter")

    def _prompt_ids(self, body: CompletionRequest, add_special_tokens: bool) -> list[list[int]]:
        """A text that a budget applies to is a rendered chat already: it takes no more special tokens."""
        prompts = _prompts(body)
        self._check_text("prompt", *(text for text in prompts if isinstance(text, str)))
        encode = self.chat.tokenizer.encode
        return [encode(p, add_special_tokens=add_special_tokens) if isinstance(p, str) else p for p in prompts]

    def _check_n(self, body: Body) -> None:
        """Before anything is done for each of them."""
        num_prompts = len(_prompts(body)) if isinstance(body, CompletionRequest) else 1
        if num_prompts == 0:
            raise ApiError("prompt: there is nothing in it", "prompt")
        if body.n * num_prompts > self._config.max_n:
            raise ApiError(f"n: at most {self._config.max_n} samples a request on this server, over all prompts", "n")

    def _check_text(self, param: str, *texts: str) -> None:
        """Raises ApiError for what is too long for certain, before the work of reading it."""
        if sum(map(len, texts)) > self._max_chars:
            message = f"{param}: far more text than the context of {self.max_model_len} tokens holds"
            raise ApiError(message, param, code="context_length_exceeded")

    def _check_prompt(self, ids: list[int], param: str) -> None:
        if not ids:
            raise ApiError(f"{param}: there is nothing in it", param)
        if min(ids) < 0 or max(ids) >= self._num_token_ids:
            raise ApiError(f"{param}: token ids go from 0 to {self._num_token_ids - 1}", param)

    # decodings

    def _work(
        self, body: Body, prompts: list, budget: Budget, chat: ChatFormat, max_tokens: int | None, raw: bool = False
    ) -> Work:
        if body.ignore_eos:
            chat = _without_end_of_turn(chat)
        stop, sampling = self._stop(body), self._sampling(body)
        seed = random.getrandbits(63) if body.seed is None else body.seed
        param = "messages" if isinstance(body, ChatRequest) else "prompt"
        decodings, cut_by_max_tokens = [], []
        for prompt in prompts:
            self._check_prompt(prompt, param)
            most = self.max_model_len if max_tokens is None else min(self.max_model_len, len(prompt) + max_tokens)
            fitted = self._fit(budget, body, chat, len(prompt), most, param)
            for _ in range(body.n):
                own_seed = derived_seed(seed, len(decodings))
                decodings.append(StreamedDecode(prompt, fitted, chat, most, sampling, own_seed, stop=stop, raw=raw))
                cut_by_max_tokens.append(most < self.max_model_len)
        thinks = decodings[0].phase == "thinking" or decodings[0].ended is not None
        return Work(decodings, cut_by_max_tokens, sum(map(len, prompts)), thinks)

    def _fit(self, budget: Budget, body: Body, chat: ChatFormat, num_prompt: int, most: int, param: str) -> Budget:
        """The budget with an answer that fits: as many tokens as asked for are kept free for it; of an answer without
        a limit, `answer_reserve`, or half of the room where that is less."""
        num_close = len(chat.close_ids(forced=True, cue=budget.cue))
        room = most - num_prompt - num_close
        asked = body.max_answer_tokens
        if room < (asked or 1):
            needs = f"ending thinking takes {num_close} tokens" if num_close else "an answer takes one"
            needs += f", the answer {asked}" if asked else ""
            if most < self.max_model_len:
                raise ApiError(f"max_tokens={most - num_prompt} is too small: {needs}", "max_tokens")
            raise ApiError(
                f"{param}: {num_prompt} tokens are too many for a context of {most} ({needs})",
                param,
                code="context_length_exceeded",
            )
        longest = budget.max_answer_tokens
        reserve = asked or min(self._config.answer_reserve, max(1, room // 2), longest)
        return replace(budget, max_answer_tokens=longest, answer_reserve=reserve)

    def _sampling(self, body: Body) -> Sampling:
        default = self._config.sampling
        given = {name: value for name in vars(default) if (value := getattr(body, name)) is not None}
        sampling = replace(default, **given)
        if 0 < sampling.temperature < MIN_TEMPERATURE:
            raise ApiError(f"temperature: 0, or at least {MIN_TEMPERATURE}", "temperature")
        return replace(sampling, top_k=min(max(0, sampling.top_k), self._num_token_ids))

    def _stop(self, body: Body) -> list[str]:
        stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
        if len(stop) > MAX_STOPS or not all(stop):
            raise ApiError(f"stop: up to {MAX_STOPS} texts, none of them empty", "stop")
        return stop


def _max_tokens(body: ChatRequest) -> int | None:
    given = {value for value in (body.max_tokens, body.max_completion_tokens) if value is not None}
    if len(given) > 1:
        raise ApiError("max_tokens and max_completion_tokens differ: send one", "max_completion_tokens")
    return next(iter(given), None)


def _prompts(body: CompletionRequest) -> list[str] | list[list[int]]:
    """prompt is a text, ids, or a list of either."""
    prompt = body.prompt
    return [prompt] if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)) else prompt


def _without_end_of_turn(chat: ChatFormat) -> ChatFormat:
    """A copy in which nothing but the delimiter of thinking and the limits end anything."""
    chat = copy.copy(chat)
    chat.stop_token_ids -= chat.end_of_turn_ids
    chat.end_of_turn_ids = frozenset()
    return chat
