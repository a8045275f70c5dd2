"""Budget forcing inside a vLLM that is not ours: a logits processor, loaded by its name.

    PYTHONPATH=<this repository> vllm serve <model> --logits-processors inference.vllm_processor:BudgetForcing

Requests carry their budget in `vllm_xargs` (HTTP) or `SamplingParams.extra_args`; those without are left alone:

    {"messages": [...], "vllm_xargs": {"max_thinking_tokens": 2000, "num_ignore": 1, "ignore_text": "Wait"}}

Keys as in `inference.budget.Budget`: max_thinking_tokens (a number or "auto"), min_thinking_tokens, num_ignore,
ignore_text, cue, answer_reserve (512: kept free of thinking, in the context and in max_tokens). The profile is the
`thinking_profile` of the model's config.json (`--hf-overrides '{"thinking_profile": "s1"}'` gives it one), else what
fits its tokenizer. Thinking starts where the prompt ends; where the template has not opened it, the opening is written
first. What is sampled follows the request's own temperature, top-p, top-k and min-p (inference/forced_rows.py); in the
thinking phase an end of turn is an end of thinking.

vLLM has two interfaces for processors, by its model runner; one name serves both. Interruptions: V1 hands a request
back as the same object, and its state with it. V2 does not; a request that comes back is read again, and an ignore
text that the model had written by itself then counts as ignored.
"""

import difflib
import hashlib
import random
from collections.abc import Sequence
from typing import Any

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p

from core.chat import ChatFormat, detect_profile
from inference import checkpoint
from inference.budget import Budget
from inference.forced_rows import CLOSE, START, ForcedRows, Rules, forced_texts, opened_prompts

try:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as LogitsProcessorV2
except ModuleNotFoundError:  # before vLLM 0.31
    LogitsProcessorV2 = object

NUMBERS = ("max_thinking_tokens", "min_thinking_tokens", "num_ignore", "answer_reserve")
TEXTS = ("ignore_text", "cue")
MAX_TEXT_BYTES = 256
ANSWER_RESERVE = 512
# vLLM applies these after custom processors, or lets them decide beside us: {field: its neutral value}
REFUSED = {
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repetition_penalty": 1,
    "structured_outputs": None,
    "thinking_token_budget": None,
    "trace_decode_token_ids": None,
}


def budget_of(extra_args: dict[str, Any] | None) -> Budget | None:
    """The budget that a request asks for; None where it asks for none. Raises ValueError for what is no budget."""
    given = {name: value for name, value in (extra_args or {}).items() if name in NUMBERS + TEXTS}
    for name in (extra_args or {}).keys() - given.keys():
        if close := difflib.get_close_matches(name, NUMBERS + TEXTS, n=1, cutoff=0.8):
            raise ValueError(f"vllm_xargs: {name} is unknown; did you mean {close[0]}?")
    if not given:
        return None
    for name, value in given.items():
        if name in TEXTS and not (isinstance(value, str) and len(value.encode()) <= MAX_TEXT_BYTES):
            raise ValueError(f"{name}={value!r:.80}: expected a text of at most {MAX_TEXT_BYTES} bytes")
        if name in NUMBERS and type(value) is not int and (name, value) != ("max_thinking_tokens", "auto"):
            raise ValueError(f"{name}={value!r:.80}: expected a whole number")
    reserve = given.setdefault("answer_reserve", ANSWER_RESERVE)
    if given.get("ignore_text") == "":
        raise ValueError("ignore_text is empty: an end of thinking can only be replaced by something")
    if reserve < 1:
        raise ValueError(f"answer_reserve={reserve}: at least one token is needed for an answer")
    return Budget(**given, max_answer_tokens=reserve)


def check(params: SamplingParams) -> None:
    """Raises ValueError, which vLLM answers with HTTP 400, for a budget that cannot be kept."""
    budget = budget_of(params.extra_args)
    if budget is None:
        return
    for name, neutral in REFUSED.items():
        if (value := getattr(params, name, None)) not in (None, neutral):
            raise ValueError(f"{name}={value!r:.80} cannot be combined with a thinking budget here")
    too_short = params.max_tokens is not None and params.max_tokens <= budget.answer_reserve
    if too_short and budget.max_thinking_tokens != 0:
        raise ValueError(
            f"max_tokens={params.max_tokens} leaves nothing for thinking, as answer_reserve={budget.answer_reserve} of "
            "them are kept for the answer; raise max_tokens or lower answer_reserve"
        )


