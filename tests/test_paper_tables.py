"""The paper's Tables 2, 3, 11, 12 and 13, recomputed from their points (results/paper); tables as LaTeX."""

import math
import re
from statistics import NormalDist

import pytest

from eval.material import Material
from eval.metrics import control, paired_difference, performance, scaling
from eval.paper import NUM_QUESTIONS, load_paper, select
from eval.paper_tables import Table, tables_of

PAPER = load_paper()
TOKENS_A_STEP = 100  # what Control allows a step that was asked for


def column(element, y_name, **values):
    return [point.y for point in select(PAPER, element, y_name=y_name, **values)]


def exact(accuracies, benchmark="AIME24"):
    """Percentages as whole questions give them; the printed ones are rounded (54.6 for 108 of 198: twice)."""
    n = NUM_QUESTIONS[benchmark]
    percents = [100 * round(a * n / 100) / n for a in accuracies]
    assert percents == pytest.approx(accuracies, abs=0.056)
    return percents


def asked_for(element, forced):
    """Mean thinking tokens, exact accuracies, and what was asked for, of Table 11 or 12."""
    rows = {"series": f"{'with' if forced else 'without'} budget forcing"}
    asked = [point.x for point in select(PAPER, element, y_name="accuracy_percent", **rows)]
    return column(element, "thinking_tokens", **rows), exact(column(element, "accuracy_percent", **rows)), asked


def tokens_conditional(forced):
    return asked_for("Table 11", forced)


def steps_conditional(forced):
    tokens, accuracies, steps = asked_for("Table 12", forced)
    return tokens, accuracies, [TOKENS_A_STEP * n for n in steps]


def class_conditional(benchmark):
    accuracies = column("Table 13", "accuracy_percent", benchmark=benchmark)
    short_tokens, long_tokens, default_tokens = column("Table 13", "thinking_tokens", benchmark=benchmark)
    limits = [(None, default_tokens), (default_tokens, None)]
    return [short_tokens, long_tokens], exact(accuracies, benchmark)[:2], limits


def drawn(element):
    """A curve of AIME24, and its limits: the numbers among its settings."""
    points = select(PAPER, element, y_name="accuracy_percent", benchmark="AIME24")
    limits = [float(p.setting) if p.setting.isdigit() else None for p in points]
    return [p.x for p in points], exact([p.y for p in points]), limits


METHODS = {
    "budget forcing": drawn("Figure 1"),
    "token-conditional": tokens_conditional(forced=False),
    "token-conditional + forcing": tokens_conditional(forced=True),
    "step-conditional": steps_conditional(forced=False),
    "step-conditional + forcing": steps_conditional(forced=True),
    "class-conditional": class_conditional("AIME24"),
    "rejection sampling": drawn("Figure 6"),
}


@pytest.mark.parametrize("method", METHODS)
def test_table_3(method):
    tokens, accuracies, limits = METHODS[method]
    (want_control,) = column("Table 3", "control_percent", series=method)
    (want_performance,) = column("Table 3", "performance_percent", series=method)
    (want_scaling,) = column("Table 3", "scaling_points_per_doubling", series=method, how="published")
    (precise,) = column("Table 3", "scaling_points_per_doubling", series=method, how="recomputed")
    # the paper's scaling of rejection sampling leaves out the 3500 run, whose 40.0 is nonetheless its performance
    start = 1 if method == "rejection sampling" else 0
    slope = scaling(tokens[start:], accuracies[start:])
    assert slope == pytest.approx(precise, abs=0.1)
    assert slope == pytest.approx(want_scaling, abs=1)
    assert control(tokens, limits) == pytest.approx(want_control)
    assert performance(accuracies) == pytest.approx(want_performance, abs=0.05)


def test_table_11_a_limit_is_kept_where_it_is_forced():
    kept = {}
    for forced in (False, True):
        tokens, _, limits = tokens_conditional(forced)
        kept[forced] = [t <= limit for t, limit in zip(tokens, limits, strict=True)]
    assert kept == {False: [False, False, False, True, True], True: [True] * 5}
    slope = scaling([7158, 7108], exact([30.0, 33.3]))  # the pair that makes the mean: 0.7% apart in length
    assert slope == pytest.approx(-329, abs=1)


def test_table_12_control_counts_100_tokens_a_step_and_not_steps():
    for forced, by_steps, by_tokens in ((False, 40, 60), (True, 100, 100)):
        steps = column("Table 12", "steps", series=f"{'with' if forced else 'without'} budget forcing")
        tokens, _, limits = steps_conditional(forced)
        assert control(steps, [limit / TOKENS_A_STEP for limit in limits]) == by_steps
        assert control(tokens, limits) == by_tokens  # what Table 3 says


def test_table_13_short_is_shorter_on_math500_alone():
    controls = {benchmark: control(class_conditional(benchmark)[0], class_conditional(benchmark)[2])
                for benchmark in NUM_QUESTIONS}  # fmt: skip
    assert controls == {"AIME24": 50, "MATH500": 100, "GPQA-Diamond": 50}


