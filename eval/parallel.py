"""Choosing among k parallel samples of a question: pass@k, majority vote, best-of-k, score-weighted vote.

Each estimator is the mean over all subsets of k of the n candidates that were drawn, so one set of n samples gives the
whole curve in k, without bias and with the least noise that set allows (Chen et al. 2021, arXiv 2107.03374, do this for
pass@k). A candidate without an answer abstains: it is drawn like any other, and never chosen. Where nobody has an
answer the question is wrong. Ties are shared evenly, which is what "the first one seen" amounts to in a random order.
"""

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

MAX_CANDIDATES = 1000  # binomials of more do not fit into a float
MAX_SUBSETS = 20_000  # of which the weighted vote is counted one by one: all of 16 candidates, 4 of 26, 2 of 200
NUM_DRAWS = 4000  # of subsets where there are more: a standard error of at most 0.8 points for one question


@dataclass(frozen=True)
class Candidate:
    """One sample of a question, as a vote sees it.

    answer: which class of equal answers it is in (answer_classes), or None where it has none.
    score: of a scorer, higher is better; the weighted vote needs it to be 0 or more.
    """

    answer: int | None
    correct: bool
    score: float = 0.0


class Estimate(float):
    """A number with the standard error of the sampling that gave it; stderr 0.0 says that nothing was sampled."""

    stderr: float

    def __new__(cls, value: float, stderr: float = 0.0):
        estimate = super().__new__(cls, value)
        estimate.stderr = float(stderr)
        return estimate


def answer_classes(answers: Sequence[str | None], same: Callable[[str, str], bool]) -> list[int | None]:
    """For each answer the number of its class, counted from 0 in order of first sight; None stays None.

    same: are two answers equal? It is asked with the first answer of each class only, in order, and the first class
        that agrees takes the answer, so it need not be transitive. The same text is the same answer, unasked.
    """
    numbers: dict[str, int] = {}
    firsts: list[str] = []
    for answer in answers:
        if answer is None or answer in numbers:
            continue
        number = next((i for i, first in enumerate(firsts) if same(first, answer)), len(firsts))
        if number == len(firsts):
            firsts.append(answer)
        numbers[answer] = number
    return [None if answer is None else numbers[answer] for answer in answers]


def pass_at_k(candidates: Sequence[Candidate], k: int) -> float:
    """Chance that at least one of k candidates is correct: 1 - C(n - c, k) / C(n, k).

    Raises ValueError unless 1 <= k <= n.
    """
    n = _checked(candidates, k)
    num_wrong = sum(not c.correct for c in candidates)
    return 1.0 - math.comb(num_wrong, k) / math.comb(n, k)


def best_of_k(candidates: Sequence[Candidate], k: int) -> float:
    """Chance that the candidate of the highest score among k is correct, of those that have an answer.

    Candidates of one score are one group, right in the share of its members that is. The best of k is in a group where
    the k are drawn from it and those below (abstaining ones included), but not from those below alone.
    Raises ValueError unless 1 <= k <= n, and for a score that is not a number.
    """
    n = _checked(candidates, k)
    groups: dict[float, list[bool]] = {}
    for c in candidates:
        if c.answer is not None:
            groups.setdefault(c.score, []).append(c.correct)
    chance, num_left = 0.0, n
    for score in sorted(groups, reverse=True):
        correct = groups[score]
        subsets = math.comb(num_left, k) - math.comb(num_left - len(correct), k)
        chance += subsets / math.comb(n, k) * _share(correct)
        num_left -= len(correct)
    return chance


def majority_at_k(candidates: Sequence[Candidate], k: int) -> float:
    """Chance that the answer most of k candidates gave is right; classes with equally many votes share it evenly.

    A class is right in the share of its members that were graded correct, which is 0 or 1 unless the grader and the
    comparison of answers disagree. Raises ValueError unless 1 <= k <= n <= 1,000.
    """
    n = _checked(candidates, k)
    if n > MAX_CANDIDATES:
        raise ValueError(f"majority_at_k counts at most {MAX_CANDIDATES} candidates, not {n}")
    classes = sorted((len(correct), _share(correct)) for correct in _by_answer(candidates).values())
    return _majority_curve(tuple(classes), n - sum(size for size, _ in classes))[k - 1]