def rules_of(params: SamplingParams, budget: Budget, chat: ChatFormat, num_prompt: int, max_model_len: int) -> Rules:
    texts = forced_texts(chat, budget.ignore_text, budget.cue)
    room = max_model_len - num_prompt
    room = room if params.max_tokens is None else min(room, params.max_tokens)
    room -= max(map(len, texts[CLOSE:])) + budget.answer_reserve
    limit = budget.max_thinking_tokens if type(budget.max_thinking_tokens) is int else room
    # vLLM seeds `random` alike on all ranks, which must draw alike; after an interruption new noise is as good
    seed = random.getrandbits(63) if params.seed is None else params.seed
    key = int.from_bytes(hashlib.blake2b(repr(seed).encode(), digest_size=8).digest(), "little") >> 1
    return Rules(
        texts,
        (max(0, min(limit, room - len(texts[START]))), max(0, min(limit, room))),
        min(budget.min_thinking_tokens, max_model_len),
        min(budget.num_ignore, max_model_len),
        key,
        params.temperature,
        params.top_p,
        max(0, params.top_k),
        params.min_p,
    )


def _forced_rows(vllm_config: Any, num_slots: int, device: torch.device) -> ForcedRows:
    model = vllm_config.model_config
    tokenizer = checkpoint.load_tokenizer(model.tokenizer)
    profile = getattr(model.hf_config, "thinking_profile", None) or detect_profile(tokenizer, model.model)
    return ForcedRows(ChatFormat(profile, tokenizer), num_slots, model.get_vocab_size(), device, apply_top_k_top_p)


class BudgetForcing(LogitsProcessor, LogitsProcessorV2):
    """What vLLM loads. Builds the processor of the interface that it is called by."""

    def __new__(cls, vllm_config: Any, *where: Any):
        return _V2(vllm_config, *where) if len(where) == 1 else _V1(vllm_config, *where)

    @classmethod
    def validate_params(cls, params: SamplingParams) -> None:
        check(params)


class _Request:
    """One that is, or was, in the batch. output_ids: vLLM's own list, which grows. state: kept while it is not."""

    def __init__(self, rules: Rules, output_ids: list[int], state: torch.Tensor):
        self.rules, self.output_ids, self.state = rules, output_ids, state
        self.slot: int | None = None


