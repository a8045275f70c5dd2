"""What clients may send: OpenAI's request bodies with thinking budgets, checked and told apart from what they may not.

No field is ignored: what cannot be honoured is refused by name, except at the value that changes nothing.
"""

import difflib
import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticSerializationError

MAX_STOPS = 16
MIN_TEMPERATURE = 0.01  # below it, and above 0, logits overflow
MAX_SHOWN = 80  # characters of what a client sent that an error repeats

Count = Annotated[int, Field(ge=0)]
OneOrMore = Annotated[int, Field(ge=1)]
# One error is enough: a body of millions of wrong values would give millions. Millions of right ones take seconds.
MAX_ITEMS = 4096
Texts = Annotated[list[str], Field(fail_fast=True, max_length=MAX_ITEMS)]
Ids = Annotated[list[int], Field(fail_fast=True)]
Objects = Annotated[list[dict[str, Any]], Field(fail_fast=True, max_length=MAX_ITEMS)]


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


def shown(text: str) -> str:
    """What a client sent, as an error repeats it."""
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...")


def shutting_down() -> ApiError:
    return ApiError("the server is shutting down", status=503)


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
    min_tokens: Any = None
    logprobs: Any = None
    logit_bias: Any = None
    frequency_penalty: Any = None
    presence_penalty: Any = None
    repetition_penalty: Any = None
    store: Any = None
    service_tier: Any = None


class ChatMessage(_Strict):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Objects | None = None
    name: str | None = None
    tool_calls: Objects | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    # what clients send back of an earlier answer
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: list[Any] | None = None


class ChatRequest(_Body):
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)]
    max_completion_tokens: OneOrMore | None = None
    tools: Objects | None = None
    chat_template_kwargs: dict[str, Any] | None = None  # as vLLM and SGLang name it
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
    prompt: str | Texts | Ids | Annotated[list[Ids], Field(fail_fast=True, max_length=MAX_ITEMS)]
    best_of: Any = None
    echo: Any = None
    suffix: Any = None


# the values, beside null, at which a field that is not supported changes nothing
NEUTRAL: dict[str, Sequence[Any]] = {
    "min_tokens": (0,),
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


# what to do instead, where there is something
WAYS_OUT = {
    "min_tokens": "min_thinking_tokens is the least length of thinking",
    "response_format": "describe the format in the messages",
    "enable_thinking": "send it inside chat_template_kwargs",
}


def check_supported(body: _Body) -> None:
    """Raises ApiError for a field that would have to be ignored."""
    for name, values in NEUTRAL.items():
        value = getattr(body, name, None)
        # False == 0 in Python, and logprobs=0 of completions asks for something
        if value is not None and not any(value == v and type(value) in (type(v), float) for v in values):
            way_out = f"{WAYS_OUT[name]}; leave it out" if name in WAYS_OUT else "leave it out"
            way_out += f", or send {' or '.join(map(json.dumps, values))}" if values else ""
            raise ApiError(f"{name} is not supported here; {way_out}", name, code="unsupported_parameter")


def check_unicode(body: _Body) -> None:
    """Raises ApiError for a field with a text that is none: JSON can write half of a surrogate pair."""
    for name in body.model_fields_set:
        try:
            body.model_dump_json(include={name})
        except PydanticSerializationError:
            raise ApiError(f"{name}: not valid Unicode (a lone surrogate)", name) from None


Body = TypeVar("Body", bound=_Body)


def read(raw: bytes, schema: type[Body]) -> Body:
    """The request that a body holds. Raises ApiError for anything else."""
    try:
        fields = _parse(raw)
    except (ValueError, RecursionError):
        raise ApiError("the body is not JSON") from None
    unknown = [name for name in fields if name not in schema.model_fields] if isinstance(fields, dict) else []
    if unknown:
        raise _unknown_field(unknown[0], schema)  # not one error for each of them
    try:
        return schema.model_validate(fields)
    except ValidationError as error:
        raise refusal_of(error.errors(), schema) from None


def _parse(raw: bytes) -> Any:
    """With a body of millions of lists, nine tenths of the time would go to the garbage collector, for nothing."""
    gc.disable()
    try:
        return json.loads(raw)
    finally:
        gc.enable()


def refusal_of(errors: Sequence[Any], schema: type[BaseModel]) -> ApiError:
    """Of pydantic's errors, which may quote what was sent, the first in words that do not."""
    error = errors[0]
    known = _field_names(schema)
    path = [part for part in error["loc"] if isinstance(part, int) or part in known]
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".") or None
    if error["type"] == "extra_forbidden":
        return _unknown_field(str(error["loc"][-1]), schema)
    return ApiError(f"{param or 'the body'}: {error['msg']}", param)


def _unknown_field(name: str, schema: type[BaseModel]) -> ApiError:
    near = difflib.get_close_matches(name[:MAX_SHOWN], _field_names(schema), n=1)
    hint = f"; {WAYS_OUT[name]}" if name in WAYS_OUT else f"; did you mean {near[0]!r}?" if near else ""
    return ApiError(f"unknown field {shown(name)}{hint}", name[:MAX_SHOWN], code="unknown_parameter")


def _field_names(schema: type[BaseModel]) -> set[str]:
    return {*schema.model_fields, *ChatMessage.model_fields, *StreamOptions.model_fields}
