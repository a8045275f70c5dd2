"""Cells of finished eval runs side by side: paired differences, what each Wait changed, accuracy by price.

A cell is one setting of one run on one benchmark; a method is whatever has a price and an accuracy: a cell, or a vote
over the samples of a cell. Accuracies and differences are in percent, prices in tokens a question.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from core.config import UserError
from core.runs import finished
from core.types import read_jsonl
from eval.metrics import flips, mcnemar, mean_interval, paired_difference, power_at, questions_needed
from eval.optimal import compute_optimal
from eval.samples import Row, by_cell
from eval.scores import by_question

BOUND = "pass_at_k"  # what a perfect choice among k samples would reach; nothing that can be done
NOT_COMPARED = ("segments", "response", "paths")  # of a row, most of its size


@dataclass(frozen=True)
class EvalCell:
    """One cell of a finished eval run. settings: its entry in scores.json; rows: its rows of samples.jsonl."""

    run: str
    benchmark: str
    cell: str
    settings: dict[str, Any]
    rows: list[Row]

    @property
    def label(self) -> str:
        return f"{self.run} {self.cell}"

    @property
    def questions(self) -> set[str]:
        return {row["question_id"] for row in self.rows}

    @property
    def has_repeats(self) -> bool:
        return len(self.rows) > len(self.questions)

    def tokens(self) -> dict[str, float]:
        """{question: mean tokens sampled for an answer}, thinking and answer, all tries and paths; without questions
        of which that is not known (some chat endpoints and imported logs do not say)."""
        prices: dict[str, list[float]] = {}
        for row in self.rows:
            num_sampled = _num_sampled(row)
            if num_sampled is not None:
                prices.setdefault(row["question_id"], []).append(num_sampled)
        return {question: fmean(tokens) for question, tokens in prices.items()}


def _num_sampled(row: Row) -> float | None:
    """Rows of before costs were recorded have the tokens of thinking and answer alone."""
    if row.get("num_sampled_tokens") is not None:
        return row["num_sampled_tokens"]
    parts = row["num_thinking_tokens"], row["num_answer_tokens"]
    return None if None in parts else sum(parts)


def load_cells(path: str | Path, run: str) -> tuple[list[EvalCell], list[Row]]:
    """(cells of a finished eval run, its votes). run: what to call it.

    Votes are the entries "parallel" of scores.json (method, k, cell, accuracy, tokens), without k = 1, which is the
    cell itself. Where the run has parallel.jsonl, with {question: score} and {question: tokens} under the same names, a
    vote has these too, as "scores" and "prices".

    Raises UserError for a run that is missing, unfinished or no eval run.
    """
    path = finished(path)
    if not (path / "scores.json").exists():
        raise UserError(f"{path} has no scores.json: not a run of eval.run")
    scores = json.loads((path / "scores.json").read_text())
    rows = by_cell(
        {key: value for key, value in row.items() if key not in NOT_COMPARED}
        for row in read_jsonl(path / "samples.jsonl")
    )
    settings = {(s.get("benchmark", "questions"), s["cell"]): s for s in scores["cells"]}
    ordered = [key for key in settings if key in rows] + [key for key in rows if key not in settings]
    cells = [EvalCell(run, *key, settings.get(key, {}), rows[key]) for key in ordered]
    votes = {_vote_key(vote): {**vote, "run": run} for vote in scores.get("parallel", []) if vote["k"] > 1}
    if (path / "parallel.jsonl").exists():
        for row in read_jsonl(path / "parallel.jsonl"):
            if row["k"] > 1:
                votes[_vote_key(row)] |= {"scores": row["scores"], "prices": row["tokens"]}
    return cells, list(votes.values())


def _vote_key(vote: Row) -> tuple:
    return vote.get("benchmark", "questions"), vote["cell"], vote["method"], vote["k"]


def vote_name(vote: Row) -> str:
    """majority@4 max=512"""
    return f"{_method_name(vote)}@{vote['k']} {vote['cell']}"


def _method_name(vote: Row) -> str:
    return vote["method"].removesuffix("_at_k").removesuffix("_of_n").replace("_", " ")


def compare_pair(a: EvalCell, b: EvalCell, common: bool = False, num_resamples: int = 10_000, seed: int = 0) -> Row:
    """What changes from b to a, over questions that both could be graded on.

    common: compare what both have where one has more questions; otherwise that is refused.
    McNemar's p, and the flips, are over single answers, or, where a cell has repeats, over questions by the majority of
    their repeats (halves are neither right nor wrong); the interval of the difference is over the means of questions.
    questions_needed is None where there is no difference.

    Raises UserError for different questions, or fewer than two that both were graded on.
    """
    only_a, only_b = len(a.questions - b.questions), len(b.questions - a.questions)
    if (only_a or only_b) and not common:
        raise UserError(
            f"{a.benchmark}: {only_a} questions are in {a.label} only, {only_b} in {b.label} only; "
            f"common=true compares the {len(a.questions & b.questions)} in both"
        )
    scores_a, scores_b = by_question(a.rows), by_question(b.rows)
    both = sorted(scores_a.keys() & scores_b.keys())
    if len(both) < 2:
        raise UserError(f"{a.benchmark}: {a.label} and {b.label} share {len(both)} graded questions; two are needed")
    means_a, means_b = ({q: fmean(scores[q]) for q in both} for scores in (scores_a, scores_b))
    before, after = ({q: _verdict(means[q]) for q in both} for means in (means_b, means_a))
    wrong_to_right, right_to_wrong = flips(before, after)
    difference, low, high = paired_difference(means_a, means_b, num_resamples, seed)
    needed = questions_needed(means_a, means_b)
    return {
        "benchmark": a.benchmark,
        "a": {"run": a.run, "cell": a.cell, **_accuracy({q: scores_a[q] for q in both})},
        "b": {"run": b.run, "cell": b.cell, **_accuracy({q: scores_b[q] for q in both})},
        "num_questions": len(both),
        "num_only_a": only_a,
        "num_only_b": only_b,
        "num_ungraded": len(a.questions & b.questions) - len(both),
        "difference": 100 * difference,
        "low": 100 * low,
        "high": 100 * high,
        "wrong_to_right": wrong_to_right,
        "right_to_wrong": right_to_wrong,
        "flips_of": "majorities" if a.has_repeats or b.has_repeats else "answers",
        "mcnemar_p": mcnemar(before, after),
        "questions_needed": None if math.isinf(needed) else needed,
        "power": power_at(len(both), means_a, means_b),
    }


def _verdict(mean: float) -> bool | None:
    return None if mean == 0.5 else mean > 0.5


def _accuracy(scores: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return dict(zip(("accuracy", "low", "high"), (100 * x for x in mean_interval(scores)), strict=True))


def against_reference(cells: Sequence[EvalCell]) -> list[tuple[EvalCell, EvalCell]]:
    """(cell, the first cell of its benchmark), for every cell but that."""
    first: dict[str, EvalCell] = {}
    for cell in cells:
        first.setdefault(cell.benchmark, cell)
    return [(cell, first[cell.benchmark]) for cell in cells if cell is not first[cell.benchmark]]


def wait_pairs(cells: Sequence[EvalCell]) -> list[tuple[EvalCell, EvalCell]]:
    """(cell, the cell that ignores fewer ends and is otherwise the same), for every cell that ignores some; of several
    the nearest."""

    def settings(cell: EvalCell) -> tuple:
        names = ("method", "control", "asked", "max_thinking_tokens", "min_thinking_tokens", "budget_per_round")
        return cell.run, cell.benchmark, *(str(cell.settings.get(name)) for name in names)

    pairs = []
    for cell in cells:
        num_ignore, text = cell.settings.get("num_ignore", 0), cell.settings.get("ignore_text")
        fewer = [
            other
            for other in cells
            if settings(other) == settings(cell)
            and other.settings.get("num_ignore", 0) < num_ignore
            and (other.settings.get("num_ignore", 0) == 0 or other.settings.get("ignore_text") == text)
        ]
        if fewer:
            pairs.append((cell, max(fewer, key=lambda other: other.settings.get("num_ignore", 0))))
    return pairs


def methods_by_price(cells: Sequence[EvalCell], votes: Sequence[Row], benchmark: str) -> list[Row]:
    """Every method on a benchmark, the cheapest first; what could not be graded at all is left out.

    family: the curve that the method is a point of. is_bound: pass@k, which nobody can do without knowing the answers.
    best_so_far: more accurate than everything cheaper, bounds aside. tokens is None, and comes last, where not known.
    """
    methods = []
    for cell in cells:
        graded = by_question(cell.rows)
        if cell.benchmark == benchmark and graded:
            prices = cell.tokens()
            family = cell.settings.get("method", "budget_forcing").replace("_", " ")
            methods.append({"run": cell.run, "method": cell.cell, "family": family,
                            "tokens": fmean(prices.values()) if prices else None, **_accuracy(graded),
                            "num_questions": len(graded), "is_bound": False})  # fmt: skip
    for vote in votes:
        if vote.get("benchmark", "questions") == benchmark and vote["accuracy"] is not None:
            numbers = {name: vote[name] for name in ("tokens", "accuracy", "low", "high", "num_questions")}
            family = f"{_method_name(vote)}@k {vote['cell']}"
            methods.append({"run": vote["run"], "method": vote_name(vote), "family": family, **numbers,
                            "is_bound": vote["method"] == BOUND})  # fmt: skip
    methods.sort(key=lambda m: (math.inf if m["tokens"] is None else m["tokens"], -m["accuracy"]))
    best = -math.inf
    for method in methods:
        is_point = method["tokens"] is not None and not method["is_bound"]
        method["best_so_far"] = is_point and method["accuracy"] > best
        best = method["accuracy"] if method["best_so_far"] else best
    return methods


def optimal_choice(
    cells: Sequence[EvalCell],
    votes: Sequence[Row],
    difficulty: EvalCell,
    num_bins: int,
    budgets: Sequence[float] | None,
    common: bool,
    num_resamples: int,
    seed: int,
) -> Row:
    """The compute-optimal choice (eval/optimal.py) among the other cells and their votes, by the mean scores in
    the cell `difficulty`. Scores from 0 to 1. A vote is a choice where its scores are known question by question, a
    cell where its tokens are known.

    Raises UserError for nothing to choose from, or different questions unless common.
    """
    others = [cell for cell in cells if cell.benchmark == difficulty.benchmark and cell is not difficulty]
    if not others:
        raise UserError(f"optimal: {difficulty.benchmark} has no cell beside {difficulty.label} to choose from")
    for cell in others:
        different = len(cell.questions ^ difficulty.questions)
        if different and not common:
            raise UserError(
                f"optimal: {different} questions are in one of {cell.label} and {difficulty.label} only; "
                "common=true takes those in all"
            )
    tokens = {cell.label: prices for cell in others if (prices := cell.tokens())}
    scores = {cell.label: _means(cell) for cell in others if cell.label in tokens}
    own_cells = {(cell.run, cell.benchmark, cell.cell) for cell in others}
    for vote in votes:
        is_of_others = (vote["run"], vote.get("benchmark", "questions"), vote["cell"]) in own_cells
        if is_of_others and "scores" in vote and vote["method"] != BOUND:
            label = f"{vote['run']} {vote_name(vote)}"
            scores[label], tokens[label] = vote["scores"], vote["prices"]
    hardness = _means(difficulty)
    questions = sorted(set(hardness).intersection(*scores.values(), *tokens.values()))
    if not scores or len(questions) < 2:
        raise UserError(
            f"optimal: {difficulty.benchmark} has {len(scores)} methods whose tokens are known, and {len(questions)} "
            "questions with a score and tokens in all of them"
        )
    of_all = [{label: {q: by[label][q] for q in questions} for label in scores} for by in (scores, tokens)]
    difficulties = {q: hardness[q] for q in questions}
    points = compute_optimal(*of_all, difficulties, budgets or None, num_bins, seed, num_resamples)
    return {
        "benchmark": difficulty.benchmark,
        "difficulty": {"run": difficulty.run, "cell": difficulty.cell},
        "shares_seeds": any(cell.run == difficulty.run for cell in others),
        "num_questions": len(questions),
        "num_left_out": len(difficulty.questions.union(*(cell.questions for cell in others))) - len(questions),
        "points": [asdict(point) for point in points],
    }


def _means(cell: EvalCell) -> dict[str, float]:
    return {question: fmean(values) for question, values in by_question(cell.rows).items()}