def test_other_readings_of_scaling_do_not_reproduce_table_3():
    tokens, accuracies, _ = METHODS["rejection sampling"]
    assert scaling(tokens, accuracies) == pytest.approx(-28.6, abs=0.1)
    with_default = scaling([8033, 9651, 6109], exact([30.0, 36.7, 50.0]))
    assert with_default == pytest.approx(-15.2, abs=0.1)
    rounded = column("Table 11", "accuracy_percent", series="without budget forcing")
    assert scaling(METHODS["token-conditional"][0], rounded) == pytest.approx(-23.4, abs=0.1)


DATA = ["1K-random", "1K-diverse", "1K-longest", "59K-full"]


def table_2(data, benchmark):
    """(accuracy, low, high): the interval is of the difference to s1K."""
    accuracy, difference = select(PAPER, "Table 2", series=data, benchmark=benchmark)
    return accuracy.y, difference.low, difference.high


def nearest_wins_and_losses(n, right_a, right_b, low, high):
    """(wins, losses): questions that only a, and only b, solves, whose interval is nearest by the normal law."""
    difference = right_a - right_b
    z = NormalDist().inv_cdf(0.975)

    def distance(wins):
        num_flips = 2 * wins - difference
        half = 100 * z * math.sqrt(num_flips / n - (difference / n) ** 2) / math.sqrt(n)
        return max(abs(100 * difference / n - half - low), abs(100 * difference / n + half - high))

    most = min(right_a, n - right_b)  # only solved questions can be won, and only those that b did not solve
    wins = min(range(max(0, difference), most + 1), key=distance)
    return wins, wins - difference


def bootstrap_of(n, wins, losses):
    a = {i: float(i < wins) for i in range(n)}
    b = {i: float(wins <= i < wins + losses) for i in range(n)}
    return [100 * x for x in paired_difference(a, b)]


@pytest.mark.parametrize("benchmark", NUM_QUESTIONS)
@pytest.mark.parametrize("data", DATA)
def test_table_2_every_interval_is_one_of_our_bootstraps(data, benchmark):
    accuracy, low, high = table_2(data, benchmark)
    n = NUM_QUESTIONS[benchmark]
    percents = exact([accuracy, *column("Table 2", "accuracy_percent", series="s1K", benchmark=benchmark)], benchmark)
    right, right_s1k = (round(p * n / 100) for p in percents)
    wins, losses = nearest_wins_and_losses(n, right, right_s1k, low, high)
    got = bootstrap_of(n, wins, losses)
    print(f"{data} {benchmark}: {wins} wins, {losses} losses: {got[0]:+.1f} [{got[1]:.1f}, {got[2]:.1f}], "
          f"published [{low}, {high}]")  # fmt: skip
    assert got[0] == pytest.approx(percents[0] - percents[1])
    assert got[1:] == pytest.approx([low, high], abs=0.6)  # a question is 3.33, 0.2 and 0.51 points


@pytest.mark.parametrize("data", DATA)
def test_table_2_intervals_of_gpqa_are_centred_one_question_too_high(data):
    """With 113 instead of 114 of 198 right answers of s1K, both ends come out to the decimal; 114 are published."""
    accuracy, low, high = table_2(data, "GPQA-Diamond")
    right = round(accuracy * 1.98)
    wins, losses = nearest_wins_and_losses(198, right, 113, low, high)
    assert bootstrap_of(198, wins, losses)[1:] == pytest.approx([low, high], abs=0.06)


def test_texts_cannot_break_a_table():
    table = Table("t", "Title", ("", "a_b"), (("50% | {x} & more", "1,000"),))
    assert table.latex().splitlines()[3:6] == [r" & a\_b \\", r"\midrule", r"50\% \textbar{} \{x\} \& more & 1,000 \\"]
    assert table.markdown().splitlines()[-1] == r"| 50% \| {x} & more | 1,000 |"
    assert table.csv() == ',a_b\n50% | {x} & more,"1,000"\n'


def test_every_latex_table_is_one_that_compiles():
    for table in tables_of(Material(paper=PAPER)):
        comment, begin, *rows, end = table.latex().splitlines()
        assert comment == f"% {table.title} (needs the package booktabs)"
        assert begin == r"\begin{tabular}{l" + "r" * (len(table.columns) - 1) + "}" and end == r"\end{tabular}"
        assert [row for row in rows if row.endswith("rule")] == [r"\toprule", r"\midrule", r"\bottomrule"]
        for row in [row for row in rows if not row.endswith("rule")]:
            assert row.endswith(r" \\") and row.isascii()
            assert len(re.findall(r"(?<!\\)&", row)) == len(table.columns) - 1
            assert not re.search(r"(?<!\\)[%_#$~^{}|<>]", re.sub(r"\\text[a-z]+\{\}", "", row))