class _V1(LogitsProcessor):
    """For vLLM's first model runner: it tells of every change of its batch."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool):
        num_slots = vllm_config.scheduler_config.max_num_seqs
        self._max_model_len = vllm_config.model_config.max_model_len
        self._forced = _forced_rows(vllm_config, num_slots, torch.device(device))
        self._opened = opened_prompts(self._forced.chat)
        self._by_row: dict[int, _Request] = {}
        self._free = list(range(num_slots))

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        for row in [*batch_update.removed, *(row for row, *_ in batch_update.added)]:
            self._leave(row)
        for row, *request in batch_update.added:
            self._enter(row, *request)
        for a, b, direction in batch_update.moved:
            moved = {b: self._by_row.pop(a, None)}
            other = self._by_row.pop(b, None)
            if direction == MoveDirectionality.SWAP:
                moved[a] = other
            self._by_row |= {row: request for row, request in moved.items() if request is not None}

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        ours = {row: r for row, r in self._by_row.items() if len(r.output_ids) < r.rules.num_forcible}
        if ours:
            num_outputs = self._forced.to_device([len(r.output_ids) for r in ours.values()])
            self._forced.force(logits, list(ours), [r.slot for r in ours.values()], num_outputs)
        return logits

    def _leave(self, row: int) -> None:
        request = self._by_row.pop(row, None)
        if request is not None:
            request.state = self._forced.state(request.slot)
            self._free.append(request.slot)
            request.slot = None

    def _enter(self, row: int, params: SamplingParams, prompt_ids: list[int] | None, output_ids: list[int]) -> None:
        budget = budget_of(params.extra_args)
        if budget is None:
            return
        # vLLM hands an interrupted request back with the same object of parameters. Samples of one prompt may share
        # it; those alike in every token so far are also alike in law, so either state will do.
        known = vars(params).setdefault("budget_forcing", [])
        request = next((r for r in known if r.slot is None and _same(r.output_ids, output_ids)), None)
        if request is None:
            num_prompt = len(prompt_ids or ())
            rules = rules_of(params, budget, self._forced.chat, num_prompt, self._max_model_len)
            is_open = prompt_ids is None or any(_ends_with(prompt_ids, opened) for opened in self._opened)
            request = _Request(rules, output_ids, self._forced.to_device(rules.new_state(is_open)))
            known.append(request)
        request.output_ids, request.slot = output_ids, self._free.pop()
        self._by_row[row] = request
        self._forced.put(request.slot, request.rules)
        self._forced.set_state(request.slot, request.state)


class _V2(LogitsProcessorV2):
    """For vLLM's second model runner: slots that are recycled, and the tokens of all requests on the device."""

    def __init__(self, vllm_config: Any, requests: "LogitsProcRequestState"):
        if vllm_config.speculative_config is not None:
            raise ValueError("BudgetForcing follows no drafts; start vLLM without speculative decoding")
        self._max_model_len = vllm_config.model_config.max_model_len
        self._requests = requests
        self._forced = _forced_rows(vllm_config, requests.max_num_reqs, requests.device)
        self._opened = opened_prompts(self._forced.chat)
        self._new: dict[int, Rules] = {}

    def add_request(self, slot: int, params: SamplingParams) -> bool:
        budget = budget_of(params.extra_args)
        self._forced.rules[slot] = None
        self._new.pop(slot, None)
        if budget is None:
            return False
        num_prompt = int(self._requests.prompt_len.np[slot])
        self._new[slot] = rules_of(params, budget, self._forced.chat, num_prompt, self._max_model_len)
        return True

    def apply_staged_writes(self) -> None:
        for slot, rules in self._new.items():
            ids = self._requests.all_token_ids.gpu[slot]
            num_prompt, num_read = (int(x.np[slot]) for x in (self._requests.prompt_len, self._requests.prefill_len))
            is_open = self._is_open(ids, num_prompt)
            state = torch.where(is_open, *(self._forced.to_device(rules.new_state(x)) for x in (True, False)))
            if num_read > num_prompt:  # it was interrupted, which is rare enough to wait for its tokens
                output_ids = ids[num_prompt:num_read].tolist()
                state = self._forced.to_device(rules.replayed(self._forced.chat, bool(is_open), output_ids))
            self._forced.put(slot, rules)
            self._forced.set_state(slot, state)
        self._new.clear()

    def apply(self, logits: torch.Tensor, ctx: "LogitsContext") -> torch.Tensor:
        rows, slots = [], []  # without drafts a request has one row
        num_seen = ctx.seq_lens_upper_bound_np[: len(ctx.idx_mapping_np)]  # vLLM rounds the batch up
        num_outputs = num_seen - self._requests.prompt_len.np[ctx.idx_mapping_np]
        for row, slot in enumerate(ctx.idx_mapping_np.tolist()):
            rules = self._forced.rules[slot]
            if rules and num_outputs[row] < rules.num_forcible:
                rows.append(row)
                slots.append(slot)
        if rows:
            who = self._forced.to_device(slots)
            num_outputs = self._requests.total_len.gpu[who].long() - self._requests.prompt_len.gpu[who].long()
            self._forced.force(logits, rows, slots, num_outputs)
        return logits

    def _is_open(self, ids: torch.Tensor, num_prompt: int) -> torch.Tensor:
        found = torch.zeros((), dtype=torch.bool, device=ids.device)
        for opened in self._opened:
            if len(opened) <= num_prompt:
                found |= (ids[num_prompt - len(opened) : num_prompt] == self._forced.to_device(opened)).all()
        return found


def _ends_with(ids: Sequence[int], end: tuple[int, ...]) -> bool:
    return len(end) <= len(ids) and tuple(ids[len(ids) - len(end) :]) == end


def _same(ours: Sequence[int], theirs: Sequence[int]) -> bool:
    """Are these the outputs of one request? Of ours the last may be missing in theirs, dropped as vLLM interrupted it,
    and -1 is a token that vLLM had not yet read back."""
    return len(ours) - len(theirs) in (0, 1) and all(a in (b, -1) for a, b in zip(ours, theirs, strict=False))
