"""Decontamination: which questions of a pool are also in an evaluation set.

The rule here ("content") flags a question when one of three holds, the strongest first:

    exact            equal after normalisation
    ngram            13 words in a row are shared, none of them boilerplate
    near_duplicate   the words that are not boilerplate have a Jaccard similarity of 0.7 or more (3-word shingles)

Two guards keep it from flagging what only looks alike:

- *Boilerplate does not count.* A 5-gram that occurs in an evaluation set and, over pool and evaluation sets, in more
  than ten distinct questions (or 0.1% of them) identifies no question: "m and n are relatively prime positive
  integers", or the sentence around generated arithmetic. The data themselves say which. So a question with more than
  ten differing copies in the pool could hide the ngram and near_duplicate rules, but never the exact one.
- *Numbers are the question.* ngram and near_duplicate also need the digits of one text to occur in a row in the other:
  "4 - 1 - 7" and "4 - 2 - 7" are different questions, a problem quoted inside a longer one is the same.

Near-duplicates are found through an inverted index of the evaluation shingles, which is exact: a candidate that shares
no shingle has similarity 0.

The rule "s1-8gram" is s1's own (PAPER 1.5): lower case, whitespace collapsed, one shared 8-gram flags. It knows no
boilerplate (89 of 893 s1K questions share an 8-gram with MATH500, of which 3 are true duplicates), and it cannot flag
a question of fewer than eight words.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.types import Question

RULES = ("content", "s1-8gram")

BOILERPLATE_WORDS = 5
MAX_SHARED, MAX_SHARED_FRACTION = 10, 0.001  # distinct questions a 5-gram may occur in before it is boilerplate
SHINGLE_WORDS = 3
# Below this many words that are not boilerplate, similarity means nothing: only equality counts ("calculate 5 - 3").
MIN_CONTENT_WORDS = 8

Words = tuple[str, ...]


@dataclass(frozen=True)
class Hit:
    """question (of the pool) is contaminated by match (of an evaluation set); evidence says what they share."""

    question: Question
    match: Question
    rule: str  # exact, ngram, near_duplicate or s1_8gram
    evidence: str


def find_contaminated(
    pool: Sequence[Question], against: Sequence[Question], rule: str = "content", ngram: int = 13, jaccard: float = 0.7
) -> dict[str, Hit]:
    """The contaminated questions of `pool`: question id -> its strongest hit.

    ngram: length in words of a shared run that flags, under the rule "content".
    jaccard: similarity from which two questions are near-duplicates, in (0, 1].
    """
    if rule == "s1-8gram":
        return _shared_8grams(pool, against)
    assert rule == "content", rule
    pool_words, against_words = [[words_of(q.text) for q in qs] for qs in (pool, against)]
    boilerplate = boilerplate_grams(pool_words, against_words)
    index = _Index(against, against_words, boilerplate, ngram)
    hits = {}
    for question, words in zip(pool, pool_words, strict=True):
        hit = index.exact(words) or index.shared_ngram(words) or index.near_duplicate(words, jaccard)
        if hit:
            hits[question.id] = Hit(question, *hit)
    return hits


# Stand-ins, to be replaced


def read_evaluation_set(path: str | Path) -> list[Question]:
    from eval.run import load_questions

    return load_questions(path)


def near_duplicates_within(pool: Sequence[Question]) -> dict[str, Hit]:
    first: dict[Words, Question] = {}
    hits = {}
    for question in pool:
        words = words_of(question.text)
        if first.setdefault(words, question) is not question:
            hits[question.id] = Hit(question, first[words], "duplicate_in_pool", "equal")
    return hits


# Normalisation

_ASY = re.compile(r"\[asy\].*?(\[/asy\]|$)", re.DOTALL)  # drawing code shares long runs and asks nothing
_EMPTY_SCRIPT = re.compile(r"[_^]\{\s*\}")  # the AIME rows of the AoPS wiki write $20_{}^{}!$
_LAYOUT_COMMAND = re.compile(
    r"\\(?:(?:begin|end)\{[^}]*\}|(?:left|right|[bB]igg?[lrm]?|text\w*|math(?:rm|bf|bb|it|cal|sf)|operatorname|mbox"
    r"|displaystyle|limits|nolimits|q?quad|hspace|vspace|[hv]fill|[dlc]?dots[bcim]?)(?![a-z]))"
)
_SYNONYMS = {"leq": "le", "geq": "ge", "neq": "ne", "dfrac": "frac", "tfrac": "frac", "cdot": "*", "times": "*"}
_COMMAND = re.compile(r"\\([a-z]+)")
_UNICODE = str.maketrans({"\u2212": "-", "\u2013": "-", "\u2014": " ", "\u00d7": "*", "\u22c5": "*", "\u00b7": "*",
                          "\u2264": " le ", "\u2265": " ge ", "\u2260": " ne "})  # fmt: skip
_THOUSANDS = re.compile(r"(?<=\d)(?:,|\{,\})(?=\d{3}(?!\d))")
_HYPHEN = re.compile(r"(?<=[a-z])\s?-+\s?(?=[a-z])")
_PUNCTUATION = re.compile(r"(?<!\d)\.|\.(?!\d)|[,;:!?\"'`()\[\]{}$\\_#|~&@\u2018\u2019\u201c\u201d]")
_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+|[^\s\w]")


def words_of(text: str) -> Words:
    """The words of a question as they are compared: lower case, without LaTeX markup and punctuation.

    Numbers stay whole words (1,000 and 1{,}000 become 1000), operators stay ("2^3", "4 - 1"), names of other LaTeX
    commands stay as words (\\sqrt, \\alpha), a hyphen between letters goes.
    """
    text = unicodedata.normalize("NFKC", text).translate(_UNICODE)
    text = _EMPTY_SCRIPT.sub("", _ASY.sub(" ", text).replace("\\!", ""))
    text = _LAYOUT_COMMAND.sub(" ", text).lower()
    text = _COMMAND.sub(lambda m: f" {_SYNONYMS.get(m[1], m[1])} ", text)
    text = _PUNCTUATION.sub(" ", _THOUSANDS.sub("", text))
    return tuple(_WORD.findall(_HYPHEN.sub(" ", text)))


def _digits(words: Words) -> str:
    return "".join(c for word in words for c in word if c.isdigit())


# What does not count


def boilerplate_grams(pool: Iterable[Words], against: Iterable[Words]) -> set[Words]:
    """The 5-grams of `against` that occur in too many distinct questions of `pool` and `against` to identify one."""
    distinct = {*pool, *against}
    counts = Counter({gram: 0 for words in against for gram in _grams(words, BOILERPLATE_WORDS)})
    for words in distinct:
        counts.update(gram for gram in set(_grams(words, BOILERPLATE_WORDS)) if gram in counts)
    limit = max(MAX_SHARED, MAX_SHARED_FRACTION * len(distinct))
    return {gram for gram, count in counts.items() if count > limit}


def _runs(words: Words, boilerplate: set[Words]) -> list[Words]:
    """The stretches of `words` that no boilerplate 5-gram covers, in order."""
    covered = [False] * len(words)
    for i, gram in enumerate(_grams(words, BOILERPLATE_WORDS)):
        if gram in boilerplate:
            covered[i : i + BOILERPLATE_WORDS] = [True] * BOILERPLATE_WORDS
    runs: list[list[str]] = [[]]
    for word, cover in zip(words, covered, strict=True):
        if not cover:
            runs[-1].append(word)
        elif runs[-1]:
            runs.append([])
    return [tuple(run) for run in runs if run]


def _grams(words: Words, n: int) -> Iterator[Words]:
    return (words[i : i + n] for i in range(len(words) - n + 1))


# The three rules


class _Index:
    """The evaluation questions, looked up by their words. Each look-up returns (match, rule, evidence) or None."""

    def __init__(self, questions: Sequence[Question], words: Sequence[Words], boilerplate: set[Words], ngram: int):
        self.questions, self.boilerplate, self.n = questions, boilerplate, ngram
        self.digits = [_digits(w) for w in words]
        self.by_words: dict[Words, int] = {}
        self.by_ngram: dict[Words, list[int]] = {}
        self.by_shingle: dict[Words, list[int]] = {}
        self.num_shingles: list[int] = []
        for i, w in enumerate(words):
            self.by_words.setdefault(w, i)
            runs = _runs(w, boilerplate)
            for gram in {g for run in runs for g in _grams(run, ngram)}:
                self.by_ngram.setdefault(gram, []).append(i)
            shingles = self._shingles(runs)
            self.num_shingles.append(len(shingles))
            for shingle in shingles:
                self.by_shingle.setdefault(shingle, []).append(i)

    @staticmethod
    def _shingles(runs: list[Words]) -> set[Words]:
        content = tuple(word for run in runs for word in run)
        return set(_grams(content, SHINGLE_WORDS)) if len(content) >= MIN_CONTENT_WORDS else set()

    def exact(self, words: Words):
        i = self.by_words.get(words)
        return None if i is None or not words else (self.questions[i], "exact", " ".join(words))

    def shared_ngram(self, words: Words):
        digits = _digits(words)
        for run in _runs(words, self.boilerplate):
            for gram in _grams(run, self.n):
                for i in self.by_ngram.get(gram, ()):
                    if _same_numbers(digits, self.digits[i]):
                        return self.questions[i], "ngram", " ".join(gram)
        return None

    def near_duplicate(self, words: Words, threshold: float):
        shingles = self._shingles(_runs(words, self.boilerplate))
        shared = Counter(i for shingle in shingles for i in self.by_shingle.get(shingle, ()))
        candidates = [(i, n) for i, n in shared.items() if n >= threshold * len(shingles)]  # else it cannot be reached
        digits = _digits(words)
        similar = [
            (n / (len(shingles) + self.num_shingles[i] - n), -i)  # of equals the first
            for i, n in candidates
            if _same_numbers(digits, self.digits[i])
        ]
        similarity, i = max(similar, default=(0.0, 0))
        if similarity < threshold:
            return None
        return self.questions[-i], "near_duplicate", f"Jaccard {similarity:.2f}"


def _same_numbers(digits: str, other: str) -> bool:
    return digits in other or other in digits


# s1's rule


def _shared_8grams(pool: Sequence[Question], against: Sequence[Question]) -> dict[str, Hit]:
    first = {}
    for other in against:
        for gram in _grams(tuple(other.text.lower().split()), 8):
            first.setdefault(gram, other)
    hits = {}
    for question in pool:
        gram = next((g for g in _grams(tuple(question.text.lower().split()), 8) if g in first), None)
        if gram:
            hits[question.id] = Hit(question, first[gram], "s1_8gram", " ".join(gram))
    return hits
