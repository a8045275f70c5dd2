"""Figure 3: what of a sample is shown, and a recorded sample comes back as it was."""

from eval.wait_example import Piece, WaitExample, read_example, write_example
from eval.wait_figure import text_lines


def test_long_thinking_is_shown_around_what_was_forced():
    thinking = "\n".join(f"line {i}" for i in range(40)), "Wait", ", " + "x" * 100 + "\n\n\x00"
    sources = ("sampled", "forced", "sampled")
    pieces = [Piece("thinking", source, text) for source, text in zip(sources, thinking, strict=True)]
    pieces.append(Piece("answer", "sampled", "5"))
    example = WaitExample("Why?", tuple(pieces), None, True, {"run": "r", "cell": "c", "question_id": "q"})
    lines = ["".join(text for text, _ in line) for line in text_lines(example)]
    assert lines[:3] == ["question", "Why?", "thinking (forced: bold)"]
    assert lines[3:10] == ["line 0", "line 1", "line 2", "[33 lines]", "line 36", "line 37", "line 38"]
    assert (
        lines[10].startswith("line 39Wait, xx") and len(lines[10]) == 92 and lines[12:15] == ["\ufffd", "answer", "5"]
    )
    assert lines[15:] == ["without ignored ends: not graded; with them: right", "r, c, question q"]
    assert ("Wait", "forced") in text_lines(example)[10]


def test_a_recorded_example_comes_back_the_same(tmp_path):
    example = WaitExample("1 + 1 = ?", (Piece("thinking", "forced", "Wait"),), False, None, {"run": "r"})
    write_example(example, tmp_path / "wait.json")
    assert read_example(tmp_path / "wait.json") == example
