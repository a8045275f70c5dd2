"""Decontamination: which questions of a pool are also in an evaluation set, and which are in the pool twice.

The rule "content" compares questions by their normalised words (`words_of`) and flags, the strongest first,

    exact            the same words
    ngram            13 words in a row are shared, none of them boilerplate
    near_duplicate   the words that are not boilerplate have a Jaccard similarity of 0.35 or more (3-word shingles)

the last two only where both texts ask the same (`same_question`). Contests reuse phrases, generators templates, and
textbooks ask three things about one figure. What tells two such questions apart is that each has something the other
lacks (a number, a letter, an operator, a word); a copy has additions on one side at most.

Boilerplate does not count. A 5-gram that more than ten distinct questions share (or 0.1% of them) identifies no
question: "m and n are relatively prime positive integers", or the sentence around generated arithmetic. The data
themselves say which. A question with more than ten differing copies could so hide from ngram and near_duplicate, but
never from exact.

Pairs worth comparing come from an inverted index of 3-word shingles, in arrays: two texts are compared if they share a
quarter of the shingles of the shorter, counting those that at most 20 texts have. MinHash, the usual way, takes longer
at 59K questions and finds less; benchmarks/funnel.txt has the numbers.

The rule "s1-8gram" is s1's own: lower case, whitespace collapsed, one shared 8-gram flags. It knows no
boilerplate (89 of 893 s1K questions share an 8-gram with MATH500, of which 4 are true duplicates), and it cannot flag
a question of fewer than eight words.
"""

import hashlib
import itertools
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from core.config import UserError
from core.runs import finished
from core.tables import file_table, whole_rows
from core.types import Question, question_from_row

RULES = ("content", "s1-8gram")

NGRAM_WORDS, JACCARD = 13, 0.35
SHINGLE_WORDS = 3
BOILERPLATE_WORDS = 5
MAX_SHARED, MAX_SHARED_FRACTION = 10, 0.001  # distinct questions a 5-gram may occur in before it is boilerplate
MAX_POSTINGS = 20  # texts a shingle may occur in to find candidates: keeps their number linear in the pool
CODE_BITS = 38  # of an n-gram; leaves 25 bits for the text it is from
MIN_SHARED, MIN_SHARED_FRACTION = 2, 1 / 4  # shingles a candidate shares
WORDS_PER_SLIP = 50  # both texts may have one word of their own per so many: "parallel" for "perpendicular"
MAX_OWN_WORDS = 200  # differing words beyond which none is looked up in the other text
# Below this many words that are not boilerplate, similarity means nothing: only equality counts ("calculate 5 - 3").
MIN_CONTENT_WORDS = 8
MIN_WORDS_BESIDE_DRAWING = 30  # a shorter text with drawing code asks about the drawing

Words = tuple[str, ...]


@dataclass(frozen=True)
class Hit:
    """question (of the pool) is a copy of match (of an evaluation set, or kept in the pool); both have their texts."""

    question: Question
    match: Question
    rule: str  # exact, ngram, near_duplicate, s1_8gram or duplicate_in_pool
    evidence: str  # what they share


def find_contaminated(
    pool: Sequence[Question],
    against: Sequence[Question],
    rule: str = "content",
    ngram: int = NGRAM_WORDS,
    jaccard: float = JACCARD,
) -> dict[str, Hit]:
    """The contaminated questions of `pool`: question id -> its strongest hit.

    ngram: length in words of a shared run that flags, under the rule "content".
    jaccard: similarity from which two questions are near-duplicates, in (0, 1].
    """
    if rule == "s1-8gram":
        return _shared_8grams(pool, against)
    assert rule == "content", rule
    num = len(against)
    corpus = Corpus([q.text for q in itertools.chain(against, pool)], num_templates=num)
    first = {key: i for i, key in reversed([*enumerate(corpus.keys[:num])]) if key}
    best: dict[int, tuple[Likeness, int]] = {}
    for i, key in enumerate(corpus.keys[num:], num):
        if key in first:
            best[i] = Likeness("exact", 1.0, " ".join(corpus.words(i))), first[key]
    for match, i in corpus.candidates(num):
        if i in best and best[i][0].rule == "exact":
            continue
        likeness = corpus.compare(match, i, ngram, jaccard)
        if likeness and (i not in best or likeness.rank > best[i][0].rank):  # of equals the first
            best[i] = likeness, match
    hits = {}
    for i in sorted(best):
        likeness, match = best[i]
        question = pool[i - num]
        hits[question.id] = Hit(question, against[match], likeness.rule, likeness.evidence)
    return hits


