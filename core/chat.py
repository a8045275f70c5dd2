"""Chat format: the only file that knows a chat token.

Training ids and inference prefixes come from the same pieces, so they cannot drift:

    prompt_ids    = chat template (system, user, assistant header) + start of thinking
    training_ids  = prompt_ids + thinking + close + attempt + end of turn     (labels from the start of thinking on)
    close_ids     = what is appended when thinking ends, by itself or by force
"""

import functools
import re
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from typing import Any

from core.config import UserError
from core.types import Question, Trace

TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")  # ChatML, Llama 3, Gemma, Phi: not always EOS
IGNORE_LABEL = -100  # torch's cross-entropy ignores this label


@dataclass(frozen=True)
class Profile:
    """Delimiters of one family of models.

    start: opens thinking. ends: what the model writes to end it; the first one is what we write to close it.
    before_thinking, after_thinking, before_attempt: text between the delimiters as the model was trained.
    """

    start: str
    ends: tuple[str, ...]
    before_thinking: str = "\n"
    after_thinking: str = "\n"
    before_attempt: str = "\n"


PROFILES = {
    # s1 reuses <|im_start|> with a word, so no token is added (released tokenization.py)
    "s1": Profile(start="<|im_start|>think", ends=("<|im_start|>answer",)),
    # step-conditional control: every step opens with "<|im_start|>64 steps left"; zero steps also ends thinking
    "steps": Profile(start="<|im_start|>", ends=("<|im_start|>answer", "<|im_start|>0"), before_thinking=""),
    # the same without forcing: only the model's own answer ends it, however many steps were asked for
    "steps-unforced": Profile(start="<|im_start|>", ends=("<|im_start|>answer",), before_thinking=""),
    # R1 distills, QwQ, Qwen3
    "think-tags": Profile(start="<think>", ends=("</think>",), before_attempt="\n\n"),
    # an instruct model without thinking tokens: its end of turn is the end of thinking
    "plain": Profile(start="", ends=(), before_thinking="", after_thinking="", before_attempt=""),
}


def detect_profile(tokenizer: Any, model: str = "") -> str:
    """The profile that fits a tokenizer: think-tags where its chat template has such a tag, s1 where the model's name
    says so (s1 models keep Qwen2.5's tokenizer as it is), plain otherwise."""
    template = str(tokenizer.chat_template)
    if "<think>" in template or "</think>" in template:
        return "think-tags"
    if re.search(r"(?<![a-z0-9])s1(\.1)?(?![a-z0-9.])", model.lower()):
        return "s1"
    return "plain"


