"""Budget forcing on rows of logits, for engines whose sampler cannot be replaced.

The rules are those of `inference.budget`. A logits processor is asked before the token is drawn, and what filters the
row afterwards (top-k, top-p) must not see a distribution that was changed already. So in every row that is thinking
the token is drawn here, under the request's own temperature, min-p, top-k and top-p, and the row handed back holds
that token alone, or, where an end of thinking was drawn and is to be ignored, the first token of the ignore text.
Rows that are no longer thinking stay as they are. That is exact under any truncation; giving the end's probability to
"Wait", or looking at the most likely token alone, is not (tests/test_vllm_processor.py shows both).

Two rules differ from `inference.budget`, because a token that is out cannot be taken back. A delimiter of several
tokens (s1: <|im_start|>answer) counts from its first token, as in s1's released evaluator, and the others are forced.
And the profile `steps`, where that first token also opens each step, is refused.

Everything is computed on the device, for all rows at once, and nothing waits for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from core.chat import ChatFormat
from core.config import UserError

# What a request is in the middle of: a forced text, thinking, or the answer
START, IGNORE, CLOSE, CUT, CUT_ON_NEW_LINE, THINKING, ANSWER = range(7)
NUM_TEXTS = 5
# Its state. AT: tokens of the forced text that are out. FRESH: an end was just ignored, so that no end follows at
# once. ON_NEW_LINE: thinking ends in a newline. NUM_OUTPUTS: tokens after the prompt that the state has seen.
PHASE, AT, NUM_THINKING, NUM_IGNORED, FRESH, ON_NEW_LINE, NUM_OUTPUTS, LIMIT = range(8)
NUM_COLUMNS = 8
MAX_FORCED = 320  # ids of one forced text: 256 bytes of text, a newline and a delimiter

# (logits [rows, vocabulary], top-k [rows] or None, top-p [rows] or None) -> logits
Truncate = Callable[[torch.Tensor, torch.Tensor | None, torch.Tensor | None], torch.Tensor]


@dataclass(frozen=True)
class Rules:
    """Of one request.

    texts: the ids of the five forced texts, START to CUT_ON_NEW_LINE. limits: of thinking tokens, where START is still
    to be written and where the prompt has opened thinking. key: of its noise, 63 bits. temperature 0 is greedy; top_k 0
    is off.
    """

    texts: tuple[tuple[int, ...], ...]
    limits: tuple[int, int]
    min_thinking_tokens: int = 0
    num_ignore: int = 0
    key: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0

    @property
    def num_forcible(self) -> int:
        """After so many tokens none is ours."""
        return len(self.texts[START]) + max(self.limits) + max(map(len, self.texts[CLOSE:]))

    def new_state(self, is_open: bool) -> list[int]:
        """Before the first token. is_open: the prompt has opened thinking already."""
        return [THINKING if is_open else START, 0, 0, 0, 0, 0, 0, self.limits[is_open]]

    def replayed(self, chat: ChatFormat, is_open: bool, ids: Sequence[int]) -> list[int]:
        """The state after these tokens, as far as they tell it: an ignore text that the model wrote by itself counts
        as forced where it could have been. For an engine that forgets a request when it interrupts it.

        is_open: the prompt has opened thinking already."""
        ids, (start, ignore, close, *_), limit = tuple(ids), self.texts, self.limits[is_open]
        at = 0 if is_open else len(start)
        if len(ids) < at:
            return [START, len(ids), 0, 0, 0, 0, len(ids), limit]
        head = close[:1] if chat.ends else close  # a delimiter shows by its first token, ordinary text by all of it
        phase, num_thinking, num_ignored, num_new = THINKING, 0, 0, 0
        is_ignored = False
        while at < len(ids) and num_thinking < limit and ids[at : at + len(head)] != head:
            too_short = num_thinking < self.min_thinking_tokens
            may_ignore = (too_short or num_ignored < self.num_ignore) and num_thinking + len(ignore) < limit
            is_ignored = may_ignore and ids[at : at + len(ignore)] == ignore[: len(ids) - at]
            num_ignored += is_ignored and not too_short
            num_new = min(len(ignore), len(ids) - at) if is_ignored else 1
            at, num_thinking = at + num_new, num_thinking + num_new
        on_new_line = int(num_thinking > 0 and chat.decode(ids[at - 1 : at]).endswith("\n"))
        is_fresh = is_ignored and num_new == len(ignore)
        num_out = len(ids) - at
        if is_ignored and not is_fresh:
            phase, num_out = IGNORE, num_new
        elif num_out:
            phase = CLOSE if num_thinking < limit else CUT + on_new_line
            if num_out >= len(self.texts[phase]):
                phase, num_out = ANSWER, 0
        return [phase, num_out, num_thinking, num_ignored, int(is_fresh), on_new_line, len(ids), limit]


@lru_cache(maxsize=1024)  # requests differ in their budgets, hardly in their texts
def forced_texts(chat: ChatFormat, ignore_text: str, cue: str) -> tuple[tuple[int, ...], ...]:
    """The ids of START to CUT_ON_NEW_LINE. An end must be replaced by something: in the profile `plain`, whose close is
    the cue alone, an empty cue is a newline."""
    newline = chat.encode("\n")
    return (
        tuple(chat.encode(chat.profile.start)),
        tuple(chat.encode(ignore_text) or newline),
        tuple(chat.close_ids(forced=False, cue=cue) or newline),
        tuple(chat.close_ids(forced=True, cue=cue) or newline),
        tuple(chat.close_ids(forced=True, cue=cue, thinking=newline) or newline),
    )


def opened_prompts(chat: ChatFormat) -> tuple[tuple[int, ...], ...]:
    """How prompts end that have opened thinking, as some templates do; the profile `plain` opens it with nothing."""
    return tuple(tuple(chat.encode(chat.profile.start + space)) for space in ("", "\n", "\n\n"))


class ForcedRows:
    """The requests under forcing, one a slot.

    vocab_size: columns of the logits. truncate: the engine's own top-k and top-p.

    Raises UserError for a profile that cannot be followed.
    """

    def __init__(self, chat: ChatFormat, num_slots: int, vocab_size: int, device: torch.device, truncate: Truncate):
        if chat.name.startswith("steps"):
            raise UserError(f"profile {chat.name!r}: its delimiter begins as a step does, and no token is undone")
        if chat.num_token_ids > vocab_size:
            raise UserError(f"the tokenizer names {chat.num_token_ids} ids, the model knows {vocab_size}")
        self.chat, self.device, self._truncate = chat, device, truncate
        self.rules: list[Rules | None] = [None] * num_slots
        self._num_token_ids = chat.num_token_ids
        self._end_ids = self.to_device(sorted(chat.stop_token_ids))
        self._is_end = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        self._is_end[self._end_ids] = True
        lines = [text.endswith("\n") for text in chat.tokenizer.batch_decode([[i] for i in range(chat.num_token_ids)])]
        self._ends_line = self.to_device([*lines, *[False] * (vocab_size - len(lines))], torch.int64)
        whole = {"dtype": torch.int64, "device": device}
        self._texts = torch.zeros(num_slots, NUM_TEXTS, MAX_FORCED, **whole)
        # minimum, ends to ignore, key, top-k; lengths of the forced texts
        self._numbers = torch.zeros(num_slots, 4 + NUM_TEXTS, **whole)
        self._sampling = torch.ones(num_slots, 3, dtype=torch.float32, device=device)  # temperature, top-p, min-p
        # a row may be asked twice, because the engine drops what a prompt read in pieces samples before its end
        self._state, self._before = torch.zeros(2, num_slots, NUM_COLUMNS, **whole)

    def to_device(self, values: Sequence, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        """Without waiting for the device."""
        on_gpu = self.device.type == "cuda"
        return torch.tensor(values, dtype=dtype, pin_memory=on_gpu).to(self.device, non_blocking=on_gpu)

    @lru_cache(maxsize=1024)  # noqa: B019 lives as long as the engine
    def _padded(self, texts: tuple[tuple[int, ...], ...]) -> torch.Tensor:
        return self.to_device([[*ids, *[0] * (MAX_FORCED - len(ids))] for ids in texts])

    def put(self, slot: int, rules: Rules) -> None:
        """A request takes the slot; `state` says where it stands."""
        self.rules[slot] = rules
        self._texts[slot] = self._padded(rules.texts)
        vocab_size = len(self._is_end)
        top_k = rules.top_k if 0 < rules.top_k < vocab_size else vocab_size
        lengths = [len(ids) for ids in rules.texts]
        numbers = [rules.min_thinking_tokens, rules.num_ignore, rules.key, top_k, *lengths]
        self._numbers[slot] = self.to_device(numbers)
        self._sampling[slot] = self.to_device([rules.temperature, rules.top_p, rules.min_p], torch.float32)

    def state(self, slot: int) -> torch.Tensor:
        """A copy, [2, columns]: now and before the last token."""
        return torch.stack((self._state[slot], self._before[slot]))

    def set_state(self, slot: int, state: torch.Tensor) -> None:
        """state: [columns], or [2, columns] as `state` gives it."""
        both = state.expand(2, NUM_COLUMNS)
        self._state[slot], self._before[slot] = both[0], both[1]

    def force(self, logits: torch.Tensor, rows: Sequence[int], slots: Sequence[int], num_outputs: torch.Tensor) -> None:
        """Decides the next token of these rows of logits [any, vocabulary], in place, and moves their states on.

        num_outputs: [rows], tokens after the prompt so far.
        """
        at_rows, who = self.to_device(rows), self.to_device(slots)
        (minimum, num_ignore, key, top_k), lengths = self._numbers[who, :4].t().contiguous(), self._numbers[who, 4:]
        seen = self._state[who, NUM_OUTPUTS]
        state = torch.where((num_outputs < seen)[:, None], self._before[who], self._state[who])
        phase, at, num_thinking, num_ignored, fresh, on_new_line, _, limit = state.unbind(1)

        phase = torch.where((phase == THINKING) & (num_thinking >= limit), CUT + on_new_line, phase)
        is_thinking = phase == THINKING
        is_answer = phase == ANSWER
        drawn = self._draw(logits[at_rows], slots, who, top_k, fresh, _uniform(key, num_outputs))

        ended = is_thinking & self._is_end[drawn]
        too_short = num_thinking < minimum
        has_room = num_thinking + lengths[:, IGNORE] < limit  # for the ignore text and one more token
        ignored = ended & (too_short | (num_ignored < num_ignore)) & has_room
        phase = torch.where(ended, torch.where(ignored, IGNORE, CLOSE), phase)
        is_forced = phase < NUM_TEXTS
        text = phase.clamp(max=NUM_TEXTS - 1)
        token = torch.where(is_forced, self._texts[who, text, at], drawn)

        target = logits[at_rows].masked_fill_(~is_answer[:, None], -torch.inf)
        kept = torch.where(is_answer, target.gather(1, token[:, None])[:, 0], 0.0)
        logits[at_rows] = target.scatter_(1, token[:, None], kept[:, None])

        at = at + is_forced
        is_over = is_forced & (at == lengths.gather(1, text[:, None])[:, 0])
        counts = (phase == THINKING) | (phase == IGNORE)
        fresh = is_over & (phase == IGNORE)
        on_new_line = torch.where(counts, self._ends_line[token], on_new_line)
        after = torch.where(phase <= IGNORE, THINKING, ANSWER)
        new = (
            torch.where(is_over, after, phase),
            torch.where(is_over, 0, at),
            num_thinking + counts,
            num_ignored + (ignored & ~too_short),
            fresh.long(),
            on_new_line,
            num_outputs + 1,
            limit,
        )
        self._before[who], self._state[who] = state, torch.stack(new, dim=1)

    def _draw(
        self,
        logits: torch.Tensor,
        slots: Sequence[int],
        who: torch.Tensor,
        top_k: torch.Tensor,
        fresh: torch.Tensor,
        uniform: torch.Tensor,
    ) -> torch.Tensor:
        """A token of each row [rows, vocabulary], which is used up: vLLM's order, temperature, min-p, top-k, top-p."""
        logits = logits.float()
        logits[:, self._num_token_ids :] = -torch.inf  # ids without text
        ends = logits[:, self._end_ids]
        logits[:, self._end_ids] = ends.masked_fill(fresh.bool()[:, None], -torch.inf)
        most_likely = logits.argmax(dim=-1)
        rules = [self.rules[slot] for slot in slots]
        if all(r.temperature == 0 for r in rules):
            return most_likely
        temperature, top_p, min_p = self._sampling[who].t().contiguous()
        logits /= torch.where(temperature == 0, 1.0, temperature)[:, None]
        if any(r.min_p for r in rules):
            probs = logits.softmax(dim=-1)
            logits.masked_fill_(probs < min_p[:, None] * probs.amax(dim=-1, keepdim=True), -torch.inf)
        some_k, some_p = any(r.top_k for r in rules), any(r.top_p < 1 for r in rules)
        logits = self._truncate(logits, top_k.int() if some_k else None, top_p if some_p else None)
        cumulated = logits.softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
        sampled = torch.searchsorted(cumulated, uniform[:, None] * cumulated[:, -1:], right=True)[:, 0]
        return torch.where(temperature == 0, most_likely, sampled)


def _uniform(key: torch.Tensor, counter: torch.Tensor) -> torch.Tensor:
    """In [0, 1), float64, a function of (key, counter) alone: SplitMix64's output for the state key + counter * gamma
    (Steele, Lea and Flood, 2014). Products wrap around in int64; shifts are made logical by a mask."""

    def shifted(x: torch.Tensor, bits: int) -> torch.Tensor:
        return (x >> bits) & ((1 << (64 - bits)) - 1)

    x = key + (counter + 1) * _signed(0x9E3779B97F4A7C15)
    x = (x ^ shifted(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ shifted(x, 27)) * _signed(0x94D049BB133111EB)
    x = x ^ shifted(x, 31)
    return shifted(x, 12).double() * 2.0**-52


def _signed(x: int) -> int:
    return x - (1 << 64) if x >> 63 else x