def near_duplicates_within(
    pool: Sequence[Question], ngram: int = NGRAM_WORDS, jaccard: float = JACCARD
) -> dict[str, Hit]:
    """The questions of `pool` that are copies of another one, which is kept: question id -> hit against the kept one.

    Questions are visited by name, those with an answer first, and stay unless they copy one that stayed: the same for
    every order of the pool. Every dropped question is so itself a copy of a kept one, not a copy of a copy.
    """
    questions = sorted({q.id: q for q in pool}.values(), key=lambda q: (q.answer is None, q.id))
    corpus = Corpus([q.text for q in questions])
    copies: dict[int, list[tuple[int, Likeness]]] = {}
    kept: dict[bytes, int] = {}
    for i, j in corpus.candidates():
        if corpus.keys[i] != corpus.keys[j] and (likeness := corpus.compare(i, j, ngram, jaccard)):
            copies.setdefault(j, []).append((i, likeness))
    hits: dict[str, Hit] = {}
    for j, (question, key) in enumerate(zip(questions, corpus.keys, strict=True)):
        if key in kept:
            found = [(kept[key], "the same words")]
        else:
            found = [(i, likeness.evidence) for i, likeness in copies.get(j, ()) if questions[i].id not in hits]
        if found:
            i, evidence = found[0]
            hits[question.id] = Hit(question, questions[i], "duplicate_in_pool", evidence)
        elif key:
            kept.setdefault(key, j)
    return hits


# Normalisation

_DRAWING = re.compile(r"\[asy\].*?(?:\[/asy\]|$)", re.DOTALL)  # shares long runs and seldom asks anything
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{[^}]*\}(?:\{[clr|@{} ]*\})?")
_SHORT_FRACTION = re.compile(r"\\[dtc]?frac\s*(\d)\s*(\d)")  # \frac12 is \frac{1}{2}
# One table for lower case and for brackets and the like, which become blanks: on bytes it costs next to nothing
_PLAIN = bytes(ord(" ") if chr(i) in "$()[]{}\"'`;:?!~&@#|_^/" else ord(chr(i).lower()) for i in range(128))
_PLAIN += bytes(range(128, 256))
_UNICODE = str.maketrans({"\u2212": "-", "\u2013": "-", "\u2014": " ", "\u2018": " ", "\u2019": " ", "\u201c": " ",
                          "\u201d": " ", "\u00d7": "*", "\u22c5": "*", "\u00b7": "*", "\u2264": r" \le ",
                          "\u2265": r" \ge ", "\u2260": r" \ne ", "\u221a": r" \sqrt ", "\u00b0": " degrees ",
                          "\u2208": r" \in ", "\u2220": r" \angle ", "\u25b3": r" \triangle ", "\u221e": r" \infty ",
                          "\u00f7": r" \div ", "\u2192": r" \to ",
                          })  # fmt: skip
_GREEK = """alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi o pi rho sigma sigma tau upsilon
    phi chi psi omega"""
_UNICODE |= {0x3B1 + i: f" \\{name} " for i, name in enumerate(re.findall(r"\w+", _GREEK))}
_TOKEN = re.compile(r"\\[a-z]+|\d{1,3}(?:,\d{3})+(?![\d,])|\d*\.\d+|\d+|[^\W\d_]+|[-+*=<>%]")
# A hyphen next to a word is no minus: well-known, 1000-element, x-axis; nor are two in a row
_HYPHEN = re.compile(r"(?<=[a-z0-9])-+(?=[a-z]{2})|(?<=[a-z]{2})-+(?=[a-z])|^-+(?=[a-z]{2})|--+")
_LAYOUT = """left right big bigg bigl bigr bigm biggl biggr operatorname mbox displaystyle limits nolimits quad qquad
    hspace vspace hfill vfill dots ldots cdots ddots vdots dotsb dotsc dotsm dotsi frac dfrac tfrac cfrac item mathrm
    mathbf mathbb mathit mathcal mathsf text textbf textit textrm texttt textsf textdollar boldsymbol emph rm bf cal
    hline overline underline lvert rvert vert allowbreak"""