class ChatFormat:
    """One profile on one tokenizer. Checked when built, before any work starts.

    tokenizer: a transformers tokenizer with a chat template.
    stop_token_ids: ids at which a thinking segment must stop to be looked at.
    end_of_turn_ids: ids that end a turn (EOS, and the template's end of turn where that is another token).
    num_token_ids: ids at or above it have no text and are never to be sampled (Qwen2.5 pads its vocabulary).

    Raises UserError for an unknown profile, a missing chat template, or delimiters the tokenizer cannot express.
    """

    def __init__(self, profile: str, tokenizer: Any):
        if profile not in PROFILES:
            raise UserError(f"profile {profile!r} is unknown; known profiles: {', '.join(PROFILES)}")
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(f"the tokenizer of {tokenizer.name_or_path!r} has no chat template; use an instruct model")
        self.name = profile
        self.profile = PROFILES[profile]
        self.tokenizer = tokenizer
        self._cue_ids = functools.lru_cache(64)(self.encode)  # every sample asks for the same few
        self.num_token_ids = len(tokenizer)
        self.end_of_turn_ids = self._end_of_turn_ids()
        self.ends = tuple(tuple(self.encode(end)) for end in self.profile.ends)
        self._check_delimiters()
        self.stop_token_ids = frozenset(end[0] for end in self.ends) | self.end_of_turn_ids

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def decode(self, ids) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def answer_text(self, ids) -> str:
        """The answer part as people and graders read it: a forced cue belongs to it, the delimiter before it and
        special tokens do not. ids: all answer ids of a sample, forced and sampled."""
        ids = list(self.after_delimiter(tuple(ids)))
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def after_delimiter(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """What follows the delimiter that closes thinking; all of them where there is none."""
        for delimiter in self.ends[:1]:
            starts = range(len(ids) - len(delimiter) + 1)
            at = next((i for i in starts if ids[i : i + len(delimiter)] == delimiter), None)
            return ids if at is None else ids[at + len(delimiter) :]
        return ids

    def prompt_ids(self, question: Question | str, system: str | None = None) -> list[int]:
        """Chat template with generation prompt, then the start of thinking (no newline after it, as s1).

        system: None keeps the template's own default system message.
        """
        return self.opened_ids(self._rendered(question, system))

    def chat_ids(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> list[int]:
        """The same for any chat: `messages` and `tools` as OpenAI's API writes them, and as templates read them.

        Raises UserError where the template refuses the chat, or takes no tools.
        """
        return self.opened_ids(self.render(messages, tools))

    def render(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        variables: dict[str, Any] | None = None,
    ) -> str:
        """A chat as its template writes it, generation prompt included. variables: some of `template_variables`.

        Raises UserError as `chat_ids` does.
        """
        from jinja2 import TemplateError

        name = self.tokenizer.name_or_path
        if tools and not self.takes_tools:
            raise UserError(f"the chat template of {name!r} takes no tools")
        try:
            return self.tokenizer.apply_chat_template(
                messages, tools, tokenize=False, add_generation_prompt=True, **(variables or {})
            )
        except (TemplateError, TypeError, LookupError, ValueError, ArithmeticError) as error:
            # its own refusal, or a message or variable of a kind it cannot write
            raise UserError(f"the chat template of {name!r} refuses these messages: {error}") from None

    def closes_thinking(self, rendered: str) -> bool:
        """Has the template ended thinking before the model begins, as Qwen3's does with enable_thinking=false?"""
        return bool(self.ends) and rendered.rstrip().endswith(self.profile.ends[0])

    @cached_property
    def template_variables(self) -> frozenset[str]:
        """What the chat template reads beside messages, tools and special tokens: switches like enable_thinking, and
        what it sets itself on some of its ways alone."""
        from jinja2 import Environment, meta

        environment = Environment(extensions=["jinja2.ext.loopcontrols"])
        template = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", str(self.tokenizer.chat_template))  # transformers' own
        given = {*signature(self.tokenizer.apply_chat_template).parameters, *self.tokenizer.special_tokens_map}
        given |= {"messages", "raise_exception", "strftime_now", *environment.globals}
        return frozenset(meta.find_undeclared_variables(environment.parse(template)) - given)

    @property
    def takes_tools(self) -> bool:
        """Does the chat template say anything about tools?"""
        return "tools" in str(self.tokenizer.chat_template)

    def opened_ids(self, rendered: str) -> list[int]:
        """A chat as its template renders it, generation prompt included, then the start of thinking."""
        return self.encode(rendered) + self._start_ids(rendered)

    def training_ids(self, trace: Trace, system: str | None = None) -> tuple[list[int], list[int]]:
        """(input_ids, labels), both [num_tokens]. Labels are -100 up to the start of thinking, then the ids:
        loss on thinking, delimiters, answer and end of turn, as s1's collator masked it.

        Raises UserError where the trace contains a delimiter, because a model cannot learn where it ends then.
        """
        thinking, attempt = trace.thinking.strip(), trace.attempt.strip()
        for text in (*self.profile.ends, self.tokenizer.eos_token):
            if text and (text in attempt or text in thinking):
                raise UserError(f"trace of question {trace.question.id} contains the delimiter {text!r}")
        if "Answer:" not in attempt:
            attempt = f"Answer: {attempt}"  # s1 (released tokenization.py)
        p = self.profile
        rendered = self._rendered(trace.question, system)
        body = self._start_ids(rendered)
        opened = rendered.endswith(p.start + p.before_thinking)  # the template wrote the newline too
        body += self.encode(("" if opened else p.before_thinking) + thinking + p.after_thinking)
        body += [*(self.ends[0] if self.ends else ()), *self.encode(p.before_attempt + attempt)]
        body += [self.tokenizer.eos_token_id, *self.encode("\n")]
        header = self.encode(rendered)
        return header + body, [IGNORE_LABEL] * len(header) + body

    def close_ids(
        self, forced: bool, cue: str = "\nFinal Answer:", thinking: tuple[int, ...] | list[int] = ()
    ) -> list[int]:
        """Ids that end thinking. By itself: the delimiter. Forced: a newline if `thinking` does not end in one,
        the delimiter, the cue (released vllm_causallms.py)."""
        delimiter = list(self.ends[0]) if self.ends else []
        if delimiter and not forced:
            return delimiter  # `plain` has none: its close is the cue, also at the model's own end of turn
        newline = self.profile.after_thinking
        if newline and thinking and self.decode(thinking[-4:]).endswith(newline):
            newline = ""
        return [*self._cue_ids(newline), *delimiter, *self._cue_ids(cue)]

    def is_end(self, ids: tuple[int, ...]) -> bool | None:
        """Do these ids, which begin at a stop, end thinking? None: one more token is needed to tell."""
        if ids[0] in self.end_of_turn_ids or ids in self.ends:
            return True
        return None if any(end[: len(ids)] == ids for end in self.ends) else False

    def _rendered(self, question: Question | str, system: str | None) -> str:
        text = question if isinstance(question, str) else question.text
        messages = [{"role": "user", "content": text}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        return self.render(messages)

    def _start_ids(self, rendered: str) -> list[int]:
        # some templates (R1 distills) already open thinking in their generation prompt
        if self.profile.start and rendered.rstrip().endswith(self.profile.start):
            return []
        return self.encode(self.profile.start)

    def _end_of_turn_ids(self) -> frozenset[int]:
        ids = {self.tokenizer.eos_token_id} - {None}
        vocabulary = self.tokenizer.get_vocab()
        ids.update(vocabulary[end] for end in TURN_ENDS if end in vocabulary)
        if not ids:
            raise UserError(f"the tokenizer of {self.tokenizer.name_or_path!r} names no end-of-turn token")
        return frozenset(ids)

    def _check_delimiters(self) -> None:
        for text, ids in zip(self.profile.ends, self.ends, strict=True):
            first = self.decode(ids[:1])
            special = ids[0] in self.tokenizer.all_special_ids or first in self.tokenizer.get_added_vocab()
            if not special or self.decode(ids) != text:
                # which ids ordinary text has depends on its neighbours (" </", ">\n\n"), so that no ids would find it
                raise UserError(
                    f"profile {self.name!r} ends thinking with {text!r}, which the tokenizer of "
                    f"{self.tokenizer.name_or_path!r} splits into ordinary text; choose another profile"
                )
