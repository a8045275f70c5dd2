"""vLLM as an engine: its own LLMEngine, add_request and step, token ids in and out. CUDA and CPU builds."""

import gc
import hashlib
import itertools
import os
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from core.config import UserError
from core.runs import digest_of
from inference.engine import Delta, EngineConfig, Request

QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "VLLM_CONFIGURE_LOGGING": "1"}


class VllmEngine:
    def __init__(self, path, tokenizer, config):
        for n, v in QUIET.items():
            os.environ.setdefault(n, v)
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", os.environ.get("MP","0"))
        from vllm import EngineArgs, SamplingParams
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.llm_engine import LLMEngine
        args = dict(model=str(path), skip_tokenizer_init=True, max_model_len=config.max_model_len, max_num_seqs=config.max_num_seqs, dtype=config.dtype, enforce_eager=True, disable_log_stats=True, enable_prefix_caching=True, kv_cache_memory_bytes=2<<30)
        args.update(config.options)
        self.engine = LLMEngine.from_engine_args(EngineArgs(**args))
        self.SP = SamplingParams; self.kind = RequestOutputKind.DELTA
        self.n = itertools.count(); self.keys = {}
    def submit(self, key, r):
        i = str(next(self.n)); self.keys[i] = key
        s = r.sampling
        self.engine.add_request(i, {"prompt_token_ids": list(r.prefix)}, self.SP(temperature=s.temperature, top_p=s.top_p, top_k=s.top_k, min_p=s.min_p, seed=r.seed, stop_token_ids=sorted(r.stop_token_ids), ignore_eos=True, max_tokens=r.max_tokens, min_tokens=r.min_tokens, detokenize=False, output_kind=self.kind))
    def step(self):
        outs = []
        while not outs and self.engine.has_unfinished_requests():
            outs = self.engine.step()
        return [(self.keys[o.request_id], Delta(tuple(o.outputs[0].token_ids), o.outputs[0].finish_reason, o.num_cached_tokens)) for o in outs]
