"""What clients may send: OpenAI's request bodies with thinking budgets, checked and told apart from what they may not.

No field is ignored: what cannot be honoured is refused by name, except at the value that changes nothing.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_STOPS = 16
MIN_TEMPERATURE = 0.01  # below it, and above 0, logits overflow
MAX_SHOWN = 80  # characters of what a client sent that an error repeats

Count = Annotated[int, Field(ge=0)]
OneOrMore = Annotated[int, Field(ge=1)]
# one error is enough: a body of millions of wrong values would give millions
Texts = Annotated[list[str], Field(fail_fast=True)]
Ids = Annotated[list[int], Field(fail_fast=True)]


@dataclass
class ApiError(Exception):
    """Becomes OpenAI's error object. param: the field that is meant."""

    message: str
    param: str | None = None
    status: int = 400
    code: str | None = None

    @property
    def body(self) -> dict[str, Any]:
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(_Strict):
    include_usage: bool = False
    include_obfuscation: bool = False  # padding against eavesdroppers; never added here


class _Body(_Strict):
    """What both endpoints take."""

    model: str | None = None
    n: OneOrMore = 1
    max_tokens: OneOrMore | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: int | None = None
    stop: str | Texts | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False
    return_token_ids: bool = False
    # how long to think: see inference.budget.Budget
    max_thinking_tokens: Count | Literal["auto"] | None = None
    thinking_token_budget: Count | None = Field(None, description="vLLM's name for max_thinking_tokens")
    min_thinking_tokens: Count | None = None
    num_ignore: Count | None = None
    ignore_text: str | None = None
    cue: str | None = None
    max_answer_tokens: OneOrMore | None = None
    reasoning_effort: str | None = None
    # about the caller; these change nothing
    user: str | None = None
    metadata: dict[str, Any] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    # honoured at their neutral value alone: see NEUTRAL
    logprobs: Any = None
    logit_bias: Any = None
    frequency_penalty: Any = None
    presence_penalty: Any = None
    repetition_penalty: Any = None
    store: Any = None
    service_tier: Any = None


class ChatMessage(_Strict):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    # what clients send back of an earlier answer
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: list[Any] | None = None


class ChatRequest(_Body):
    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: OneOrMore | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    top_logprobs: Any = None
    response_format: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    functions: Any = None
    function_call: Any = None
    web_search_options: Any = None
    verbosity: Any = None


class CompletionRequest(_Body):
    prompt: str | Texts | Ids | Annotated[list[Ids], Field(fail_fast=True)]
    best_of: Any = None
    echo: Any = None
    suffix: Any = None


# the values, beside null, at which a field that is not supported changes nothing
NEUTRAL: dict[str, Sequence[Any]] = {
    "logprobs": (False,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "tool_choice": ("auto", "none"),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "functions": ([],),
    "function_call": ("auto", "none"),
    "web_search_options": (),
    "verbosity": ("medium",),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
}


def check_supported(body: _Body) -> None:
    """Raises ApiError for a field that would have to be ignored."""
    for name, values in NEUTRAL.items():
        value = getattr(body, name, None)
        # False == 0 in Python, and logprobs=0 of completions asks for something
        if value is not None and not any(value == v and type(value) in (type(v), float) for v in values):
            allowed = f"; leave it out, or send {' or '.join(map(repr, values))}" if values else "; leave it out"
            raise ApiError(f"{name} is not supported here{allowed}", name, code="unsupported_parameter")


def refusal_of(errors: Sequence[Any], schema: type[BaseModel]) -> ApiError:
    """Of pydantic's errors, which may quote what was sent, the first in words that do not."""
    error = errors[0]
    known = _field_names(schema)
    path = [part for part in error["loc"] if isinstance(part, int) or part in known]
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".") or None
    if error["type"] == "extra_forbidden":
        name = str(error["loc"][-1])[:MAX_SHOWN]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return ApiError(f"unknown field {name!r}{hint}", name, code="unknown_parameter")
    if error["type"] == "json_invalid":
        return ApiError("the body is not JSON")
    return ApiError(f"{param or 'the body'}: {error['msg']}", param)


def _field_names(schema: type[BaseModel]) -> set[str]:
    return {*schema.model_fields, *ChatMessage.model_fields, *StreamOptions.model_fields}
