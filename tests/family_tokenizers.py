"""Small tokenizers with the special tokens and the chat templates' behaviour of well-known model families. No torch.

The templates are shortened to what decides a prompt: default system message, tools, what opens and ends a turn, what
becomes of earlier thinking, and whether the generation prompt opens thinking.
"""

from dataclasses import dataclass
from functools import lru_cache

from tiny_tokenizer import CORPUS

QWEN_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
STRIP = """
    {%- if m.role == 'assistant' and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}"""
CHATML_TURNS = """{%- for m in messages %}
    {%- set content = m.content %}STRIP
    {%- if not (loop.first and m.role == 'system') %}
        {{- '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
"""
QWEN_HEAD = """{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content %}
{%- else %}
    {%- set system = DEFAULT %}
{%- endif %}
{%- if tools %}
    {{- '<|im_start|>system\\n' + (system + '\\n\\n' if system else '') + '# Tools\\n<tools>' }}
    {%- for tool in tools %}
        {{- '\\n' + tool | tojson }}
    {%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- elif system %}
    {{- '<|im_start|>system\\n' + system + '<|im_end|>\\n' }}
{%- endif %}
"""
ASSISTANT = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
OPENED = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"
SWITCHED = """{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
R1 = """{%- set ns = namespace(system='') %}
{%- for m in messages if m.role == 'system' %}
    {%- set ns.system = m.content %}
{%- endfor %}
{{- bos_token + ns.system }}
{%- for m in messages if m.role != 'system' %}
    {%- if m.role == 'user' %}
        {{- '<｜User｜>' + m.content }}
    {%- else %}
        {{- '<｜Assistant｜>' + m.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<｜Assistant｜>OPEN' }}{%- endif %}"""
LLAMA_3 = """{%- for m in messages %}
    {%- set turn = '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' %}
    {{- bos_token + turn if loop.first else turn }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""
GEMMA = """{{- bos_token }}
{%- if messages[0].role == 'system' %}{{- raise_exception('System role not supported') }}{%- endif %}
{%- for m in messages %}
    {%- set role = 'model' if m.role == 'assistant' else m.role %}
    {{- '<start_of_turn>' + role + '\\n' + m.content | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}"""


def qwen_template(end: str, default_system: str = "", strips: bool = True) -> str:
    head = QWEN_HEAD.replace("DEFAULT", repr(default_system))
    return head + CHATML_TURNS.replace("STRIP", STRIP if strips else "") + end


@dataclass(frozen=True)
class Family:
    """special: its control tokens. words: added tokens that count as ordinary text when special ones are skipped,
    as the think tags of R1 and Qwen3 do. adds_bos: encoding a text puts the bos token before it."""

    template: str
    special: tuple[str, ...]
    eos: str
    pad: str
    bos: str | None = None
    words: tuple[str, ...] = ()
    adds_bos: bool = False


THINK = ("<think>", "</think>")
CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
R1_TOKENS = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>")
LLAMA_TOKENS = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
GEMMA_TOKENS = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")


def chatml(template: str, words: tuple[str, ...] = ()) -> Family:
    return Family(template, CHATML_TOKENS, "<|im_end|>", "<|endoftext|>", words=words)


def r1(opens: str, more_tokens: tuple[str, ...] = ()) -> Family:
    bos, eos, *_ = R1_TOKENS
    return Family(R1.replace("OPEN", opens), R1_TOKENS + more_tokens, eos, eos, bos, THINK, adds_bos=True)


FAMILIES = {
    "Qwen2.5-Instruct": chatml(qwen_template(ASSISTANT, QWEN_SYSTEM, strips=False)),
    "QwQ": chatml(qwen_template(OPENED), THINK),
    "Qwen3": chatml(qwen_template(SWITCHED), THINK),
    "Qwen3-Thinking-2507": chatml(qwen_template(OPENED), THINK),
    "Qwen3-Instruct-2507": chatml(qwen_template(ASSISTANT, strips=False), THINK),
    "R1-Distill-Qwen": r1("<think>\\n"),
    "R1-Distill-Llama": r1("<think>\\n", LLAMA_TOKENS),
    "R1-Distill, first template": r1(""),
    "Llama-3-Instruct": Family(
        LLAMA_3, LLAMA_TOKENS, "<|eot_id|>", "<|end_of_text|>", "<|begin_of_text|>", adds_bos=True
    ),
    "Gemma-2": Family(GEMMA, GEMMA_TOKENS, "<eos>", "<pad>", "<bos>", adds_bos=True),
}


@lru_cache
def family_tokenizer(name: str):
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    family = FAMILIES[name]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=list(family.special),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in family.words])
    if family.adds_bos:
        bos = (family.bos, tokenizer.token_to_id(family.bos))
        tokenizer.post_processor = processors.TemplateProcessing(f"{family.bos} $A", special_tokens=[bos])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=family.eos,
        pad_token=family.pad,
        bos_token=family.bos,
        chat_template=family.template,
        name_or_path=name,
    )
