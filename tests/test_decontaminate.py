import csv
import gzip
import itertools
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import labelled_pairs
import pytest

from benchmarks.funnel import eight_grams
from core.config import UserError
from core.types import Question, write_jsonl
from data.decontaminate import (
    Corpus,
    find_contaminated,
    near_duplicates_within,
    read_evaluation_set,
    same_question,
    words_of,
)
from eval.metrics import mean_interval

ROOT = Path(__file__).resolve().parent.parent
needs_real_data = pytest.mark.skipif(
    not labelled_pairs.DATA.exists(), reason=f"the real question sets are not here ({labelled_pairs.DATA})"
)
AIME = "can be written as $\\frac{m}{n}$, where $m$ and $n$ are relatively prime positive integers. Find $m+n$."


def question(text: str, source: str = "pool", answer: str | None = None) -> Question:
    return Question.of(text, answer, "open", source, "math")


def rule_fired(pool: list[str], against: list[str], text: str, rule: str = "content") -> str | None:
    """The rule that flags `text` as a member of `pool`."""
    flagged = question(text)
    hits = find_contaminated([*map(question, pool), flagged], [question(t, "test") for t in against], rule)
    return hits[flagged.id].rule if flagged.id in hits else None


# Normalisation


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Find $x^2$.", "find  x ^ 2"),
        ("cost 1,000 dollars", "cost $1{,}000$ dollars!"),
        ("cost 1,000 dollars", "cost $1,\\!000$ dollars"),
        (r"Is $\dfrac{1}{2} \leq y$?", r"is \tfrac{1}{2}\le y"),
        (r"$\frac12$", "1/2"),
        (r"$\left( a \cdot b \right)$", "(a * b)"),
        ("well-known $a-b$", "well known a - b"),
        ("5 \u2212 3 \u00d7 2", "5 - 3 * 2"),
        ("x\u00b2 \u2264 \u03c0", r"$x^2 \leq \pi$"),
        ("a 30\u00b0 angle", r"a $30^\circ$ angle"),
        ("3 boxes, each .50 m", "three boxes each 0.5 m."),
        ("forty-two", "42"),
        (r"\text{Find } $20_{}^{}!$", "Find 20"),
        (r"\begin{array}{cc} 1 & 2 \\ 3 & 4 \end{array}", "1 2 3 4"),
        ("A square. [asy] draw((0,0)--(1,1)); [/asy] Its area?", "a square its area"),
    ],
)
def test_normalisation_equates(one, other):
    assert words_of(one) == words_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("4 - 1 - 7", "4 - 1 + 7"),
        ("4 - 1", "4 - 2"),
        ("2.5", "2 5"),
        ("1,2,3", "123"),
        ("2 - -1", "2 - 1"),
        ("x < 3", "x > 3"),
        (r"\sin x", r"\cos x"),
    ],
)
def test_normalisation_keeps_apart(one, other):
    assert words_of(one) != words_of(other)


def test_the_corpus_reads_a_text_as_words_of_does():
    texts = ["Find $x^2$ in 1,000 forty-two boxes.", "", "?!", r"\frac12 \sqrt3 -x well-known, well-known"]
    corpus = Corpus(texts)
    assert [corpus.words(i) for i in range(len(texts))] == [words_of(text) for text in texts]


# The rules


def test_exact_after_normalisation_flags_even_the_shortest():
    assert rule_fired([], ["Calculate $5 - 3$."], "calculate 5 - 3") == "exact"
    assert rule_fired([], ["Calculate $5 - 3$."], "calculate 5 - 4") is None
    assert rule_fired([], ["$$"], "?!") is None  # nothing left to compare
    assert rule_fired([], [], "calculate 5 - 3") is None


def test_short_questions_about_two_drawings_are_two_questions():
    ask = "Find the area of the shaded region. [asy] draw((0,0)--({},1)); [/asy]"
    assert rule_fired([], [ask.format(4)], ask.format(4)) == "exact"
    assert rule_fired([], [ask.format(4)], ask.format(7)) is None


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


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Find $a$ in terms of $b$", "Find $b$ in terms of $b$", False),
        ("Find the minimum of $f(x)$ on $[0,1]$", "Find the maximum of $f(x)$ on $[0,1]$", False),
        ("Find the smallest $k$", "Determine the least $k$", True),
        ("Let $p+q=3$. Find $p-q$", "Let $m+n=3$. Find $m-n$", True),
        ("Let $m+n=3$. Find $mn$", "Let $m+n=3$. Find $m \\cdot n$", True),
        ("Find $x$ if $x + 2 = 5$", "Find $x$ if $x - 2 = 5$", False),
        ("A fair die is thrown 4 times", "A fair die is thrown 4 times. Note: a die has 6 faces", True),
        ("How many parallelepipeds", "How many parallelpipeds", True),
        ("What is $2 + 3$? Then add 7.", "Add 7 then. What is $2 + 3$?", True),
        ("the edges 3, 4 and 5", "the edges 3, 4 and 6", False),
    ],
)
def test_a_copy_adds_and_another_question_replaces(one, other, same):
    assert same_question(words_of(one), words_of(other)) is same
    assert same_question(words_of(other), words_of(one)) is same


