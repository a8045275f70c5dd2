"""Search over thinking: beam search, DVTS and REBASE, steered by a scorer.

    beam search  the n/beam_width best paths go on, each with beam_width steps   (Snell et al., 2408.03314, section 5.2)
    DVTS         n/beam_width trees of their own; in each the best of beam_width steps goes on      (search-and-learn)
    REBASE       all paths go on, with shares of n by the softmax of their scores           (Wu et al., 2408.00724)

A step is thinking up to the next delimiter, at most `max_step_tokens`; delimiters alone are no step. A path whose
thinking has ended (by itself, or by its budget: then with the cue, as budget forcing does) is a leaf. In beam search
and REBASE it takes its place out of the n, so that n paths have answered in the end; in DVTS it ends its tree. The
answer is chosen among the leaves.

Every question goes at its own pace: there is no barrier but the one within a question, where all steps have to be
scored before some go on. Each step has a seed of its own (question, repeat, iteration, tree, number), so children of
one path differ, and the same run gives the same tree again.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any

from core.chat import ChatFormat
from core.config import UserError, option
from core.types import Question, Sample
from eval.scorers import ScoredPath, Scorer
from inference.budget import ForcedDecode, derived_seed
from inference.engine import Delta, Driver, Request, Sampling

METHODS = ("beam_search", "dvts", "rebase")
SELECTIONS = ("majority", "weighted_vote", "best_of_n")


@dataclass
class SearchConfig:
    """One search: a cell of its own."""

    method: str = option(help=f"one of {', '.join(METHODS)}")
    n: int = option(4, help="paths at a time (N in the papers)")
    beam_width: int = option(2, help="steps tried from each path (M in the papers); not of rebase")
    max_thinking_tokens: Any = option("auto", help="of each path, as for a cell")
    max_step_tokens: int = option(512, help="a step longer than this is cut")
    step_delimiter: str = option("\n\n", help="ends a step, wherever a token contains it")
    num_iterations: int = option(40, help="the last step is thought through to its end")
    softmax_temperature: float = option(0.2, help="rebase: lower gives more to the best (0.2 is the released value)")
    repeats: int = option(1, help="searches per question")
    select: str = option("weighted_vote", help=f"how the leaves decide: {', '.join(SELECTIONS)}")


def check_search(config: SearchConfig, sampling: Sampling) -> None:
    """Raises UserError for a search that cannot be."""
    label = f"searches: {search_label(config)}"
    if config.method not in METHODS or config.select not in SELECTIONS:
        raise UserError(f"{label}: method is one of {', '.join(METHODS)}, select one of {', '.join(SELECTIONS)}")
    counts = (config.n, config.beam_width, config.max_step_tokens, config.num_iterations, config.repeats)
    if min(counts) < 1:
        raise UserError(f"{label}: n, beam_width, max_step_tokens, num_iterations and repeats are at least 1")
    if config.method != "rebase" and config.n % config.beam_width:
        raise UserError(f"{label}: n={config.n} is no multiple of beam_width={config.beam_width}")
    if config.softmax_temperature <= 0:
        raise UserError(f"{label}: softmax_temperature must be above 0")
    if config.max_thinking_tokens is None:
        raise UserError(
            f"{label}: without thinking there are no steps to search; max_thinking_tokens is a number or auto"
        )
    if config.n > 1 and sampling.temperature == 0:
        raise UserError(f"{label}: at temperature 0 all paths are one; set sampling.temperature, e.g. 0.8")


def search_label(config: SearchConfig) -> str:
    width = "" if config.method == "rebase" else f" width={config.beam_width}"
    return f"{config.method} n={config.n}{width} max={config.max_thinking_tokens} {config.select}"


def stop_ids_of(delimiter: str, chat: ChatFormat) -> frozenset[int]:
    """Every id whose text contains the delimiter. One that only two ids together spell does not end a step.

    Raises UserError where there is none.
    """
    texts = chat.tokenizer.batch_decode([[i] for i in range(chat.num_token_ids)], clean_up_tokenization_spaces=False)
    ids = frozenset(i for i, text in enumerate(texts) if delimiter in text)
    if not delimiter or not ids:
        raise UserError(
            f"searches: no token contains step_delimiter={delimiter!r}; choose another, e.g. a single newline"
        )
    return ids


class Step:
    """What the driver runs: the next step of a path, or (answer=True) the answer of a leaf.

    decode: of the path; nobody else uses it meanwhile.
    """

    def __init__(self, decode: ForcedDecode, stop_ids: frozenset[int], max_tokens: int | None, answer: bool = False):
        self.decode, self.stop_ids, self.max_tokens, self.answer = decode, stop_ids, max_tokens, answer
        self.num_cached_tokens = 0
        self._ends: frozenset[int] = frozenset()  # what the decoding itself stops at
        self._num_blank = 0  # delimiters with which the step began: they alone are no step
        self._num_received = 0  # ids of the request in flight
        self._is_over = False

    @property
    def phase(self) -> str:
        return self.decode.phase

    @property
    def is_done(self) -> bool:
        return self.decode.is_done

    def next_request(self) -> Request | None:
        if not self.answer and (self._is_over or self.decode.phase == "answer"):
            return None
        request = self.decode.next_request()
        if request is None or self.answer or self.decode.is_probing:
            return request
        self._ends = request.stop_token_ids
        most = request.max_tokens
        if self.max_tokens is not None:
            most = min(most, self.max_tokens - self._num_blank)
        return replace(request, max_tokens=most, stop_token_ids=self._ends | self.stop_ids)

    def advance(self, delta: Delta) -> None:
        self._num_received += len(delta.token_ids)
        at_delimiter = self._is_at_delimiter(delta)
        if at_delimiter:
            delta = replace(delta, finish_reason="length")  # it belongs to the step, and thinking goes on
        self.decode.advance(delta)
        if delta.finish_reason is None:
            return
        self.num_cached_tokens += delta.num_cached_tokens or 0
        is_blank = at_delimiter and self._num_received == 1
        self._num_received = 0
        self._num_blank += is_blank
        self._is_over = not self.decode.is_probing and not (is_blank and self._num_blank < self.max_tokens)

    def _is_at_delimiter(self, delta: Delta) -> bool:
        """And not at the end of thinking, which the decoding looks at itself."""
        if delta.finish_reason != "stop" or self.answer or self.decode.is_probing:
            return False
        return delta.token_ids[-1] in self.stop_ids - self._ends


@dataclass
class Path:
    """Thinking so far. tree: which one in DVTS, else 0. steps: as text. num_thinking: tokens in them.

    sample, answer (its text): of a leaf that has answered.
    """

    decode: ForcedDecode
    tree: int = 0
    steps: tuple[str, ...] = ()
    num_thinking: int = 0
    score: float = 0.0
    sample: Sample | None = None
    answer: str | None = None

    @property
    def is_leaf(self) -> bool:
        """Nothing more to think."""
        return self.decode.phase == "answer" or self.decode.is_done


class Search:
    """The search for one question and repeat. Pure: it says which steps to run, is told what has landed, takes scores.

    root: a decoding that has not begun. seed: of the run, question and repeat together.
    leaves: paths with their answers and final scores, in the order in which they became leaves.
    cost: thinking and answer tokens, those of paths given up among them; prefix tokens found in the engine's cache;
        and tokens that the scorer read.
    """

    def __init__(self, key: Hashable, question: Question, root: ForcedDecode, config: SearchConfig, seed: int,
                 chat: ChatFormat, stop_ids: frozenset[int], scorer: Scorer):  # fmt: skip
        self.key, self.question, self.config, self.scorer = key, question, config, scorer
        self.leaves: list[Path] = []
        self.cost = Counter(thinking=0, answer=0, cached=0, scorer=0)
        self.is_done = False
        self._root, self._seed, self._chat, self._stop_ids = Path(root), seed, chat, stop_ids
        self._children: list[Path] = []  # of this iteration
        self._num_steps = self._num_answers = 0  # in flight
        self._iteration = 0

    def begin(self) -> list[tuple[Path, Step]]:
        n, width = self.config.n, self.config.beam_width
        if self.config.method == "dvts":
            return self._expand([(replace(self._root, tree=tree), width) for tree in range(n // width)])
        return self._expand([(self._root, n)])

    def land(self, path: Path, step: Step) -> None:
        """A step or an answer has finished."""
        self.cost["cached"] += step.num_cached_tokens
        if step.answer:
            self._num_answers -= 1
            path.sample = path.decode.sample()
            path.answer = self._chat.answer_text(path.sample.ids("answer"))
            self.cost["answer"] += path.sample.num_answer_tokens
            return
        self._num_steps -= 1
        ids = path.decode.thinking_ids
        new = ids[path.num_thinking :]
        path.steps += texts_of([new], self._chat)
        path.num_thinking = len(ids)
        self.cost["thinking"] += len(new)

    @property
    def wants_scores(self) -> bool:
        if self._children:
            return self._num_steps == 0
        return self._num_answers == 0 and not self.is_done

    def to_score(self) -> list[ScoredPath]:
        """The steps of this iteration; in the end the leaves, their answer being one more step."""
        return [
            ScoredPath(self.question.text, (*p.steps, *_step(p.answer)), p.decode.mean_logprob)
            for p in self._children or self.leaves
        ]

    def take_scores(self, scores: Sequence[float]) -> list[tuple[Path, Step]]:
        """The scores of `to_score`. What to run next."""
        self.cost["scorer"] += sum(map(self.scorer.num_tokens, self.to_score()))
        for path, score in zip(self._children or self.leaves, scores, strict=True):
            path.score = score
        if not self._children:
            self.is_done = True
            return []
        new_leaves, shares = self._select()
        self._children = []
        self._iteration += 1
        self.leaves += new_leaves
        self._num_answers += len(new_leaves)
        answers = [(path, Step(path.decode, frozenset(), None, answer=True)) for path in new_leaves]
        return answers + self._expand(shares)

    def _select(self) -> tuple[list[Path], list[tuple[Path, int]]]:
        """(new leaves, [(path, number of its next steps)])."""
        if self.config.method == "dvts":
            trees = sorted({path.tree for path in self._children})
            best = [best_of([path for path in self._children if path.tree == tree], 1)[0] for tree in trees]
            return [p for p in best if p.is_leaf], [(p, self.config.beam_width) for p in best if not p.is_leaf]
        leaves = [path for path in self._children if path.is_leaf]
        live = [path for path in self._children if not path.is_leaf]
        width = self.config.n - len(self.leaves) - len(leaves)
        if self.config.method == "beam_search":
            live = best_of(live, self.config.n // self.config.beam_width)
            shares = even_shares(width, len(live))
        else:
            shares = balanced_shares([path.score for path in live], width, self.config.softmax_temperature)
        return leaves, list(zip(live, shares, strict=True))

    def _expand(self, shares: Iterable[tuple[Path, int]]) -> list[tuple[Path, Step]]:
        is_last = self._iteration == self.config.num_iterations - 1
        steps = []
        numbers: Counter[int] = Counter()  # of steps in each tree
        for path, share in shares:
            for _ in range(share):
                seed = derived_seed(self._seed, self._iteration, path.tree, numbers[path.tree])
                numbers[path.tree] += 1
                child = replace(path, decode=path.decode.fork(seed))
                limits = (frozenset(), None) if is_last else (self._stop_ids, self.config.max_step_tokens)
                steps.append((child, Step(child.decode, *limits)))
        self._children = [child for child, _ in steps]
        self._num_steps = len(steps)
        return steps


def run_searches(driver: Driver, searches: Iterable[Search]) -> Iterator[Search]:
    """Runs them side by side; yields each when it is done. Whatever is ready is scored in one batch."""
    waiting = iter(searches)
    running: dict[Hashable, Search] = {}
    in_flight: dict[Hashable, tuple[Search, Path]] = {}
    number = count()

    def add(search: Search, steps: list[tuple[Path, Step]]) -> None:
        for path, step in steps:
            key = ("search", next(number))
            in_flight[key] = search, path
            driver.add(key, step)

    while True:
        while driver.has_room and (search := next(waiting, None)) is not None:
            running[search.key] = search
            add(search, search.begin())
        if not running:
            return
        for key, step in driver.step():
            search, path = in_flight.pop(key)
            search.land(path, step)
        ready = [search for search in running.values() if search.wants_scores]
        batches = [search.to_score() for search in ready]
        scores = iter(ready[0].scorer.score([path for batch in batches for path in batch]) if ready else [])
        for search, batch in zip(ready, batches, strict=True):
            add(search, search.take_scores(list(islice(scores, len(batch)))))
            if search.is_done:
                yield running.pop(search.key)


def best_of(paths: list[Path], keep: int) -> list[Path]:
    """The highest scores, best first; of equal ones the earlier."""
    return sorted(paths, key=lambda path: -path.score)[:keep]


def even_shares(total: int, num: int) -> list[int]:
    """total as num whole shares, as even as can be, the first ones one larger."""
    return [total // num + (i < total % num) for i in range(num)]


def balanced_shares(scores: Sequence[float], total: int, temperature: float) -> list[int]:
    """total as whole shares in proportion to exp(score / temperature): REBASE's weights, with the largest remainders
    rounded up so that the sum is exact. (The released code rounds every share up from the best on, while any are left,
    so that the lower half gets less than its weight.)"""
    highest = max(scores, default=0.0)
    weights = [math.exp((score - highest) / temperature) for score in scores]
    exact = [total * weight / sum(weights) for weight in weights]
    shares = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: shares[i] - exact[i])
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return shares


def choose(classes: Sequence[int | None], scores: Sequence[float], select: str) -> int:
    """Which leaf speaks for the search: the best-scored one of the answer that wins.

    classes: of equal answers; None did not answer and has no vote. Equal votes: the answer with the best single score.
    """
    voters = [i for i, answer in enumerate(classes) if answer is not None]
    if not voters:
        return 0
    best = sorted(voters, key=lambda i: -scores[i])
    if select == "best_of_n":
        return best[0]
    votes: Counter[int] = Counter()
    for i in best:
        votes[classes[i]] += scores[i] if select == "weighted_vote" else 1
    return max(best, key=lambda i: votes[classes[i]])


def texts_of(steps: Iterable[Sequence[int]], chat: ChatFormat) -> tuple[str, ...]:
    """Steps as a scorer reads them: without special tokens and the white space around; empty ones are none."""
    texts = (chat.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) for ids in steps)
    return tuple(step for text in texts for step in _step(text))


def _step(text: str | None) -> tuple[str, ...]:
    return (text.strip(),) if text and text.strip() else ()
