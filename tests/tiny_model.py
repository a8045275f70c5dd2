"""A tiny random Llama and a small real tokenizer, for tests. Importing this, and the tokenizer, need no torch."""

from pathlib import Path

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEXTS = [
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May.",
    "Wait, let me check the answer again. 12 + 34 = 46, so the sum is 46.\nFinal Answer: 46",
    "think answer system user assistant the quick brown fox jumps over the lazy dog",
]


def tiny_tokenizer(name: str = "tiny"):
    """Byte-level BPE of a few hundred ids: any text round-trips, <|im_start|> and <|im_end|> are single ids."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML
    )
    wrapped.name_or_path = name
    return wrapped


def tiny_model(folder: Path, seed: int = 0, spare_ids: int = 8, **changes) -> Path:
    """Writes a random two-layer fp32 Llama with its tokenizer. head_dim 32 is the smallest vLLM's CPU build takes.

    spare_ids: the vocabulary is so much larger than the tokenizer, as Qwen2.5's is.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer()
    config = LlamaConfig(**{
        "vocab_size": len(tokenizer) + spare_ids,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 512,
        "initializer_range": 0.6,  # spreads the logits, so that rounding does not decide a greedy choice
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "pad_token_id": tokenizer.pad_token_id,
        **changes,
    })  # fmt: skip
    torch.manual_seed(seed)
    LlamaForCausalLM(config).float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
