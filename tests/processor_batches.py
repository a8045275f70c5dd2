"""Drives inference.vllm_processor as vLLM's two model runners do: scripted logits, and vLLM's own sampler after it."""

from types import SimpleNamespace

import numpy as np
import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessors
from vllm.v1.sample.logits_processor.builtin import MinPLogitsProcessor
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState

from inference.vllm_processor import BudgetForcing

CPU = torch.device("cpu")


def vllm_config(folder, num_slots: int, vocab_size: int, profile: str, max_model_len: int = 4096):
    """The part of vLLM's configuration that a processor reads."""
    model = SimpleNamespace(
        model=str(folder),
        tokenizer=str(folder),
        max_model_len=max_model_len,
        hf_config=SimpleNamespace(thinking_profile=profile),
        get_vocab_size=lambda: vocab_size,
    )
    scheduler = SimpleNamespace(max_num_seqs=num_slots)
    return SimpleNamespace(model_config=model, scheduler_config=scheduler, speculative_config=None)


class Batch:
    """Requests alike but for their seeds: the same parameters, the same prompt. outputs: [request][token]."""

    def __init__(self, config, all_params, prompt, processor_class=BudgetForcing):
        self.params, self.prompt = all_params, list(prompt)
        self.outputs = [[] for _ in all_params]
        self.rows = list(range(len(all_params)))  # row -> request
        self._config, self._min_p = config, MinPLogitsProcessor(config, CPU, False)
        self._sampler = Sampler()
        self.build(processor_class)

    def sample(self, logits: torch.Tensor, keep: bool = True) -> list[int]:
        """One token of each row of logits [rows, vocabulary]. keep=False: dropped, as of a prompt half read."""
        params = [self.params[request] for request in self.rows]
        temperature = torch.tensor([p.temperature for p in params])
        top_k = torch.tensor([p.top_k or logits.shape[1] for p in params], dtype=torch.int32)
        processors = LogitsProcessors([self._min_p, *self._in_sampler()])
        greedy = [p.temperature == 0 for p in params]
        metadata = SamplingMetadata(
            temperature=temperature,
            all_greedy=all(greedy),
            all_random=not any(greedy),
            top_p=torch.tensor([p.top_p for p in params]) if any(p.top_p < 1 for p in params) else None,
            top_k=top_k if any(p.top_k for p in params) else None,
            generators={},
            max_num_logprobs=None,
            no_penalties=True,
            prompt_token_ids=None,
            frequency_penalties=torch.zeros(len(params)),
            presence_penalties=torch.zeros(len(params)),
            repetition_penalties=torch.ones(len(params)),
            output_token_ids=[self.outputs[request] for request in self.rows],
            allowed_token_ids_mask=None,
            bad_words_token_ids={},
            logitsprocs=processors,
        )
        tokens = self._sampler(self._before_sampler(logits.clone()), metadata).sampled_token_ids[:, 0].tolist()
        if keep:
            for request, token in zip(self.rows, tokens, strict=True):
                self.outputs[request].append(token)
            self._after_sampler()
        return tokens


class V1Batch(Batch):
    def build(self, processor_class):
        self._processor = processor_class(self._config, CPU, False)
        added = [(i, p, self.prompt, self.outputs[i]) for i, p in enumerate(self.params)]
        self.update(added=added)

    def update(self, removed=(), added=(), moved=()):
        update = BatchUpdate(len(self.params), list(removed), list(added), list(moved))
        self._processor.update_state(update)
        self._min_p.update_state(update)

    def _in_sampler(self):
        return [self._processor]

    def _before_sampler(self, logits):
        return logits

    def _after_sampler(self):
        pass


class Buffer:
    """As vLLM's StagedWriteTensor and UvaBackedTensor look from outside."""

    def __init__(self, *size: int):
        self.gpu = torch.zeros(size, dtype=torch.int32)
        self.np = self.gpu.numpy()


class V2Batch(Batch):
    """Slots are the requests in reverse, so that nothing takes a slot for a row."""

    def build(self, processor_class):
        num, length = self._config.scheduler_config.max_num_seqs, self._config.model_config.max_model_len
        self.state = LogitsProcRequestState(
            CPU, num, self._config.model_config.get_vocab_size(),
            Buffer(num, length), Buffer(num), Buffer(num), Buffer(num),
        )  # fmt: skip
        self._processor = processor_class(self._config, self.state)
        self.slots = {request: num - 1 - request for request in self.rows}
        for request in self.rows:
            self.enter(request)
        added = [(i, p, self.prompt, self.outputs[i]) for i, p in enumerate(self.params)]
        self._min_p.update_state(BatchUpdate(len(added), [], added, []))

    def enter(self, request: int):
        """Into its slot; with outputs, as after an interruption."""
        slot, ids = self.slots[request], [*self.prompt, *self.outputs[request]]
        self.state.all_token_ids.np[slot, : len(ids)] = ids
        self.state.prompt_len.np[slot] = len(self.prompt)
        self.state.prefill_len.np[slot] = self.state.total_len.np[slot] = len(ids)
        self._processor.add_request(slot, self.params[request])
        self._processor.apply_staged_writes()

    def _in_sampler(self):
        return []

    def _before_sampler(self, logits):
        slots = np.array([self.slots[request] for request in self.rows], dtype=np.int32)
        lengths = self.state.total_len.np[slots]
        mapping = torch.from_numpy(slots).long()
        last = torch.from_numpy(self.state.all_token_ids.np[slots, lengths - 1])
        position = torch.from_numpy(lengths - 1)
        padded = np.append(lengths, [0, 0])  # vLLM rounds the batch up
        return self._processor.apply(
            logits, LogitsContext(mapping, mapping, slots, torch.zeros_like(mapping), last, position, padded)
        )

    def _after_sampler(self):
        for request in self.rows:
            slot, ids = self.slots[request], [*self.prompt, *self.outputs[request]]
            self.state.all_token_ids.np[slot, len(ids) - 1] = ids[-1]
            self.state.total_len.np[slot] = len(ids)
