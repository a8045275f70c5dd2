"""Pairs of real questions of which it is known whether they are one question: what decontamination is measured on.

Three kinds: copies (one contest problem in two publications, known by year, contest and number), rewritten (a question
and what the rules below make of it) and different (similar questions with different answers). The texts are those of
the shared data folder and are read from there; here are only the ids of the different pairs.
"""

import csv
import gzip
import io
import json
import random
import re
from pathlib import Path

from core.types import question_id

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"

Pair = tuple[str, str]


def read(file: str) -> list[dict]:
    data = (DATA / file).read_bytes()
    text = (gzip.decompress(data) if file.endswith(".gz") else data).decode()
    if ".csv" in file:
        return list(csv.DictReader(io.StringIO(text)))
    return [json.loads(line) for line in text.split("\n") if line.strip()] if ".jsonl" in file else json.loads(text)


# Copies

_URL = re.compile(r"(\d{4}_\w+?)_Problems/Problem_(\d+)")
_ROMAN = {"1": "I", "2": "II"}


def publications() -> list[dict[str, str]]:
    """Per publication: name of the contest problem -> text."""
    aime_list = {
        f"{row['Year']}_AIME{'_' + row['Part'] if row['Part'] else ''} {row['Problem Number']}": row["Question"]
        for row in read("candidates/aime_1983_2024/AIME_Dataset_1983_2024.csv")
    }
    deepscaler = {
        # one contest a year until 1999
        f"{row['year']}_AIME{'_' + _ROMAN[str(row['aime_number'])] if int(row['year']) > 1999 else ''} "
        f"{row['problem_number']}": row["problem"]
        for row in read("candidates/aime_1983_2024/deepscaler_aime_1983_2023.json.gz")
    }
    by_url = [
        {" ".join(_URL.search(row["url"]).groups()): row[column] for row in read(file)}
        for file, column in (
            ("eval/aime24/aimo_validation_aime_2022_2024.jsonl", "problem"),
            ("eval/amc23/test.jsonl", "problem"),
            ("eval/amc23/aimo_validation_amc.jsonl", "question"),
        )
    ]
    aime25 = [
        {f"2025_AIME {number}": row[column] for number, row in enumerate(read(f"eval/aime25/{file}"), 1)}
        for file, column in (
            ("light_r1.json", "problem"),
            ("eval_reasoning.jsonl", "question"),
            ("still.jsonl", "problem"),
        )
    ]
    return [aime_list, deepscaler, *by_url, *aime25]


