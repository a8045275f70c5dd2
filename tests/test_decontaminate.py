import gzip
import json
import random
import time
from pathlib import Path

import pytest

from core.types import Question
from data.decontaminate import boilerplate_grams, find_contaminated, words_of

REAL_DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
AIME = "can be written as $\\frac{m}{n}$, where $m$ and $n$ are relatively prime positive integers. Find $m+n$."


def question(text: str, source: str = "pool") -> Question:
    return Question.of(text, None, "open", source, "math")


def rule_fired(pool: list[str], against: list[str], text: str, rule: str = "content") -> str | None:
    """The rule that flags `text` as a member of `pool`."""
    flagged = question(text)
    hits = find_contaminated([*map(question, pool), flagged], [question(t, "test") for t in against], rule)
    return hits[flagged.id].rule if flagged.id in hits else None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Find $x^2$.", "find  x ^ 2"),
        ("cost 1,000 dollars", "cost $1{,}000$ dollars!"),
        ("cost 1,000 dollars", "cost $1,\\!000$ dollars"),
        (r"Is $\dfrac{1}{2} \leq y$?", r"is \tfrac{1}{2}\le y"),
        (r"$\left( a \cdot b \right)$", "(a * b)"),
        ("well-known $a-b$", "well known a - b"),
        ("5 \u2212 3 \u00d7 2", "5 - 3 * 2"),
        (r"\text{Find } $20_{}^{}!$", "Find 20"),
        ("A square. [asy] draw((0,0)--(1,1)); [/asy] Its area?", "a square its area"),
    ],
)
def test_normalisation_equates(one, other):
    assert words_of(one) == words_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("4 - 1 - 7", "4 - 1 + 7"), ("4 - 1", "4 - 2"), ("2.5", "2 5"), ("2 - -1", "2 - 1"), (r"\sin x", r"\cos x")],
)
def test_normalisation_keeps_apart(one, other):
    assert words_of(one) != words_of(other)


def test_exact_after_normalisation_flags_even_the_shortest():
    assert rule_fired([], ["Calculate $5 - 3$."], "calculate 5 - 3") == "exact"
    assert rule_fired([], ["Calculate $5 - 3$."], "calculate 5 - 4") is None
    assert rule_fired([], ["$$"], "?!") is None  # nothing left to compare


def test_a_problem_quoted_inside_a_longer_one_is_the_same():
    problem = "A snail climbs 7 meters up a wet wall every day and slides back 4 meters during each cold night."
    assert (
        rule_fired([], [problem], f"Read this first, then answer with one number: {problem} When is it 31 up?")
        == "ngram"
    )


def test_a_reworded_copy_is_flagged_and_a_renumbered_one_is_not():
    original = (
        "Steve draws 3 red, 4 blue and 5 green marbles from a bag that holds 60 of them in all. "
        "He puts them back, shakes it and draws again. How likely is it that he sees each color twice?"
    )
    reworded = original.replace("from a bag", "out of a bag").replace("draws again", "draws once more")
    assert rule_fired([], [original], reworded) in ("ngram", "near_duplicate")
    assert rule_fired([], [original], reworded.replace("60", "70")) is None
    assert rule_fired([], [original], original.replace("60", "70")) is None


