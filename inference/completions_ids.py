"""Continuing token ids by a server that takes and returns them: exact. Which servers do: inference/openai_engine.py."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from core.config import UserError
from inference.completions_client import CompletionsClient, ServerFailed
from inference.engine import MAX_LOGIT_BIAS, Delta, Request

NO_PENALTIES = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
WAY_OUT = "engine.retokenize=true sends text instead and encodes what comes back, which is not exact"


class IdCompletions:
    """padding: ids of the model that its tokenizer does not have. They have no text and are never to be sampled."""

    def __init__(self, tokenizer: Any, client: CompletionsClient, padding: range):
        self._tokenizer, self._client = tokenizer, client
        # -100 is the most that the API takes
        self._never = {str(id): -100 for id in padding} if len(padding) <= MAX_LOGIT_BIAS else {}

    async def deltas(self, request: Request) -> AsyncIterator[Delta]:
        """Raises ServerFailed."""
        async with aclosing(self._client.choices(self._fields(request))) as choices:
            async for choice in choices:
                delta = self._delta(choice, request)
                if delta.token_ids or delta.finish_reason:
                    yield delta

    async def probe(self) -> None:
        """Asks for one token after a text, which shows the server's tokenizer, then after the same as ids.

        Raises UserError where ids do not pass, or are of another tokenizer; ServerFailed.
        """
        text = "".join(self._tokenizer.all_special_tokens) + "Wait, 12 + 34 = 46."
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        as_text = {"prompt": text, "max_tokens": 1, "return_token_ids": True, "add_special_tokens": False}
        theirs = (await self._client.first_choice(as_text)).get("prompt_token_ids")
        if not isinstance(theirs, list):
            raise UserError(f"the server returns no token ids (return_token_ids); {WAY_OUT}")
        if theirs not in (ids, self._tokenizer.encode(text)):  # SGLang knows no add_special_tokens
            raise UserError(
                f"the server reads {text!r} as other ids than the tokenizer of model= does; name the model it serves"
            )
        try:
            await self._client.first_choice(self._fields(Request(tuple(ids), 1, frozenset())))
        except ServerFailed as failure:
            if failure.status not in (400, 422):
                raise
            raise UserError(f"the server refuses a prompt of token ids ({failure}); {WAY_OUT}") from None

    def _fields(self, request: Request) -> dict[str, Any]:
        sampling, stops = request.sampling, sorted(request.stop_token_ids)
        fields = {
            "prompt": list(request.prefix),
            "return_token_ids": True,
            "skip_special_tokens": False,
            "max_tokens": request.max_tokens,
            "min_tokens": min(request.min_tokens, request.max_tokens),
            "stop_token_ids": stops,
            # SGLang heeds no stop_token_ids where it ignores EOS
            "ignore_eos": not (stops and self._client.model.owned_by == "sglang"),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "min_p": sampling.min_p,
            **NO_PENALTIES,  # else those of the model's generation_config.json
        }
        if request.seed is not None:
            fields["seed"] = request.seed
        if request.logprobs:
            fields["logprobs"] = 0  # of the sampled id alone
        if self._never:
            fields["logit_bias"] = self._never
        return fields

    def _delta(self, choice: dict[str, Any], request: Request) -> Delta:
        token_ids, reason = choice.get("token_ids"), choice.get("finish_reason")
        if token_ids is None and reason is not None:
            token_ids = []  # an end without anything new
        if not isinstance(token_ids, list) or not all(type(id) is int for id in token_ids):
            raise self._client.malformed(f"token_ids are {token_ids}")
        if reason == "stop" and not (token_ids and token_ids[-1] in request.stop_token_ids):
            named = choice.get("stop_reason", choice.get("matched_stop"))  # vLLM, SGLang
            token_ids = token_ids + [named] * (type(named) is int)
        logprobs = self._logprobs(choice, len(token_ids)) if request.logprobs else None
        return Delta(tuple(token_ids), reason, logprobs=logprobs)

    def _logprobs(self, choice: dict[str, Any], num_ids: int) -> tuple[float, ...]:
        values = tuple((choice.get("logprobs") or {}).get("token_logprobs") or ())
        if len(values) != num_ids:
            raise self._client.malformed(f"{num_ids} token_ids with {len(values)} log-probabilities")
        return values
