"""Serves a model over OpenAI's API, with thinking budgets by request.

    python -m inference.serve model=outputs/train/<run>/model
    python -m inference.serve model=Qwen/Qwen3-8B port=8001 engine.max_model_len=32768
    API_KEYS=key1,key2 python -m inference.serve model=... host=0.0.0.0 api_keys_env=API_KEYS

    curl http://127.0.0.1:8000/v1/chat/completions -H "content-type: application/json" -d '{
        "messages": [{"role": "user", "content": "How many r in raspberry?"}],
        "max_thinking_tokens": 512, "num_ignore": 1, "stream": true}'

Endpoints: /v1/chat/completions, /v1/completions, /v1/models, /health, /metrics. Ctrl-C or SIGTERM ends it; an engine
that fails ends it too, with status 1, so that whoever supervises it starts it anew.
"""

import signal
import socket
import sys
import traceback
from dataclasses import replace
from pathlib import Path

from core import log
from core.config import UserError, run_entry
from inference.api_keys import ApiKeys, read_api_keys
from inference.serve_config import ServeConfig, check


def main(config: ServeConfig) -> None:
    check(config)
    api_keys = read_api_keys(config.api_keys_env)
    listener = bind(config.host, config.port)  # before the model is loaded, which takes minutes
    log.say(f"loading {config.model}")

    from inference import checkpoint
    from inference.engine import load_engine
    from inference.served_model import ServedModel

    path = checkpoint.resolve(config.model, config.engine.revision, weights=False)
    chat = checkpoint.load_chat(config.model, path, config.profile)
    context = checkpoint.context_within(path, config.engine.max_model_len)
    engine, _ = load_engine(config.model, replace(config.engine, max_model_len=context), chat.tokenizer)
    served = ServedModel(config.served_model_name or name_of(config.model), chat, engine, config)
    announce(config, served, listener)
    try:
        failure = run(engine, served, config, api_keys, listener)
        if failure is not None:
            traceback.print_exception(failure.__cause__)
            print(f"error: {failure}; the server ends, and its clients were told", file=sys.stderr, flush=True)
            raise SystemExit(1)
    finally:
        engine.close()
    log.say("server ended")


def run(engine, served, config: ServeConfig, api_keys: ApiKeys | None, listener: socket.socket) -> Exception | None:
    """Serves until a signal comes, or the engine fails; then returns why."""
    import uvicorn

    from inference.http_limits import uvicorn_config
    from inference.server import create_app

    failures = []

    def end(failure: Exception) -> None:
        failures.append(failure)
        server.should_exit = True

    app = create_app(engine, served, config, api_keys, on_failure=end)
    server = uvicorn.Server(uvicorn_config(app, config))
    # uvicorn ends by raising the signal that ended it once more; for us that is an ordinary end
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listener])
    return failures[0] if failures else None


def name_of(model: str) -> str:
    """A hub id as it is; of a folder its name alone (that of the run, for <run>/model), not where it lies."""
    path = Path(model).expanduser()
    if not path.is_dir():
        return model
    path = path.resolve()
    return path.parent.name if path.name == "model" else path.name


def bind(host: str, port: int) -> socket.socket:
    """Raises UserError for an address that cannot be had."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise UserError(f"cannot listen at {host}, port {port}: {error.strerror}; choose another port=...") from None
    return listener


def announce(config: ServeConfig, served, listener: socket.socket) -> None:
    host = f"[{config.host}]" if ":" in config.host else config.host
    url = f"http://{host}:{listener.getsockname()[1]}"
    found = "as asked" if config.profile else "found from the model"
    thinking = "context" if config.max_thinking_limit is None else config.max_thinking_limit
    key = ' -H "authorization: Bearer $KEY"' if config.api_keys_env else ""
    log.say(f"model    {served.name}")
    log.say(f"profile  {served.chat.name} ({found}; profile=... names another)")
    log.say(
        f"limits   context {served.max_model_len} tokens, thinking {thinking}, {config.engine.max_num_seqs} samples at "
        f"a time and {config.max_queue} waiting, {config.max_n} a request, bodies of {config.max_body_bytes:,} bytes"
    )
    log.say(f"keys     {f'those in {config.api_keys_env}' if config.api_keys_env else 'none are asked for'}")
    log.say(f"address  {url}/v1")
    log.say(
        f"try      curl {url}/v1/chat/completions{key} -H 'content-type: application/json' -d "
        """'{"messages": [{"role": "user", "content": "What is 12 + 34?"}], "max_thinking_tokens": 256}'"""
    )


if __name__ == "__main__":
    run_entry(main, ServeConfig, __doc__)