_LAYOUT = frozenset(re.findall(r"\w+", _LAYOUT))
_SAME = {
    "leq": "le", "leqslant": "le", "geq": "ge", "geqslant": "ge", "neq": "ne", "cdot": "*", "times": "*", "lt": "<",
    "gt": ">", "circ": "degree", "percent": "%", "to": "rightarrow", "overarc": "arc", "wideparen": "arc",
    "varphi": "phi", "varepsilon": "epsilon", "measuredangle": "angle", "smallest": "least", "minimum": "least",
    "minimal": "least", "largest": "greatest", "maximum": "greatest", "maximal": "greatest", "upon": "on",
    "colour": "color", "equals": "=",
}  # fmt: skip
_TENS = re.findall(r"\w+", "twenty thirty forty fifty sixty seventy eighty ninety")
_TENS = {word: 10 * n for n, word in enumerate(_TENS, 2)}
_UNITS = """two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen"""
_UNITS = {word: n for n, word in enumerate(re.findall(r"\w+", _UNITS), 2)}
_NUMBER_WORD = re.compile(f"({'|'.join(_TENS)})-(one|{'|'.join(w for w, n in _UNITS.items() if n < 10)})")


def words_of(text: str) -> Words:
    """The words of a question as they are compared: lower case, without LaTeX markup, punctuation and drawings.

    Numbers are whole words in one spelling (1,000 and 1{,}000; .50 and 0.5; \\frac12 and 1/2; twelve and 12), the
    operators + - * = < > stay, names of other LaTeX commands stay as words (\\sqrt, \\alpha), plurals become singular.
    """
    return tuple(word for piece in _pieces(text) for word in _words_of_piece(piece))


