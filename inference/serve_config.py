"""What a server is told: the keys of inference.serve."""

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from core.config import UserError, option
from inference.budget import Budget
from inference.engine import EngineConfig, Sampling

# fields of Budget that a request may set
BUDGET_FIELDS = ("max_thinking_tokens", "min_thinking_tokens", "num_ignore", "ignore_text", "cue", "max_answer_tokens")
EFFORTS = {
    "none": {"max_thinking_tokens": 0},
    "minimal": {"max_thinking_tokens": 256},
    "low": {"max_thinking_tokens": 1024},
    "medium": {"max_thinking_tokens": 4096},
    "high": {"max_thinking_tokens": "auto"},
}


@dataclass
class ServeConfig:
    model: str = option(help="local folder or hub id")
    profile: str | None = option(None, help="delimiters: s1, think-tags, steps, plain; null: found from the model")
    served_model_name: str | None = option(None, help="what clients call it; null: the name of the model")
    host: str = option("127.0.0.1", help="address to listen at; other than this machine's own needs keys")
    port: int = option(8000, help="0 takes a free one")
    api_keys_env: str | None = option(None, help="environment variable with the keys clients must show, by commas")
    insecure: bool = option(False, help="serve other machines without keys")
    log_requests: bool = option(False, help="a line a request: sizes and times, never texts or keys")
    # what a request gets where it does not say
    max_thinking_tokens: Any = option(None, help="a number, or null: what the context leaves (plain: no thinking)")
    max_answer_tokens: int | None = option(None, help="null: what the context leaves")
    answer_reserve: int = option(512, help="kept free for the answer before thinking starts, at most half of the room")
    ignore_text: str = option("Wait", help="what replaces an ignored end of thinking")
    cue: str = option("\nFinal Answer:", help="written after a forced close")
    sampling: Sampling = option(Sampling, help="temperature 0 is greedy")
    efforts: dict[str, Any] = option(EFFORTS, help="what each reasoning_effort sets")
    # limits
    max_thinking_limit: int | None = option(None, help="most max_thinking_tokens a request gets; null: the context")
    max_num_ignore: int = option(64, help="most num_ignore of a request")
    max_n: int = option(16, help="most samples of a request")
    max_queue: int = option(256, help="samples that wait while all places are taken; then 429")
    max_body_bytes: int = option(10_000_000, help="of a request")
    max_connections: int = option(512, help="beyond it, one that has sent no whole request makes room; or 503")
    request_seconds: float = option(30.0, help="in which a client has to send a whole request")
    send_seconds: float = option(30.0, help="after which a client that does not read its answer is given up")
    keep_alive_seconds: float = option(5.0, help="that a connection may idle between two requests")
    shutdown_seconds: int = option(10, help="what runs may go on for so long after SIGTERM; then it is cancelled")
    engine: EngineConfig = option(EngineConfig, help="how to load the model")


def check(config: ServeConfig) -> None:
    """Raises UserError for a config that could only fail later, or be unsafe."""
    for effort, values in config.efforts.items():
        where = f"efforts.{effort}"
        if not isinstance(values, dict):
            raise UserError(f"{where}: expected keys of a budget ({', '.join(BUDGET_FIELDS)})")
        for key in values:
            if key not in BUDGET_FIELDS:
                raise UserError(f"{where}: unknown key {key!r}; known keys: {', '.join(BUDGET_FIELDS)}")
        _check_budget(values, where)
    _check_budget({"max_thinking_tokens": config.max_thinking_tokens}, "argument")
    for key in ("answer_reserve", "max_n", "max_body_bytes", "max_connections"):
        if getattr(config, key) < 1:
            raise UserError(f"{key} must be at least 1")
    if config.max_n > config.engine.max_num_seqs + config.max_queue:
        raise UserError("max_n samples of one request never fit: raise max_queue or engine.max_num_seqs")
    if not (config.insecure or config.api_keys_env or is_loopback(config.host)):
        raise UserError(
            f"host={config.host} serves other machines: name the environment variable that holds the keys "
            "(api_keys_env=...), or say insecure=true"
        )


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _check_budget(values: dict[str, Any], where: str) -> None:
    try:
        Budget(**values)
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: {error}") from None