@lru_cache(maxsize=10_000)
def _majority_curve(classes: tuple[tuple[int, float], ...], num_abstaining: int) -> list[float]:
    """majority@k for every k from 1 to n. classes: (number of votes, share correct) of each class.

    Subsets are counted by their highest number of votes. For each such number `top` a walk over the classes keeps, by
    (votes given, classes that reached top), in how many ways that can be, and the same weighted with the sum of the
    shares of the classes at the top. All terms are positive, so floats lose nothing that matters (1e-13).
    """
    import numpy as np

    num_votes = sum(size for size, _ in classes)
    won = np.zeros(num_votes + 1)  # by votes given: sum over subsets of the mean share of the classes at the top
    for top in range(1, max((size for size, _ in classes), default=0) + 1):
        most_tied = min(sum(size >= top for size, _ in classes), num_votes // top)
        ways, right = np.zeros((2, num_votes + 1, most_tied + 1))
        ways[0, 0] = 1.0
        for size, share in classes:
            ways_before, right_before = ways, right
            ways, right = np.zeros_like(ways), np.zeros_like(right)
            for votes in range(min(size, top - 1) + 1):
                num_choices = float(math.comb(size, votes))
                ways[votes:] += num_choices * ways_before[: len(ways) - votes]
                right[votes:] += num_choices * right_before[: len(ways) - votes]
            if size >= top:
                num_choices = float(math.comb(size, top))
                reached = ways_before[:-top, :-1]
                ways[top:, 1:] += num_choices * reached
                right[top:, 1:] += num_choices * (right_before[:-top, :-1] + share * reached)
        won += (right[:, 1:] / np.arange(1, most_tied + 1)).sum(axis=1)
    n = num_votes + num_abstaining
    return [
        sum(won[votes] * math.comb(num_abstaining, k - votes) for votes in range(1, min(k, num_votes) + 1))
        / math.comb(n, k)
        for k in range(1, n + 1)
    ]


def weighted_vote_at_k(candidates: Sequence[Candidate], k: int, seed: int = 0) -> Estimate:
    """Chance that the answer with the highest sum of scores among k candidates is right; equal sums share it evenly.

    Sums of scores can be as many as there are subsets, so there is no counting by classes as for the majority. Up to
    20,000 subsets are all looked at, and stderr is 0.0. Where there are more, 4,000 drawn at random give an unbiased
    estimate with its stderr; the same candidates and seed give the same, other candidates draw other subsets.

    A class is right as for majority_at_k. Sums within a billionth are equal.
    Raises ValueError unless 1 <= k <= n, and for a score that is negative or not a number.
    """
    import numpy as np

    n = _checked(candidates, k)
    if any(c.score < 0 for c in candidates if c.answer is not None):
        raise ValueError("the weighted vote takes scores of 0 or more")
    is_exact = math.comb(n, k) <= MAX_SUBSETS
    if is_exact:
        chosen = _all_subsets(n, k)
    else:
        rng = np.random.default_rng([seed, k, zlib.crc32(repr(list(candidates)).encode())])
        chosen = np.argsort(rng.random((NUM_DRAWS, n)), axis=1)[:, :k]
    wins = _weighted_wins(candidates, chosen)
    return Estimate(wins.mean(), 0.0 if is_exact else wins.std(ddof=1) / math.sqrt(len(wins)))


def _weighted_wins(candidates: Sequence[Candidate], chosen):
    """For each row of chosen (subsets x k, numbers of candidates): the mean share correct of the classes that win."""
    import numpy as np

    classes = _by_answer(candidates)
    if not classes:
        return np.zeros(len(chosen))
    is_chosen = np.zeros((len(chosen), len(candidates)))
    np.put_along_axis(is_chosen, chosen, 1.0, axis=1)
    member = np.array([[c.answer == answer for answer in classes] for c in candidates], dtype=float)
    scores = np.array([0.0 if c.answer is None else c.score for c in candidates])
    sums = np.where(is_chosen @ member > 0, is_chosen @ (member * scores[:, None]), -1.0)  # -1: nobody voted for it
    highest = sums.max(axis=1, keepdims=True)
    wins = (sums >= highest * (1 - 1e-9)) & (highest >= 0)
    shares = np.array([_share(correct) for correct in classes.values()])
    return wins @ shares / np.maximum(wins.sum(axis=1), 1)


@lru_cache(maxsize=64)
def _all_subsets(n: int, k: int):
    """All subsets of k of n candidates, as an array of subsets x k."""
    import numpy as np

    return np.array(list(combinations(range(n), k)))


def _by_answer(candidates: Sequence[Candidate]) -> dict[int, list[bool]]:
    """{class: correct or not, for each of its members}, without the abstaining."""
    classes: dict[int, list[bool]] = {}
    for c in candidates:
        if c.answer is not None:
            classes.setdefault(c.answer, []).append(c.correct)
    return classes


def _share(correct: list[bool]) -> float:
    return sum(correct) / len(correct)


def _checked(candidates: Sequence[Candidate], k: int) -> int:
    """The number of candidates."""
    if not 1 <= k <= len(candidates):
        raise ValueError(f"k is {k}, and must be 1 to {len(candidates)}, the number of candidates")
    if any(math.isnan(c.score) for c in candidates):
        raise ValueError("a score is not a number")
    return len(candidates)
