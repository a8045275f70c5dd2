"""vLLM as an engine: its own LLMEngine, add_request and step, token ids in and out. CUDA and CPU builds."""

import logging
import os
import warnings
from collections.abc import Hashable
from itertools import count
from pathlib import Path
from typing import Any

from core.config import UserError
from core.runs import digest_of
from inference import checkpoint
from inference.engine import MAX_LOGIT_BIAS, Delta, EngineConfig, Request, fingerprint_of
from inference.vllm_sessions import Sessions

# Read when vLLM is first imported. What the caller has set stays.
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}

MAX_CPU_KV_BYTES = 4 << 30
# options that change no result, so that runs with other values share their continuations
SAME_RESULTS = {"gpu_memory_utilization", "kv_cache_memory_bytes", "use_tqdm_on_load"}


class VllmEngine:
    """See `inference.engine.Engine`. `config.options` goes verbatim to vLLM's EngineArgs, over the defaults below.

    On CPU the engine core runs inside this process, so that nothing outlives a kill.
    """

    def __init__(self, path: str | Path, tokenizer: Any, config: EngineConfig):
        if config.batch_invariant:
            os.environ["VLLM_BATCH_INVARIANT"] = "1"
        quiet()
        import vllm
        from vllm.platforms import current_platform
        from vllm.v1.engine.llm_engine import LLMEngine

        checkpoint.check_context(path, config.max_model_len)
        self._is_cpu = current_platform.is_cpu()  # where reading a prefix again costs as much as writing it
        if self._is_cpu:
            if config.batch_invariant:
                raise UserError("engine.batch_invariant needs vLLM on a GPU; on the CPU use engine.dtype=float32")
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        args = _engine_args(path, config) | (cpu_defaults(config) if self._is_cpu else {}) | config.options
        self._engine = LLMEngine.from_engine_args(vllm.EngineArgs(**args))
        self._sessions = Sessions(self._engine)
        self._keys: dict[str, Hashable] = {}
        self._names: dict[Hashable, str] = {}
        self._count = count()

        model = self._engine.vllm_config.model_config
        self.max_model_len = model.max_model_len
        self.num_token_ids = min(len(tokenizer), model.get_vocab_size())
        # padding of the vocabulary (Qwen2.5: some 400 ids) has no text and must not be sampled
        self._never = dict.fromkeys(range(self.num_token_ids, model.get_vocab_size()), float("-inf"))
        if len(self._never) > MAX_LOGIT_BIAS:
            raise UserError(
                f"{path}: the model has {len(self._never)} ids more than its tokenizer, which vLLM cannot mask; "
                "use engine.backend=transformers"
            )
        options = {name: value for name, value in config.options.items() if name not in SAME_RESULTS}
        parts = {"weights": digest_of(path), "dtype": str(model.dtype), "engine": f"vllm {vllm.__version__}",
                 "device": current_platform.device_type,
                 "tensor_parallel_size": self._engine.vllm_config.parallel_config.tensor_parallel_size,
                 "num_token_ids": self.num_token_ids, "options": options,
                 **({"batch_invariant": True} if config.batch_invariant else {})}  # fmt: skip
        self.fingerprint = fingerprint_of(parts)

    def submit(self, key: Hashable, request: Request) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        assert key not in self._names, f"{key} is in flight already"
        assert len(request.prefix) + request.max_tokens <= self.max_model_len, "request exceeds the context"
        sampling = request.sampling
        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            seed=request.seed,
            max_tokens=request.max_tokens,
            min_tokens=min(request.min_tokens, request.max_tokens),
            stop_token_ids=sorted(request.stop_token_ids),
            ignore_eos=True,  # only stop_token_ids stop; EOS is among them where it should
            logit_bias=self._never or None,
            detokenize=False,
            logprobs=0 if request.logprobs else None,  # of the sampled id alone
            output_kind=RequestOutputKind.DELTA,
        )
        name = str(next(self._count))
        if self._is_cpu and sampling.temperature == 0:
            name = self._sessions.submit(name, request, params)
        else:
            self._engine.add_request(name, {"prompt_token_ids": list(request.prefix)}, params)
        self._keys[name], self._names[key] = key, name

    def kv_cache_usage(self) -> float | None:
        core = getattr(self._engine.engine_core, "engine_core", None)  # in this process
        return None if core is None else core.scheduler.get_kv_cache_usage()

    def step(self) -> list[tuple[Hashable, Delta]]:
        self._sessions.release()
        outputs: list = []
        while not outputs and self._engine.has_unfinished_requests():
            outputs = self._engine.step()  # empty while a long prompt is read in chunks
        deltas = []
        for output in outputs:
            key, completion = self._keys[output.request_id], output.outputs[0]
            num_kept = self._sessions.receive(output)
            deltas.append((key, _delta(completion, output.num_cached_tokens if num_kept is None else num_kept)))
            if completion.finish_reason is not None:
                self._forget(key)
        return deltas

    def cancel(self, key: Hashable) -> None:
        if key in self._names:
            self._sessions.abort([self._forget(key)])

    def reset_prefix_cache(self) -> None:
        self._sessions.release()
        self._engine.reset_prefix_cache()

    def close(self) -> None:
        """Frees the memory; another engine may then be loaded in this process."""
        from vllm.distributed import cleanup_dist_env_and_memory

        self._engine.engine_core.shutdown()
        del self._engine
        cleanup_dist_env_and_memory()

    def _forget(self, key: Hashable) -> str:
        name = self._names.pop(key)
        del self._keys[name]
        return name


def _engine_args(path: str | Path, config: EngineConfig) -> dict[str, Any]:
    return {
        "model": str(path),
        "dtype": config.dtype,
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "enable_prefix_caching": True,
        "skip_tokenizer_init": True,  # ids in, ids out
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }


def _delta(completion: Any, num_cached_tokens: int | None) -> Delta:
    token_ids, reason = tuple(completion.token_ids), completion.finish_reason
    logprobs = None
    if completion.logprobs is not None:
        logprobs = tuple(step[id].logprob for id, step in zip(token_ids, completion.logprobs, strict=True))
    if reason in (None, "stop", "length"):
        return Delta(token_ids, reason, num_cached_tokens, logprobs=logprobs)
    return Delta(token_ids, "error", num_cached_tokens, error=f"vLLM ended the request: {reason}")


def quiet() -> None:
    """Before vLLM is imported: errors only."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\.")


def cpu_defaults(config: Any) -> dict[str, Any]:
    """What suits vLLM's CPU build: no compilation (it takes minutes) and small KV blocks, because only whole blocks
    are found again and a token read again costs as much as one written."""
    import psutil

    # no prompt in pieces: of a seeded request that crashes this build ("CPU Generator does not use offset")
    defaults: dict[str, Any] = {"enforce_eager": True, "block_size": 32, "enable_chunked_prefill": False}
    if "gpu_memory_utilization" not in config.options:
        defaults["kv_cache_memory_bytes"] = min(MAX_CPU_KV_BYTES, psutil.virtual_memory().available // 4)
    if config.dtype == "auto" and checkpoint.cpu_emulates_bfloat16():
        defaults["dtype"] = "float32"
    return defaults
