"""Statistics of samples, on rows small enough to count by hand."""

import pytest

from eval.sample_stats import Limits, Texts, is_answered, limits_of, quantiles, sample_stats, steps_of, table_of


def row(thinking: str, response: str, correct: bool | None, ended: str = "natural", **more):
    """One whose tokens are words."""
    counts = {"num_thinking_tokens": len(thinking.split()), "num_answer_tokens": len(response.split())}
    total = {"num_sampled_tokens": sum(counts.values()), "num_prompt_tokens": 10, "num_forced_tokens": 2}
    return {"thinking": thinking, "response": response, "correct": correct, "ended": ended, **counts, **total, **more}


WORDS = Texts(lambda row: row["thinking"], lambda text: len(text.split()))
ROWS = [
    row("one two\nthree", "Answer: 4", True),
    row("one\n\ntwo\n", "\\boxed{5}", False),
    row("", "Answer: 4", True),
    row("a b c d e f g h", "", False, "context"),
    row("a b c d e", "Final Answer: 4", None, "budget"),
]


def test_statistics_of_one_cell():
    stats = sample_stats(ROWS, Limits(thinking=5, context=18), WORDS)
    assert stats["num_samples"] == 5
    assert stats["mean_steps"] == pytest.approx((2 + 2 + 0 + 1 + 1) / 5)
    assert stats["mean_step_tokens"] == pytest.approx((2 + 1 + 1 + 1 + 8 + 5) / 6)
    assert stats["mean_thinking_tokens"] == pytest.approx((3 + 2 + 0 + 8 + 5) / 5)
    assert stats["thinking_tokens"] == pytest.approx(
        {"min": 0, "p5": 0.4, "p25": 2, "p50": 3, "p75": 5, "p95": 7.4, "max": 8}
    )
    assert stats["mean_answer_tokens"] == pytest.approx((2 + 1 + 2 + 0 + 3) / 5)
    assert stats["mean_total_tokens"] == pytest.approx((5 + 3 + 2 + 8 + 8) / 5 + 12)
    assert stats["num_over_thinking_limit"] == 1 and stats["num_over_step_limit"] is None
    assert stats["num_over_context"] == 2, "the one that ended so, and the forced one of 20 tokens"
    assert stats["num_without_answer"] == 1 and stats["num_without_thinking"] == 1
    assert "over the thinking limit    1 (limit 5)" in table_of({"benchmark": "b", "cell": "c", **stats})


def test_correctness_by_length_leaves_out_what_is_not_graded():
    stats = sample_stats(ROWS, Limits(), WORDS)
    assert stats["mean_thinking_tokens_right"] == 1.5 and stats["mean_thinking_tokens_wrong"] == 5
    assert [(b["from"], b["to"], b["accuracy"]) for b in stats["accuracy_by_length"]] == [
        (0, 0, 100.0), (2, 2, 0.0), (3, 3, 100.0), (8, 8, 0.0),
    ]  # fmt: skip
    many = [row("w " * i, "Answer: 1", i < 5) for i in range(10)]
    bins = sample_stats(many, Limits(), WORDS)["accuracy_by_length"]
    assert [b["num_samples"] for b in bins] == [2, 3, 2, 3] and [b["accuracy"] for b in bins] == [100, 100, 0, 0]


def test_what_is_not_known_is_none():
    rows = [
        row("a b", "Answer: 1", True),
        row("a", "Answer: 1", True, num_thinking_tokens=None, num_sampled_tokens=None),
    ]
    stats = sample_stats(rows, Limits(thinking=1, context=5), Texts(lambda row: None, None))
    unknown = ("mean_steps", "mean_step_tokens", "mean_thinking_tokens", "thinking_tokens", "mean_total_tokens",
               "num_over_thinking_limit")  # fmt: skip
    assert all(stats[name] is None for name in unknown) and stats["num_over_context"] == 1
    assert stats["mean_thinking_tokens_wrong"] is None and stats["num_without_thinking"] == 0
    assert "thinking tokens  -" in table_of({"benchmark": "b", "cell": "c", **stats})


@pytest.mark.parametrize(
    ("thinking", "steps"),
    [
        ("3 steps left\nfirst\nmore\n<|im_start|>2 steps left\nsecond", ["first\nmore", "second"]),
        ("<|im_start|>2 steps left\nfirst\n<|im_start|>1 steps left\n", ["first", ""]),
        ("a line\n\nanother\n", ["a line", "another"]),
        ("", []),
    ],
)
def test_steps_of_either_kind(thinking, steps):
    assert steps_of(thinking) == steps


@pytest.mark.parametrize(
    ("response", "answered"),
    [
        ("Answer: 4", True),
        ("so \\boxed{4}", True),
        ("\nFinal Answer:", False),
        ("Final Answer: 4", True),
        ("four", False),
    ],
)
def test_the_cue_alone_is_no_answer(response, answered):
    assert is_answered(response) is answered


def test_limits_are_those_of_the_cell():
    assert limits_of({"max_thinking_tokens": 512, "control": "none"}, 4096) == Limits(512, None, 4096)
    assert limits_of({"max_thinking_tokens": "auto", "control": "tokens", "asked": 1024}, None) == Limits(1024)
    assert limits_of({"max_thinking_tokens": "auto", "control": "steps", "asked": 16}, None) == Limits(None, 16)
    assert limits_of({}, None) == Limits()


def test_quantiles_of_one_value_are_that_value():
    assert set(quantiles([7]).values()) == {7} and quantiles([]) is None
