"""From messages as clients send them to messages as chat templates read them."""

import json
from collections.abc import Sequence
from typing import Any

from inference.api import ApiError, ChatMessage


def template_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Their contents strings, the arguments of tool calls objects. Raises ApiError for what no template can write."""
    return [_message(message.model_dump(exclude_none=True), i) for i, message in enumerate(messages)]


def _message(message: dict[str, Any], number: int) -> dict[str, Any]:
    where = f"messages[{number}]"
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_part_text(part, f"{where}.content[{i}]") for i, part in enumerate(content))
    if content is None and message["role"] != "assistant":
        raise ApiError(f"{where}.content is missing", f"{where}.content")
    message |= {"content": content or ""}
    if message["role"] == "developer":
        message["role"] = "system"  # OpenAI's newer name; templates know the older one
    if "tool_calls" in message:
        message["tool_calls"] = [_tool_call(call) for call in message["tool_calls"]]
    return message


def _part_text(part: dict[str, Any], where: str) -> str:
    if part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise ApiError(f"{where}: parts of type text alone are supported", where, code="unsupported_parameter")
    return part["text"]


def _tool_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        return call | {"function": function | {"arguments": json.loads(function["arguments"])}}
    except (ValueError, RecursionError):  # a model may have written anything; the template gets it as it is
        return call
