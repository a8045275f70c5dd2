import re
from dataclasses import replace

import pytest

from core.types import Question, Trace
from data.distill import DistillConfig, drop_reason, solver_answer, trace_of
from data.solver import LEGS_OF, SOLVERS, solve
from data.sources import SOURCES
from eval.grading import grade

CONFIG = DistillConfig(name="test", questions="-", model="-", check_share=0.5)


def count_words(text: str) -> int:
    return len(text.split())


def worked_solution(question: Question) -> Trace | None:
    return trace_of(question, solver_answer(question, CONFIG), CONFIG, count_words)


def some(source_id: str, size: int = 40) -> list[Question]:
    return list(SOURCES[source_id].questions(seed=11, size=size))


def ask(family: str, text: str, answer: str, **metadata) -> Question:
    source = SOURCES[f"reasoning_gym/{family}"]
    return Question.of(text, answer, source.answer_type, source.id, family, **metadata)


@pytest.mark.slow
@pytest.mark.parametrize("source_id", SOLVERS)
def test_every_solution_agrees_with_the_reference(source_id):
    traces = [worked_solution(q) for q in some(source_id)]
    solved = [t for t in traces if t]
    assert len(solved) >= 0.8 * len(traces)
    assert [drop_reason(t, 256) for t in solved] == [None] * len(solved)


@pytest.mark.slow
@pytest.mark.parametrize("source_id", SOLVERS)
def test_a_solver_never_sees_the_answer(source_id):
    for question in some(source_id, 10):
        blind = replace(question, answer=None)
        assert solve(blind, 0.5, seed=3) == solve(question, 0.5, seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("source_id", SOLVERS)
def test_every_equation_of_a_trace_holds(source_id):
    for question in some(source_id):
        solution = solve(question, 1.0, seed=0)
        for equation in re.findall(r"[-+*/\d]+(?:=[-+*/\d]+)+", solution[0] if solution else ""):
            values = {eval(side) for side in equation.split("=")}  # digits and operators only
            assert len(values) == 1, f"{equation} in the trace of {question.text!r}"


@pytest.mark.slow
def test_every_line_of_a_chain_has_the_value_of_the_whole():
    for question in some("reasoning_gym/chain_sum"):
        lines = solve(question, 0.0, seed=0)[0].split("\n")
        assert {eval(line) for line in lines} == {int(question.answer)}


@pytest.mark.slow
def test_a_sum_and_the_terms_left_have_the_value_of_the_whole():
    for question in some("reasoning_gym/basic_arithmetic"):
        for line in solve(question, 0.0, seed=0)[0].split("\n"):
            terms, result, left = re.fullmatch(r"(.*) = (\d+)((?:, \d+)*)", line).groups()
            assert eval(terms) == int(result)
            assert int(result) + sum(map(int, re.findall(r"\d+", left))) == int(question.answer)


@pytest.mark.slow
@pytest.mark.parametrize("source_id", SOLVERS)
def test_a_check_begins_with_wait_and_ends_with_the_same_result(source_id):
    for question in some(source_id, 10):
        plain, checked = solve(question, 0.0, seed=0), solve(question, 1.0, seed=0)
        if plain is None:
            continue
        assert checked[0].startswith(plain[0] + "\nWait, ")
        last, checked_last = plain[0].split("\n")[-1], checked[0].split("\n")[-1]
        assert checked_last.removeprefix("Wait, ") == last.removeprefix("- ")
        assert checked[1] == plain[1]


@pytest.mark.slow
def test_the_share_of_checks_is_drawn_per_question():
    questions = some("reasoning_gym/chain_sum", 400)
    checks = {q.id: "Wait" in solve(q, 0.25, seed=0)[0] for q in questions}
    assert 0.18 < sum(checks.values()) / len(checks) < 0.32
    assert checks == {q.id: "Wait" in solve(q, 0.25, seed=0)[0] for q in reversed(questions)}
    assert checks != {q.id: "Wait" in solve(q, 0.25, seed=1)[0] for q in questions}


def test_a_wrong_unsolvable_or_long_trace_is_dropped_with_its_reason():
    question = ask("chain_sum", "4 - 1 - 7 =", "-4", expression="4 - 1 - 7")
    trace = worked_solution(question)
    assert trace.attempt == "Final Answer: -4" and drop_reason(trace, 256) is None
    assert drop_reason(trace, 1) == "too_long"
    assert drop_reason(replace(trace, question=replace(question, answer="4")), 256) == "wrong_answer"
    assert drop_reason(replace(trace, question=replace(question, answer=None)), 256) == "wrong_answer"
    unknown = ask("leg_counting", "2 griffins", "8", animals={"griffin": 2})
    assert solver_answer(unknown, CONFIG).drop == "no_solution" and worked_solution(unknown) is None
    assert worked_solution(replace(question, source="elsewhere")) is None


def test_worked_examples():
    def work(family, **metadata):
        return solve(ask(family, "?", None, **metadata), 0.0, seed=0)

    assert work("chain_sum", expression="4 - 1 - 7 + 2") == ("3-7+2\n-4+2\n-2", "-2")
    assert work("leg_counting", animals={"tiger": 2, "ant": 3}) == (
        "tiger: 2 * 4 = 8\nant: 3 * 6 = 18\n8 + 18 = 26",
        "26",
    )
    assert work("word_sequence_reversal", words=["a", "b", "c"])[0] == "- a\n- b, a\n- c, b, a"
    assert work("basic_arithmetic", expression="4 + 7 + 1") == ("4 + 7 = 11, 1\n11 + 1 = 12", "12")
    assert work("basic_arithmetic", expression="4 - 7") is None
    assert work("number_filtering", original_numbers=["22", "53"], filter_value="36", operation="remove_larger") == (
        "< 36 yes, > 36 no\n22 < 36 yes\n53 > 36 no\nno: 53\nyes: 22",
        "['22']",
    )
    assert work("spell_backward", word="sun") == ("s u n\ns\nu s\nn u s", "nus")
    assert work("simple_equations", equation="3 - 2*x = -9", variable="x")[1] == "6"
    assert work("gcd", numbers=[28, 42])[1] == "14"
    assert work("lcm", numbers=[4, 6])[1] == "12"
    assert work("number_filtering", original_numbers=["5", "9"], filter_value="9", operation="keep_larger") is None


@pytest.mark.slow
def test_leg_table_is_the_one_of_the_source():
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    assert LEGS_OF == ANIMALS


@pytest.mark.slow
def test_graded_as_written():
    question = some("reasoning_gym/word_sequence_reversal", 1)[0]
    assert grade(f"Final Answer: {question.answer}", question).correct