def tokens(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def copies(num: int) -> list[Pair]:
    """The `num` pairs of publications of one problem that are least alike in words, one pair a problem."""
    by_name: dict[str, list[str]] = {}
    for publication in publications():
        for name, text in publication.items():
            by_name.setdefault(name, []).append(text)
    pairs = []
    for texts in by_name.values():
        both = [(a, b) for i, a in enumerate(texts) for b in texts[i + 1 :]]
        if both:
            pairs.append(min((len(tokens(a) & tokens(b)) / len(tokens(a) | tokens(b)), a, b) for a, b in both))
    return [(a, b) for _, a, b in sorted(pairs)[:num]]


# Rewritten


def with_other_latex(text: str, rng: random.Random) -> str:
    text = re.sub(r"\$([^$]+)\$", r"\\( \1 \\)", text).replace("\\frac", "\\dfrac").replace("\\cdot", "\\times")
    return text.replace("\\le ", "\\leq ").replace("\\ge ", "\\geq ").replace("\\left", "").replace("\\right", "")


def in_unicode(text: str, rng: random.Random) -> str:
    spelled = {"\\leq": "\u2264", "\\le ": "\u2264 ", "\\geq": "\u2265", "\\ge ": "\u2265 ", "\\times": "\u00d7",
               "\\cdot": "\u00b7", "\\pi": "\u03c0", "^2": "\u00b2", "^3": "\u00b3", "\\angle": "\u2220",
               "^\\circ": "\u00b0", "\\theta": "\u03b8", "-": "\u2212", "$": ""}  # fmt: skip
    for latex, character in spelled.items():
        text = text.replace(latex, character)
    return text


def in_capitals(text: str, rng: random.Random) -> str:
    return re.sub(r"(\\[A-Za-z]+)|([^\\]+)", lambda m: m[1] or m[2].upper(), text)


def without_punctuation(text: str, rng: random.Random) -> str:
    return re.sub(r"[.,;:!?](?=\s|$)", "", text).lower()


def on_other_lines(text: str, rng: random.Random) -> str:
    return "\n".join(re.findall(r".{1,50}(?:\s|$)|\S{51,}", " ".join(text.split())))


_REWORDINGS = (
    ("Find", "Determine"), ("Compute", "Calculate"), ("What is", "Find"), ("Let", "Suppose"), ("such that", "so that"),
    ("largest", "greatest"), ("smallest", "least"), ("Suppose", "Assume"), ("that satisfy", "satisfying"),
    ("how many", "what number of"), ("How many", "What number of"), ("can be written", "may be expressed"),
    ("contains", "has"), ("Evaluate", "Compute"), ("real numbers", "reals"), ("respectively", "in this order"),
)  # fmt: skip


def reworded(text: str, rng: random.Random) -> str:
    """Every set phrase of the list is replaced, once."""
    pattern = "|".join(rf"\b{re.escape(a)}\b" for a, _ in _REWORDINGS)
    return re.sub(pattern, lambda m: dict(_REWORDINGS)[m[0]], text)


_NUMBER_WORDS = dict(enumerate(("two", "three", "four", "five", "six", "seven", "eight", "nine"), 2))


def with_numbers_spelled(text: str, rng: random.Random) -> str:
    """Single digits that stand alone become words, and words digits."""
    text = re.sub(r"(?<![\w{}^.$\\/-])([2-9])(?![\w{}^.$\\/-])", lambda m: _NUMBER_WORDS[int(m[1])], text)
    words = {word: str(digit) for digit, word in _NUMBER_WORDS.items()}
    return re.sub(rf"\b({'|'.join(words)})\b", lambda m: words[m[1]], text) if rng.random() < 0.5 else text


def with_instructions(text: str, rng: random.Random) -> str:
    before = rng.choice(("Solve the following problem step by step.\n\n", "Problem 7. ", "Question: ", ""))
    after = rng.choice(("\n\nPut your final answer within \\boxed{}.", " Give your answer as an integer.", "\nAnswer:"))
    return before + text + after


def inside_a_longer_text(text: str, rng: random.Random) -> str:
    return (
        "Anna prepares for a contest and copies one task of an earlier year from the blackboard into her notebook. "
        f"It reads as follows. {text} She has until noon. Write down every step of the way, and check the result."
    )


def with_options(text: str, rng: random.Random) -> str:
    return text + "".join(f"\n({letter}) {rng.randint(2, 400)}" for letter in "ABCDE")


def with_sentences_swapped(text: str, rng: random.Random) -> str:
    """The first two sentences change places, where there are three."""
    sentences = re.split(r"(?<=[.?!])\s+(?=[A-Z])", text)
    return " ".join([sentences[1], sentences[0], *sentences[2:]]) if len(sentences) > 2 else text


def with_a_letter_renamed(text: str, rng: random.Random) -> str:
    """One single-letter variable, all through the formulas."""
    letters = sorted(set(re.findall(r"\$([b-hj-z])\$", text)))
    unused = [letter for letter in "tuvwpqrs" if not re.search(rf"(?<![A-Za-z]){letter}(?![A-Za-z])", text)]
    if not letters or not unused:
        return text
    old, new = rng.choice(letters), unused[0]
    rename = re.compile(rf"(?<![A-Za-z\\]){old}(?![A-Za-z])")
    return re.sub(r"\$[^$]*\$", lambda m: rename.sub(new, m[0]), text)


def with_typing_errors(text: str, rng: random.Random) -> str:
    """Two letters are exchanged in every twelfth longer word."""
    words = re.split(r"(\s+)", text)
    long = [i for i, word in enumerate(words) if word.isalpha() and len(word) > 5]
    for i in rng.sample(long, (len(long) + 11) // 12):
        at = rng.randrange(1, len(words[i]) - 2)
        words[i] = words[i][:at] + words[i][at + 1] + words[i][at] + words[i][at + 2 :]
    return "".join(words)


def without_articles(text: str, rng: random.Random) -> str:
    return re.sub(r"\b(?:the|an) ", "", text)


REWRITING = (
    with_other_latex, in_unicode, in_capitals, without_punctuation, on_other_lines, reworded, with_numbers_spelled,
    with_instructions, inside_a_longer_text, with_options, with_sentences_swapped, with_a_letter_renamed,
    with_typing_errors, without_articles,
)  # fmt: skip


def rewritten(num: int, seed: int = 0) -> list[Pair]:
    """Questions of MATH500, Omni-MATH and AIME 2025, each rewritten by two or three of the rules, drawn at random."""
    rng = random.Random(seed)
    texts = [row["problem"] for file in ("eval/math500/test.jsonl", "candidates/omni_math/omni_math_rule.jsonl.gz",
                                         "eval/aime25/light_r1.json") for row in read(file)]  # fmt: skip
    texts = [text for text in dict.fromkeys(texts) if len(text.split()) >= 12 and "[asy]" not in text]
    pairs = []
    for text in rng.sample(texts, num):
        changed = text
        for rule in rng.sample(REWRITING, rng.choice((2, 3))):
            changed = rule(changed, rng)
        pairs.append((text, changed))
    return pairs


# Different

# The hundred pairs most alike (Jaccard of 3-word shingles of lower-case words and digits) whose answers are two
# different integers, each question in one pair, read one by one; MATH, Omni-MATH and TheoremQA.
_DIFFERENT = """
7f218e0dec56d367 5d1b72d1b853ebdb 9754e5efc02a4936 26f3d2c53188a3bd dac48b0a5a0c3ac4 778ee1ef708671c8
3a3fffa159be4a14 efa3a1b9e8ae8f54 4b96f2eaa9194c47 82aba0c38eb4a1d9 a4a8a37556ad01e8 f97042d396ccda25
9be0ad7fd782a263 39815a992204fd70 569594b8c3612374 6555cc7d89d1de9d daead83d8f230f7f 9c2f9837d7745b7c
09dc719e34fb5713 b26af8048a3befac 0402d759edc7f4d7 ac57e97fa3d19b46 dfd2356a24ddf619 1fcb3e0aeb81e91e
7a6550415b417507 a1b3e1444bab62a4 2733fbeb603bb79b a0612a3b071145b6 d95103b7a6667275 f57d45511c905e42
65b9a0ce798d0293 61775b4643a0d3e2 f02445bb80100b7a 18cc02d2aa167428 cbde3801d8a68e26 152f9d56cce5ff06
416374fc33751de7 a3a83ccedadb3927 ffb2be31275b86a8 b9f5dfd8e581516a bdc4511e186b9c99 17661b64000b1080
ca7d86a014e1de7a 3f85ec1f9ed92b51 0cfaeee2b9dfb824 cbfa715271ac4a46 802e9f2cecbbee18 b1c227c91de5b8f8
ded0ffd3643d0130 b72f8c11ea24fd29 72e103d3765c99f6 5c5b1b1f40f455bc 62caf4950ee17f37 82001ba991d298e2
bed02cbd27167594 ecf23d2459c46118 ac43ae30ff78e0ce 927ae62e898e52e7 885f7e0083286a99 75e5aafa104fa2c4
1d51cb8130bbe7e4 c2ceb037c46ffcd0 2811310f731719ce 2147690c45572dcb 1cc24a772bbed5a6 5462b71cc509e283
5b790331bec1bcfc fef340a39ddf24e2 9529f7cafa4be640 59ec0aeb404b129b 8ca7a992aaf60668 f6f5fa2210cb4edb
ff661c5b62e2a694 c884d6292081b030 d57a543755e2ae0c 1baa2dbf268d10a0 61ff7db15f555c6f 5a2ceabeb4cadd77
1b52bc28a5a4864c 5ccd3fa665575d53 9fd0d8ca1e02b9cb e773c5e617198e55 61eb1218c808c13d 13046a461eb20b06
6caa0df05454edcc d8fc46ef2c864505 a3776f416e26e7ef 4cb8a406e022225c 4c9edc49caa060e3 e5cdf5683e77cb6c
72130e387a78cc8a 26c2f0dc786cc67b c69553a2d60e1af5 c161b02a9f54f7aa 9e9b75dd4bc89bb3 b96b2d0e55c76af0
e1d540666b639741 0f49f296c36ab6cf 8f5b75f523fae2a3 e483586105dee41f ee20302bc5a69178 3cab541f982d7ede
f23b30541989c47c d92cd7d6825e3d7b ec07599fad12b2d8 585d01507e7e891e fb5478a2d5ddd124 900e954c4a0fa3b5
dab8ebb982a8b40b e0ea08bcdcd60c37 96e67c416ea55bfd 9c909a017bbf0ec2 365428cbd2ff16c6 79f60084ba06bcc7
ea229d9d4bcab89f c653f0a16c22ba1c b8f4bbbb92e8d144 398a4276f429da95 9b035989c6028f25 61e0c712ae8a8bab
b2ccef3a6ee15fac e987e9623c6df6f0 b1b79cbdea9ae4b7 3cc8c4d991803951 8946d62ee967a422 98b5d932f3f2db9d
858408e3a59f6882 347381c1ce2a3f37 efc19d488bb452c5 96cddf1840a95967 4ed652416576902b 913d77bf94ff5221
7b7e52d44d117850 e7cd9631cdbdf94b 6afcd85bb833710e bb64d2540f186ab6 1b1583c89991d605 7b76b2d139ae65f8
c5a01fea5f4b33a5 d540fb5154520ee8 875535f243f7adbf c90ffe4893b92679 de1691261816f0a8 99ab4e44d93849ac
efd3172d74763b7b ae2f57da1f703e1c a25ce09cdbf1a468 63e3a34651334001 464b1136ffb655af 6ff637935ce7116e
973851fcfd96b35d 65a08d4004b0dd35 7b10f1df9811158e 19820a791f8829e0 7ebdd0e3c4abe939 b5ed3a268b457c47
449340bda000ccd9 875bff017b060fb3 763426eeac0e6baa 48abb46c826dcf48 358dc4f3bdc93461 2062463740561ec0
150eaf9aec741382 2b4e2652896866c9 1274ec9221321d04 153e6be350f76624 e1530f57dea8f8c8 f5b230e611efeeae
2b148688b7d8715f b259a4d05eeab064 f0b7dd02a80a0483 682efcc923b66f1e 6ed70ed83e492945 8c3f7fa4b814ea3f
7045f215c90ec8d8 0f857a13896ceb4b 434c00d53bbd569b 8b73618a1b32f3bb 90c1615ebd8ae049 0edbf7febd38900e
9586350897f4c6a2 0144ee228b160bcb 68cf75439c0e73d9 538810923dfac5e6 d98a33970e4dd127 abcb56e4f6ecaed7
e4dd03337165f7c3 3a95905e67a9e647 7c7a6fffd9fcccdc 7f27e343328fb273 d49f49f356678750 8dad36b31eb2d8d2
cb271ac1e2505c40 6444ab64ebf00b9b c0892befbc012503 61c1f1fdfa81e917 c32498455a35363c 31b694bb8ce869d5
9578956e560008e0 63fb025ed770feb5
"""


def different() -> list[Pair]:
    by_id = {
        question_id(row[column]): row[column]
        for file, column in (
            ("eval/math500/test.jsonl", "problem"),
            ("candidates/math/openaimath_style_4500.jsonl.gz", "problem"),
            ("candidates/math/deepscaler_math_train.json.gz", "problem"),
            ("candidates/math/limr_math8k_prompts.json.gz", "prompt"),
            ("candidates/agieval/math.jsonl.gz", "question"),
            ("candidates/theoremqa/theoremqa_test.json.gz", "Question"),
            ("candidates/omni_math/omni_math_rule.jsonl.gz", "problem"),
        )
        for row in read(file)
    }
    ids = _DIFFERENT.split()
    return [(by_id[one], by_id[other]) for one, other in zip(ids[::2], ids[1::2], strict=True)]