def _pieces(text: str) -> list[bytes]:
    """The text cut at blanks and brackets. What a piece says is looked up, so this is all that runs for every text."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.lower().translate(_UNICODE))
    if "[asy]" in text:
        text = _DRAWING.sub(" ", text)
    if "\\" in text:
        if "\\begin" in text:
            text = _ENVIRONMENT.sub(" ", text)
        if "frac" in text:
            text = _SHORT_FRACTION.sub(r" \1 \2 ", text)
        text = text.replace("\\!", "").replace("\\\\", " ")
    return text.replace("{,}", ",").encode(errors="replace").translate(_PLAIN).split()


def _words_of_piece(piece: bytes) -> Iterator[str]:
    text = piece.decode()
    if "-" in text:
        text = _NUMBER_WORD.sub(lambda m: str(_TENS[m[1]] + _UNITS.get(m[2], 1)), text)
        text = _HYPHEN.sub(" ", text)
    for token in _TOKEN.findall(text):
        if token[0] == "\\":
            if token[1:] not in _LAYOUT:
                yield _SAME.get(token[1:], token[1:])
        elif token[0] == "." or token[0].isdigit():
            yield _number(token)
        elif token == "to":
            yield token  # the word, not the arrow
        else:
            token = str(_UNITS.get(token, _TENS.get(token, _SAME.get(token, token))))
            yield token[:-1] if len(token) > 3 and token[-1] == "s" and token[-2] != "s" else token


def _number(token: str) -> str:
    token = token.replace(",", "")
    if "." in token:
        token = token.rstrip("0").rstrip(".")
        token = token if token[:1].isdigit() else "0" + token
    return token


class _Vocabulary(dict):
    """piece -> its number; `ids` has the words of each piece as ids, worked out when the piece is met first."""

    def __init__(self):
        self.words: dict[str, int] = {}
        self.ids: list[list[int]] = []

    def __missing__(self, piece: bytes) -> int:
        self[piece] = number = len(self.ids)
        self.ids.append([self.words.setdefault(word, len(self.words)) for word in _words_of_piece(piece)])
        return number


# What two questions share


class Likeness(NamedTuple):
    rule: str
    similarity: float
    evidence: str

    @property
    def rank(self) -> tuple[int, float]:
        return ("near_duplicate", "ngram", "exact").index(self.rule), self.similarity


class Corpus:
    """Texts as word ids end to end, with what is boilerplate among them, and an index of their shingles.

    num_templates: only the first so many texts say what may be boilerplate (those of the evaluation); None: all do.
    """

    def __init__(self, texts: Sequence[str], num_templates: int | None = None):
        vocabulary, pieces, ends = _Vocabulary(), array("i"), []
        self.drawings: dict[int, str] = {}
        for i, text in enumerate(texts):
            pieces.extend(map(vocabulary.__getitem__, _pieces(text)))
            ends.append(len(pieces))
            if "[asy]" in text:
                self.drawings[i] = _digits("".join(_DRAWING.findall(text)))
        self.names = list(vocabulary.words)
        words = np.array([*itertools.chain.from_iterable(vocabulary.ids)], np.int32)
        lengths = np.array([len(ids) for ids in vocabulary.ids], np.int64)
        piece = np.array(pieces, np.int64)
        self.ids = words[_spans((np.cumsum(lengths) - lengths)[piece], lengths[piece])]
        self.ends = np.append(0, np.cumsum(lengths[piece]))[ends] if ends else np.zeros(0, np.int64)
        self.lengths = np.diff(self.ends, prepend=0)
        self.text_of = np.repeat(np.arange(len(ends)), self.lengths)
        data, bounds = self.ids.tobytes(), (self.ids.itemsize * self.ends).tolist()
        self.keys = [data[a:b] for a, b in itertools.pairwise([0, *bounds])]  # equal for texts of the same words
        for i in self.drawings:
            if self.lengths[i] < MIN_WORDS_BESIDE_DRAWING:
                self.keys[i] += self.drawings[i].encode()
        hashes = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in self.names)
        self.word_codes = np.frombuffer(b"".join(hashes), np.uint64)
        self.boilerplate = self._boilerplate(len(ends) if num_templates is None else num_templates)
        self.content = lru_cache(10_000)(self._content)

    def __len__(self) -> int:
        return len(self.lengths)

    def _slice(self, i: int) -> slice:
        return slice(self.ends[i] - self.lengths[i], self.ends[i])

    def words(self, i: int) -> Words:
        return tuple(map(self.names.__getitem__, self.ids[self._slice(i)].tolist()))

    def runs(self, i: int) -> list[Words]:
        """The stretches of text i that are not boilerplate, in order."""
        covered = self.boilerplate[self._slice(i)].tolist()
        groups = itertools.groupby(zip(covered, self.words(i), strict=True), key=lambda pair: pair[0])
        return [tuple(word for _, word in group) for cover, group in groups if not cover]

    def _content(self, i: int) -> tuple[list[Words], set[Words]]:
        """(runs, shingles) of text i; the shingles run over the gaps."""
        runs = self.runs(i)
        return runs, set(_grams(tuple(itertools.chain.from_iterable(runs)), SHINGLE_WORDS))

    def same_drawing(self, i: int, j: int) -> bool:
        """False where two short texts ask about different drawings ("Find the area of the shaded region")."""
        drawings = self.drawings.get(i), self.drawings.get(j)
        long = min(self.lengths[i], self.lengths[j]) >= MIN_WORDS_BESIDE_DRAWING
        return long or None in drawings or drawings[0] == drawings[1]

    def compare(self, i: int, j: int, ngram: int, jaccard: float) -> Likeness | None:
        (runs_i, shingles_i), (runs_j, shingles_j) = self.content(i), self.content(j)
        shared = len(shingles_i & shingles_j)
        similarity = shared / max(1, len(shingles_i) + len(shingles_j) - shared)
        grams = {gram for run in runs_i for gram in _grams(run, ngram)}
        gram = next((g for run in runs_j for g in _grams(run, ngram) if g in grams), None)
        enough = min(len(shingles_i), len(shingles_j)) > MIN_CONTENT_WORDS - SHINGLE_WORDS
        if gram is None and not (enough and similarity >= jaccard):
            return None
        if not self.same_drawing(i, j) or not same_question(self.words(i), self.words(j)):
            return None
        if gram is not None:
            return Likeness("ngram", similarity, " ".join(gram))
        return Likeness("near_duplicate", similarity, f"Jaccard {similarity:.2f}")

    # in arrays

    def _gram_codes(self, ids: np.ndarray, text_of: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """(codes, positions) of the n-grams that lie within one text. Equal n-grams have equal codes of CODE_BITS."""
        num = max(0, len(ids) - n + 1)
        codes = np.zeros(num, np.uint64)
        for k in range(n):
            codes *= np.uint64(0x9E3779B97F4A7C15)  # odd, so nothing is lost modulo 2^64
            codes += self.word_codes[ids[k : num + k]]
        at = np.flatnonzero(text_of[:num] == text_of[n - 1 : num + n - 1])
        return (codes[at] >> np.uint64(64 - CODE_BITS)).astype(np.int64), at

    def _boilerplate(self, num_templates: int) -> np.ndarray:
        """For every word whether a 5-gram covers it that too many distinct texts share."""
        distinct = np.zeros(len(self), bool)
        distinct[[*dict(zip(self.keys, range(len(self)), strict=True)).values()]] = True
        codes, at = self._gram_codes(self.ids, self.text_of, BOILERPLATE_WORDS)
        if num_templates < len(self):
            found, _ = _find(codes, np.sort(codes[self.text_of[at] < num_templates]))
            codes, at = codes[found], at[found]
        counted = distinct[self.text_of[at]]
        code, _, start, count = _postings(codes[counted], self.text_of[at[counted]])
        limit = max(MAX_SHARED, MAX_SHARED_FRACTION * distinct.sum())
        found, _ = _find(codes, code[start[count > limit]])
        covered = np.zeros(len(self.ids), bool)
        for k in range(BOILERPLATE_WORDS):
            covered[at[found] + k] = True
        return covered

    def candidates(self, num: int | None = None) -> list[tuple[int, int]]:
        """Pairs (i, j) of texts that share enough rare shingles: i below num and j not, or i < j where num is None."""
        content = ~self.boilerplate
        text_of = self.text_of[content]
        codes, at = self._gram_codes(self.ids[content], text_of, SHINGLE_WORDS)
        texts = text_of[at]
        num_shingles = np.bincount(texts, minlength=len(self))
        indexed = texts < (len(self) if num is None else num)
        code, owner, start, count = _postings(codes[indexed], texts[indexed])
        rare = (count <= MAX_POSTINGS) & (count > (1 if num is None else 0))
        start, count = start[rare], count[rare]
        if num is None:
            which = np.repeat(np.arange(len(start)), count)
            probing = owner[_spans(start, count)]
        else:
            found, which = _find(codes[~indexed], code[start])
            probing = texts[~indexed][found]
        j = np.repeat(probing, count[which])
        i = owner[_spans(start[which], count[which])]
        pairs, shared = np.unique((j * len(self) + i)[i < j], return_counts=True)
        j, i = np.divmod(pairs, max(1, len(self)))
        enough = shared >= np.maximum(MIN_SHARED, MIN_SHARED_FRACTION * np.minimum(num_shingles[i], num_shingles[j]))
        return list(zip(i[enough].tolist(), j[enough].tolist(), strict=True))


def _postings(codes: np.ndarray, texts: np.ndarray) -> tuple[np.ndarray, ...]:
    """(code, text) of every text a code occurs in, sorted, and per code where its texts start and how many they are."""
    # packed into one number, because sorting numbers is ten times as fast as sorting pairs
    packed = np.sort(codes << (63 - CODE_BITS) | texts)
    packed = packed[np.diff(packed, prepend=-1) != 0]
    code, text = packed >> (63 - CODE_BITS), packed & ((1 << (63 - CODE_BITS)) - 1)
    start = np.flatnonzero(np.diff(code, prepend=-1))
    return code, text, start, np.diff(start, append=len(code))


def _spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The indices starts[0], starts[0] + 1, ... (lengths[0] of them), starts[1], ..."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def _find(values: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(positions of the values that are in the sorted table, where in it they are)."""
    near = np.zeros(1 << 22, bool)  # by the highest bits: spares nearly all values the search
    near[table >> (CODE_BITS - 22)] = True
    at = np.flatnonzero(near[values >> (CODE_BITS - 22)])
    index = np.minimum(np.searchsorted(table, values[at]), len(table) - 1)
    found = table[index] == values[at]
    return at[found], index[found]