def test_near_duplicate_by_hand():
    words = [f"w{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(60)]
    changed = [w if i % 12 != 11 or i == 23 else "the" for i, w in enumerate(words)]
    low = [w if i % 3 != 2 else "the" for i, w in enumerate(words)]
    original, near, far = (" ".join(ws) for ws in (words, changed, low))
    assert rule_fired([], [original], far) is None
    hits = find_contaminated([question(near)], [question(original)], jaccard=0.6)
    assert [h.rule for h in hits.values()] == ["ngram"]
    hits = find_contaminated([question(near)], [question(original)], jaccard=0.6, ngram=30)
    (hit,) = hits.values()
    assert hit.rule == "near_duplicate" and hit.match.text == original and hit.question.text == near
    # by hand: 58 shingles each; 4 changed words touch 3 shingles, the last one (index 59) only 1
    assert hit.evidence == f"Jaccard {(58 - 10) / (58 + 10):.2f}"
    assert not find_contaminated([question(near)], [question(original)], jaccard=0.75, ngram=30)


# Boilerplate


def test_contest_boilerplate_does_not_count_but_s1_counts_it():
    subjects = ["bishop", "dodecahedron", "parabola", "train", "urn", "lattice", "cone", "spinner", "clock", "prism"]
    subjects += ["hexagon", "deck", "archer", "tank"]
    pool = [question(f"The chance that the {s} number {i} wins {AIME}") for i, s in enumerate(subjects)]
    against = [question("The area of the shaded trapezoid with height 99 " + AIME)]
    assert find_contaminated(pool, against) == {}
    assert len(find_contaminated(pool, against, "s1-8gram")) == len(pool)
    others = [question("Nothing of the kind is asked here, in no word and in no number")]
    assert eight_grams(pool + others, against) == set(find_contaminated(pool + others, against, "s1-8gram"))


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
    assert not near_duplicates_within([question(t) for t in pool])


def test_boilerplate_is_only_what_many_distinct_questions_of_the_evaluation_share():
    template = "state the final answer to it "
    pool = [template + str(i) for i in range(20)]

    def covered(against: list[str], pool: list[str]) -> list[bool]:
        """Of the first evaluation question, word by word."""
        corpus = Corpus([*against, *pool], num_templates=len(against))
        return corpus.boilerplate[: corpus.lengths[0]].tolist()

    assert covered([template + "77"], pool) == [True] * 6 + [False]
    assert not any(covered([template + "77"], pool[:1] * 20))  # copies of one question are one question
    unrelated = Corpus(["an evaluation without this very template", *pool], num_templates=1)
    assert not unrelated.boilerplate.any()


def test_order_of_the_evaluation_questions_does_not_change_who_is_flagged():
    rng = random.Random(1)
    against = [question(" ".join(rng.choices("abcdefghij", k=40)), "test") for _ in range(50)]
    pool = [question(t.text + " more") for t in against[::3]] + [question(" ".join(rng.choices("klmno", k=20)))]
    flagged = set(find_contaminated(pool, against))
    assert flagged == set(find_contaminated(pool[::-1], against[::-1])) == {q.id for q in pool[:-1]}


# Within the pool


def sentences(num: int, seed: int = 3) -> list[str]:
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghij", k=5)) for _ in range(500)]
    return [" ".join(rng.choices(words, k=25)) for _ in range(num)]


def test_one_of_each_group_stays_whatever_the_order():
    texts = sentences(30)
    groups = [[f"Find this: {text}", f"{text}. Compute it", text.upper()] for text in texts[:8]]
    pool = [question(text) for text in texts[8:]] + [question(text) for group in groups for text in group]
    hits = near_duplicates_within(pool)
    assert len(hits) == 16 and {hit.rule for hit in hits.values()} == {"duplicate_in_pool"}
    for group in groups:
        (kept,) = [text for text in group if question(text).id not in hits]
        assert all(hits[question(text).id].match.text == kept for text in group if text != kept)
    for seed in range(3):
        assert near_duplicates_within(random.Random(seed).sample(pool, len(pool))) == hits


def test_an_answer_is_a_reason_to_stay_and_a_copy_of_a_copy_is_not_dropped():
    text = sentences(1)[0]
    pool = [question(text), question(text + "!", answer="7"), question(text + "?")]
    assert {hit.match.answer for hit in near_duplicates_within(pool).values()} == {"7"}
    # b is like a and like c, but a and c are no copies of each other: whoever goes is a copy of one that stays
    words = text.split()
    chain = [question(" ".join(part)) for part in (words[:17], words, words[8:])]
    hits = near_duplicates_within(chain)
    assert hits and all(hit.match.id not in hits for hit in hits.values())


@pytest.mark.slow
def test_the_hash_seed_changes_nothing():
    pool = [question(text + end) for text in sentences(40) for end in ("", " more of this", " again 7")]
    code = (
        "import json, sys\n"
        "from core.types import Question\n"
        "from data.decontaminate import *\n"
        "pool = [Question(**row) for row in json.load(sys.stdin)]\n"
        "for hits in near_duplicates_within(pool), find_contaminated(pool, pool[::5]):\n"
        "    print([(id, hit.match.id, hit.evidence) for id, hit in hits.items()])\n"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for seed in "01"
    ]  # fmt: skip
    one, other = (run.communicate(json.dumps([asdict(q) for q in pool]))[0] for run in runs)
    assert one == other and one.count("(") > 80


def test_candidates_are_all_pairs_that_share_a_quarter_of_their_shingles():
    """The arrays against the definition, spelled out with sets."""
    rng = random.Random(5)
    texts = [" ".join(rng.choices("klmnopqrs", k=rng.randint(8, 30))) for _ in range(60)]
    corpus = Corpus(texts, num_templates=0)
    grams = [[w[i : i + 3] for i in range(len(w) - 2)] for w in map(words_of, texts)]
    count = {g: sum(g in set(other) for other in grams) for g in itertools.chain.from_iterable(grams)}
    rare = [{g for g in own if count[g] <= 20} for own in grams]
    expected = [
        (i, j)
        for j in range(60)
        for i in range(j)
        if len(rare[i] & rare[j]) >= max(2, min(len(grams[i]), len(grams[j])) / 4)
    ]
    assert expected and corpus.candidates() == expected


# Size and hostile input


@pytest.mark.slow
def test_thousands_against_thousands_takes_seconds():
    rng = random.Random(2)
    words = ["".join(rng.choices("abcdefghij", k=5)) for _ in range(3000)]
    pool, against = [[question(" ".join(rng.choices(words, k=40))) for _ in range(2000)] for _ in range(2)]
    started = time.process_time()
    assert not find_contaminated(pool, against) and not near_duplicates_within(pool)
    assert time.process_time() - started < 10  # about 0.5 s


def test_odd_texts_pass():
    odd = ["", "\0", "\ud800 alone", "\\", "[asy]", "$" * 1000, "\\frac", "a" * 200_000, "1," * 50_000, "\u2028" * 9]
    pool = [Question(str(i), text, None, "open", "odd", "") for i, text in enumerate(odd)]
    assert set(find_contaminated(pool, [question("a" * 200_000)])) == {"7"}
    assert not near_duplicates_within(pool)


# Evaluation sets


def test_evaluation_sets_of_every_form(tmp_path):
    questions = [question("What is 1 + 1?", "test"), question("Name a\u2028prime.", "test")]
    rows = [{"Question Title": "?", "Problem": q.text, "Answer": 1} for q in questions]
    write_jsonl(tmp_path / "ours.jsonl", questions)
    write_jsonl(tmp_path / "rows.jsonl", rows)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "keyed.json").write_text(json.dumps({str(i): row for i, row in enumerate(rows)}))
    with open(tmp_path / "rows.csv", "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with gzip.open(tmp_path / "rows.jsonl.gz", "wb") as file:
        file.write((tmp_path / "rows.jsonl").read_bytes())
    run = tmp_path / "run"
    run.mkdir()
    write_jsonl(run / "questions.jsonl", questions)
    (run / "DONE").write_text("now\n")
    assert read_evaluation_set(run) == read_evaluation_set(tmp_path / "ours.jsonl") == questions
    for name in ("rows.jsonl", "rows.json", "keyed.json", "rows.csv", "rows.jsonl.gz"):
        read = read_evaluation_set(tmp_path / name)
        assert [(q.id, q.text, q.source) for q in read] == [(q.id, q.text, name) for q in questions]


def test_a_parquet_evaluation_set(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"question_content": ["One?", "Two?"], "x": [1, 2]}), tmp_path / "e.parquet")
    assert [q.text for q in read_evaluation_set(tmp_path / "e.parquet")] == ["One?", "Two?"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("e.jsonl", b'{"title": "x", "answer": 1}\n', "no column holds the question; its columns are title, answer"),
        ("e.jsonl", b'{"question": "x"}\n{"question": 7}\n', r"row 2: question holds no text but '7'"),
        ("e.jsonl", b'{"question": "x"}\n{"question": ', "row 2: not json"),
        ("e.jsonl", b"\n", "holds no questions"),
        ("e.jsonl", b"[1]\n", "row 1: expected named columns"),
        ("e.jsonl", b'{"id": "1", "text": "x", "answer_type": "open"}\n', "row 1: not a question"),
        ("e.json", b'"text"', "row 1: expected named columns"),
        ("e.json", b"\xff", "not json"),
        ("e.jsonl", b'{"question": "\xff"}', "row 1: question is not UTF-8"),
        ("e.json.gz", b"no gzip", "e.json.gz: "),
        ("e.txt", b"What?", "is none of .parquet"),
        ("e.csv", None, "e.csv: .*No such file"),
        ("run", None, "run: "),
    ],
)
def test_what_is_wrong_with_an_evaluation_set(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_evaluation_set(tmp_path / name)


# Real questions


def real_questions(path: str) -> list[Question]:
    return read_evaluation_set(labelled_pairs.DATA / path)


@pytest.mark.slow
@needs_real_data
def test_math500_inside_s1k():
    """The true duplicates of MATH500 in s1K are found, with a fourth, and contest phrases are not taken for copies."""
    math500 = real_questions("eval/math500/test.jsonl")
    notebook = real_questions("s1k/s1k_notebook_run_questions_without_gpqa.jsonl.gz")
    published = real_questions("s1k/s1k_published_without_gpqa.jsonl.gz")
    exact = dict.fromkeys(("07e22408c9d86bf1", "c36e41d92556ea8b", "9f7f1563a23537aa"), "exact")
    for s1k in (notebook, published):
        rules = {id: hit.rule for id, hit in find_contaminated(s1k, math500).items()}
        # the fourth, AIME 2002 I-12, is MATH500's with another last sentence
        assert rules == exact | {"a6b9f6d7279f4011": "ngram"}
    assert len(find_contaminated(notebook, math500, "s1-8gram")) == 89


@needs_real_data
def test_aime_2024_inside_the_aime_list():
    file = "candidates/aime_1983_2024/AIME_Dataset_1983_2024.csv"
    pool = real_questions(file)
    years = {q.id: row["Year"] for q, row in zip(pool, labelled_pairs.read(file), strict=True)}
    hits = find_contaminated(pool, real_questions("eval/aime24/test.jsonl"))
    assert sorted(hits) == sorted(id for id, year in years.items() if year == "2024") and len(hits) == 14


@pytest.mark.slow
@needs_real_data
def test_precision_and_recall_on_labelled_pairs(capsys):
    kinds = {
        "copies": labelled_pairs.copies(150),
        "rewritten": labelled_pairs.rewritten(150),
        "different": labelled_pairs.different(),
    }
    flagged = {}
    for kind, pairs in kinds.items():
        hits = find_contaminated([question(other) for _, other in pairs], [question(one, "test") for one, _ in pairs])
        matches = [hits.get(question(other).id) for _, other in pairs]
        flagged[kind] = sum(
            hit is not None and hit.match.text == one for (one, _), hit in zip(pairs, matches, strict=True)
        )
    true, missed = flagged["copies"] + flagged["rewritten"], flagged["different"]
    with capsys.disabled():
        print()
        for kind, pairs in kinds.items():
            print(f"{kind}: {flagged[kind]} of {len(pairs)} flagged")
        for name, k, n in (("precision", true, true + missed), ("recall", true, 300)):
            _, low, high = mean_interval({i: [float(i < k)] for i in range(n)})
            print(f"{name} {k / n:.3f} [{low:.3f}, {high:.3f}] (n = {n}, 95% Wilson)")
    assert min(map(len, kinds.values())) >= 100
    assert true / 300 >= 0.95 and true / (true + missed) >= 0.95