def test_near_duplicate_by_hand():
    words = [f"w{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(60)]
    changed = [w if i % 12 != 11 else "other" + w for i, w in enumerate(words)]
    low = [w if i % 3 != 2 else "other" + w for i, w in enumerate(words)]
    changed[23] = words[23]
    original, near, far = (" ".join(ws) for ws in (words, changed, low))
    assert rule_fired([], [original], far) is None
    hits = find_contaminated([question(near)], [question(original)], jaccard=0.6)
    assert [h.rule for h in hits.values()] == ["ngram"]
    hits = find_contaminated([question(near)], [question(original)], jaccard=0.6, ngram=30)
    (hit,) = hits.values()
    assert hit.rule == "near_duplicate" and hit.match.text == original and hit.question.text == near
    # by hand: 58 shingles each; 4 changed words touch 3 shingles, the last one (index 59) only 1
    assert hit.evidence == f"Jaccard {(58 - 10) / (58 + 10):.2f}"


def test_contest_boilerplate_does_not_count_but_s1_counts_it():
    subjects = ["bishop", "dodecahedron", "parabola", "train", "urn", "lattice", "cone", "spinner", "clock", "prism"]
    subjects += ["hexagon", "deck", "archer", "tank"]
    pool = [f"The chance that the {s} number {i} wins {AIME}" for i, s in enumerate(subjects)]
    against = ["The area of the shaded trapezoid with height 99 " + AIME]
    assert len(find_contaminated([question(t) for t in pool], [question(t) for t in against])) == 0
    assert len(find_contaminated([question(t) for t in pool], [question(t) for t in against], "s1-8gram")) == len(pool)


def test_generated_families_share_a_template_and_nothing_else():
    rng = random.Random(0)

    def family_member(num_terms: int) -> str:
        terms = " ".join(f"{rng.choice('+-')} {rng.randint(1, 99)}" for _ in range(num_terms))
        return f"State the final answer to the following arithmetic problem: {rng.randint(1, 99)} {terms} ="

    pool = sorted({family_member(rng.randint(3, 12)) for _ in range(600)})
    against = sorted({family_member(rng.randint(3, 12)) for _ in range(200)} - set(pool))
    planted = against[:5]
    hits = find_contaminated([question(t) for t in pool + planted], [question(t, "test") for t in against])
    assert sorted(h.question.text for h in hits.values()) == sorted(planted)
    assert {h.rule for h in hits.values()} == {"exact"}


def test_boilerplate_is_only_what_many_distinct_questions_of_the_evaluation_share():
    template = words_of("state the final answer to it")
    pool = [(*template, str(i)) for i in range(20)]
    assert template[:5] in boilerplate_grams(pool, [(*template, "77")])
    assert not boilerplate_grams([pool[0]] * 20, [(*template, "77")])  # copies of one question are one question
    assert not boilerplate_grams(pool, [words_of("an evaluation without this very template")])


def test_order_of_the_evaluation_questions_does_not_change_who_is_flagged():
    rng = random.Random(1)
    against = [question(" ".join(rng.choices("abcdefghij", k=40)), "test") for _ in range(50)]
    pool = [question(t.text + " more") for t in against[::3]] + [question(" ".join(rng.choices("klmno", k=20)))]
    flagged = set(find_contaminated(pool, against))
    assert flagged == set(find_contaminated(pool[::-1], against[::-1])) == {q.id for q in pool[:-1]}


def test_thousands_against_thousands_takes_seconds():
    rng = random.Random(2)
    words = ["".join(rng.choices("abcdefghij", k=5)) for _ in range(3000)]
    pool, against = [[question(" ".join(rng.choices(words, k=40))) for _ in range(2000)] for _ in range(2)]
    started = time.process_time()
    assert not find_contaminated(pool, against)
    assert time.process_time() - started < 10  # about 1 s


def real_questions(path: str, key: str) -> list[Question]:
    file = REAL_DATA / path
    if not file.exists():
        pytest.skip(f"the real question sets are not here ({file})")
    data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    return [question(json.loads(line)[key], path) for line in data.split(b"\n") if line.strip()]


def test_math500_inside_s1k():
    """The true duplicates of PAPER 1.5 are found, with a fourth, and contest phrases are not taken for copies."""
    s1k = real_questions("s1k/s1k_notebook_run_questions_without_gpqa.jsonl.gz", "question")
    math500 = real_questions("eval/math500/test.jsonl", "problem")
    hits = find_contaminated(s1k, math500)
    exact = {id for id, hit in hits.items() if hit.rule == "exact"}
    assert exact == {"07e22408c9d86bf1", "c36e41d92556ea8b", "9f7f1563a23537aa"}
    # AIME 2002 I-12 is MATH500's with another last sentence; the other shares a phrase on side lengths only
    assert set(hits) - exact == {"a6b9f6d7279f4011", "156d79637bd07ff6"}
    assert len(find_contaminated(s1k, math500, "s1-8gram")) == 89