def _grams(words: Words, n: int) -> Iterator[Words]:
    return (words[i : i + n] for i in range(len(words) - n + 1))


def _digits(text: str) -> str:
    return "".join(c for c in text if c.isdigit())


# Whether they ask the same

_OPERATORS = frozenset(("+", "-", "<", ">", "le", "ge", "ne"))
# Function words and the set phrases of problems: they may differ on both sides.
_PHRASING = frozenset(
    words_of(
        """a an the of in on at to for from by with as into over upon within between among per about is are was were be
        been being and or if then that this these those it its which who whom whose where when while such so thus also
        there here they their them he she his her him we our us you your i has have had having can could may might will
        would shall should do does did again once out up down only both each every all any some other another let
        suppose given assume consider define denote say call find determine compute calculate evaluate give state show
        express expressed write written form what how many much value number possible exist exists satisfy satisfies
        satisfying following below above shown figure diagram answer note please solve respectively real true hint
        problem question"""
    )
)


def same_question(one: Words, other: Words) -> bool:
    """Whether two texts that share much also ask the same: where they differ, not each has something of its own.

    Numbers: not both texts have one the other lacks, unless only their digits are grouped otherwise ("3 5", "35").
    Operators and letters: likewise, but a letter may be renamed throughout.
    Words: likewise, phrasing aside; a word may be spelled or cut otherwise ("encounted", "mn" for "m n"), and in a long
    text a few may differ, since publications differ in such slips.
    """
    left, right = Counter(one), Counter(other)
    left, right = left - right, right - left
    return (
        _same_numbers(one, other, left, right)
        and not (_OPERATORS & left.keys() and _OPERATORS & right.keys())
        and _same_letters(one, other, left, right)
        and _same_words(left, right, min(len(one), len(other)) // WORDS_PER_SLIP)
    )


def _same_numbers(one: Words, other: Words, left: Counter, right: Counter) -> bool:
    digits, others = _digits("".join(one)), _digits("".join(other))
    one_sided = not (any(w[0].isdigit() for w in left) and any(w[0].isdigit() for w in right))
    return one_sided or digits in others or others in digits


def _same_letters(one: Words, other: Words, left: Counter, right: Counter) -> bool:
    left, right = ({w: n for w, n in own.items() if len(w) == 1 and w.isalpha()} for own in (left, right))
    if not left or not right:
        return True
    counts, others = Counter(left.values()), Counter(right.values())
    renamed = left.keys().isdisjoint(other) and right.keys().isdisjoint(one)
    return renamed and (counts <= others or others <= counts)


def _same_words(left: Counter, right: Counter, num_slips: int) -> bool:
    own = [[w for w in side if len(w) > 1 and w.isalpha() and w not in _PHRASING] for side in (left, right)]
    if not own[0] or not own[1]:
        return True
    if len(own[0]) + len(own[1]) > MAX_OWN_WORDS:
        return False
    return min(_num_unmatched(left, own[0], right), _num_unmatched(right, own[1], left)) <= num_slips


def _num_unmatched(own: Counter, words: list[str], others: Counter) -> int:
    """How many of `words` (counted in `own`) have no counterpart among `others`, in nearly the same letters."""
    others = Counter({word: n for word, n in others.items() if word.isalpha()})
    letters = Counter({word: n for word, n in others.items() if len(word) == 1})
    glued = "".join(others)

    def matched(word: str) -> bool:
        return (
            (len(word) > 4 and word in glued)  # nonempty, non empty
            or not Counter(word) - letters  # mn, m n
            or any(sorted(word) == sorted(other) for other in others)  # hte
            or bool(get_close_matches(word, others, n=1, cutoff=0.85))  # encounted
        )

    return sum(own[word] for word in words if not matched(word))


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


# Evaluation sets

# Where a question may stand, the surer first: LiveCodeBench has question_content beside question_title
_QUESTION_COLUMNS = ("question", "problem", "question_content", "question_text", "problem_text", "prompt", "text",
                     "description", "query", "instruction", "input")  # fmt: skip


def read_evaluation_set(path: str | Path) -> list[Question]:
    """The questions of a finished run (its questions.jsonl), or of a .jsonl, .json, .csv or .parquet file; .gz too.

    Rows in the form of `core.types.Question` are taken as they are. Of others the column that holds the question is
    found by its name, upper or lower case; answers are not needed here and stay behind.
    Raises UserError for a file that cannot be read so, naming the row or the columns there are.
    """
    path = Path(path)
    file = finished(path) / "questions.jsonl" if path.is_dir() else path
    rows = list(whole_rows(file_table(file)))
    if not rows:
        raise UserError(f"{file} holds no questions")
    questions = []
    if {"id", "text", "answer_type"} <= rows[0].keys():
        for number, row in enumerate(rows, 1):
            try:
                questions.append(question_from_row(row))
            except TypeError as error:
                raise UserError(f"{file}, row {number}: not a question ({error})") from None
        return questions
    names = {name.lower(): name for name in reversed(rows[0]) if isinstance(name, str)}
    column = next((names[name] for name in _QUESTION_COLUMNS if name in names), None)
    if column is None:
        raise UserError(f"{file}: no column holds the question; its columns are {', '.join(rows[0])}, "
                        f"known are {', '.join(_QUESTION_COLUMNS)}")  # fmt: skip
    for number, row in enumerate(rows, 1):
        text = row.get(column)
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{file}, row {number}: {column} holds no text but {str(text)[:50]!r}")
        questions.append(Question.of(text, None, "open", file.name, ""))
    return questions
