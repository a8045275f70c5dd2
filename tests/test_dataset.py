"""Training rows: nothing is cut in silence, and what the devices get adds up to the step."""

import pytest
from some_traces import some_traces
from tiny_tokenizer import tiny_tokenizer

from core.chat import IGNORE_LABEL, ChatFormat
from core.config import UserError
from train.dataset import FlatBatches, num_labels, tokenize
from train.steps import Layout, visits


@pytest.fixture(scope="module")
def rows():
    return tokenize(some_traces(), ChatFormat("s1", tiny_tokenizer()), 10_000)


def test_too_long_traces_are_named_not_cut():
    chat = ChatFormat("s1", tiny_tokenizer())
    traces = some_traces(3)
    longest = max(len(row["input_ids"]) for row in tokenize(traces, chat, 10_000))
    assert len(tokenize(traces, chat, longest)) == 3
    with pytest.raises(UserError, match=rf"1 of 3 traces .*{traces[2].question.id} \({longest}\).*truncate=true"):
        tokenize(traces, chat, longest - 1)


def test_truncation_cuts_on_the_right_and_leaves_something_to_learn():
    chat = ChatFormat("s1", tiny_tokenizer())
    whole, cut = (tokenize(some_traces(3), chat, n, truncate=True) for n in (10_000, 60))
    assert [row["input_ids"] for row in cut] == [row["input_ids"][:60] for row in whole]
    assert [row["labels"] for row in cut] == [row["labels"][:60] for row in whole]
    with pytest.raises(UserError, match=f"max_length=5 cuts question {some_traces(1)[0].question.id} off"):
        tokenize(some_traces(3), chat, 5, truncate=True)


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["example", "token"])
@pytest.mark.parametrize("layout", [Layout(1), Layout(4, 2, 2), Layout(4, 4), Layout(2, 1, 2)], ids=str)
def test_the_slices_of_a_step_hold_each_token_once_with_weights_that_add_up_to_one(rows, layout, weighting):
    steps = visits(len(rows), 8, 2, seed=3)
    batches = FlatBatches(rows, steps, [len(row["input_ids"]) for row in rows], layout, weighting)
    per_step = layout.accumulation * layout.num_devices
    assert len(batches.indices) == per_step * len(steps)
    for step in (0, 4):
        slices = [batches([{"index": step * per_step + i}]) for i in range(per_step)]
        assert sum(s["weights"].double()[s["shift_labels"] != IGNORE_LABEL].sum().item() for s in slices) == (
            pytest.approx(1, abs=1e-6)
        )
        expected = sorted(
            (token, label)
            for row in steps[step]
            for token, label in zip(rows[row]["input_ids"], [*rows[row]["labels"][1:], IGNORE_LABEL], strict=True)
            if label != IGNORE_LABEL
        )
        got = sorted(
            (token, label)
            for s in slices
            for token, label in zip(s["input_ids"][0].tolist(), s["shift_labels"][0].tolist(), strict=True)
            if label != IGNORE_LABEL
        )
        assert got == expected
        for s in slices:
            assert s["cu_seq_lens_q"][-1] == s["input_ids"].shape[1] * layout.sequence_parallel


@pytest.mark.slow
def test_an_example_counts_as_much_as_another_or_a_token_as_another(rows):
    steps = visits(len(rows), 8, 1, seed=3)
    cost = [1.0] * len(rows)
    by_example = FlatBatches(rows, steps, cost, Layout(), "example").token_weights(0)
    by_token = FlatBatches(rows, steps, cost, Layout(), "token").token_weights(0)
    assert [w * num_labels(rows[row]) for row, w in by_example.items()] == pytest.approx([1 / 8] * 8)
    assert set(by_token.values()) == {1 / sum(num_labels(rows[row]) for row in steps[0])}
    with pytest.raises(UserError, match="loss_weighting is example or token, not 'tokens'"):
        FlatBatches(rows, steps, cost, Layout(), "tokens")
