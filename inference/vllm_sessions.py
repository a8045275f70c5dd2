"""Requests that go on in place: vLLM's streaming input, for an engine core inside this process.

Prefix caching finds whole blocks only, so every segment of a sample reads some of its prefix again, and a token read
costs a CPU as much as one written. A request that has ended is therefore held until the next step. Where the next
request of somebody goes on from there, vLLM drops the last sampled token, whose keys and values it has not computed,
appends what is new, and goes on. Greedy requests only: a random stream would go on too, where it has to start anew.
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from inference.engine import Request


@dataclass
class _Session:
    """ids: all that the model has seen and written. num_kept: those that the current request found there."""

    name: str
    vllm_name: str
    logprobs: bool
    ids: list[int] = field(default_factory=list)
    num_kept: int | None = None


class Sessions:
    """engine: vLLM's LLMEngine."""

    def __init__(self, engine: Any):
        self._engine = engine
        self._sessions: dict[str, _Session] = {}
        self._ended: list[_Session] = []  # since the last step

    def submit(self, name: str, request: Request, params: Any) -> str:
        """The name under which its outputs will come: that of the request it goes on from, or `name`."""
        session = next((s for s in self._ended if _goes_on(s, request)), None)
        new_ids = request.prefix if session is None else request.prefix[len(session.ids) - 1 :]
        asked = self._engine.input_processor.process_inputs(
            name if session is None else session.vllm_name,
            {"prompt_token_ids": list(new_ids)},
            params,
            supported_tasks=self._engine.get_supported_tasks(),
            resumable=True,
        )
        if session is None:
            self._engine.input_processor.assign_request_id(asked)
            session = self._sessions[name] = _Session(name, asked.request_id, request.logprobs)
        else:
            self._ended.remove(session)
            asked.external_req_id = session.name
            session.num_kept = len(session.ids) - 1
        session.ids = list(request.prefix)
        # each extends its own list by what comes later; between processes they would not be one
        self._engine.output_processor.add_request(asked, None)
        self._engine.engine_core.add_request(msgspec.structs.replace(asked, prompt_token_ids=list(new_ids)))
        return session.name

    def receive(self, output: Any) -> int | None:
        """Notes what an output of vLLM brings; how many ids its request found there, if it went on from another."""
        session = self._sessions.get(output.request_id)
        if session is None:
            return None
        completion = output.outputs[0]
        session.ids += completion.token_ids
        if completion.finish_reason is not None:
            self._ended.append(session)
        return session.num_kept

    def release(self) -> None:
        """Ends what nobody has gone on from."""
        names = [session.name for session in self._ended]
        self._ended.clear()
        if names:
            self.abort(names)

    def abort(self, names: list[str]) -> None:
        self._engine.abort_request(names)
        for name in names:
            self._sessions.pop(name, None)


def _goes_on(session: _Session, request: Request) -> bool:
    kept = len(session.ids) - 1
    return (
        session.logprobs == request.logprobs
        and kept < len(request.prefix)
        and list(request.prefix[:kept]) == session.ids[:kept]
    )
