"""Where in a response the final answer is, and the answer without what surrounds it.

The answer is, in this order:

1. the last complete \\boxed{...} (or \\fbox, or `\\boxed 5$`); boxes joined by commas, "and" or "or" count as one list,
   so that "\\boxed{3} or \\boxed{5}" is not right about 5;
2. the first non-empty line after the last "Answer:" (which "Final Answer:" contains);
3. the rest of the line after the last "answer is";
4. in a response of at most `MAX_UNMARKED_CHARS` characters, its end: the last line.

1 and 2 are the order of the released evaluator, which then asked gpt-4o-mini, and for GPQA fell back to "A". Here what
cannot be found is not there. Only the answer part of a sample is searched, never its thinking. What a response says
about its own grading is text like any other.
"""

import re
from string import whitespace

MAX_UNMARKED_CHARS = 200  # about 50 tokens: longer text without a marker is working, not an answer
MAX_LIST_OF_BOXES = 100
MAX_BETWEEN_BOXES = 60  # characters of one list; the pattern is slow on long blanks

UNICODE = str.maketrans(
    {c: "-" for c in "\u2010\u2011\u2012\u2013\u2212"}
    | {c: " " for c in "\u00a0\u2007\u3000"}
    | {c: '"' for c in "\u201c\u201d\u201e\u00ab\u00bb"}
    | {c: "'" for c in "\u2018\u2019"}
    | {c: None for c in "\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"}
)
BOX = re.compile(r"\\(?:begin)?(?:boxed|fbox)\s*")
_SPACING = r"(?:[ \t,;$]|\\q?quad(?![a-z])|\\[,;:() ])*"
_NAMED = r"(?:[a-zA-Z](?:_\w|_\{\w{1,3}\})?\s*=)?"  # \(y_1 = \boxed{...}\) and \(y_2 = \boxed{...}\)
BETWEEN_BOXES = re.compile(rf"{_SPACING}(?:and|or|\\text\s*\{{\s*(?:and|or)\s*\}})?{_SPACING}{_NAMED}{_SPACING}")
ANSWER_LINE = re.compile(r"answer\W{0,4}?:", re.IGNORECASE)  # also "**Final Answer**:"
ANSWER_IS = re.compile(r"\banswer\s+(?:is|should\s+be)\b\s*:?", re.IGNORECASE)
LEAD_IN = re.compile(
    r"^answer\s+(?=\$|\\[(\[])|^(?:(?:so|thus|hence|therefore)\b,?\s*)?(?:the\s+)?(?:(?:final|correct|best)\s+)*answer\s+(?:is|should\s+be)\b\s*:?",
    re.IGNORECASE,
)


def find_answer(response: str, num_lines: int = 1) -> tuple[str | None, bool]:
    """(answer, whether the response marks it as its answer). An unmarked answer is the end of a short response.

    num_lines: how many lines an answer without a box may have (the reference may be a grid).
    """
    boxed = last_boxed(response)
    if boxed:
        return boxed, True
    for marker in (ANSWER_LINE, ANSWER_IS):
        ends = [match.end() for match in marker.finditer(response)]
        if ends:
            lines = lines_of(response[ends[-1] :], num_lines)
            text = "\n".join(lines)
            return (None if BOX.search(text) else text or None), True  # a box cut off inside is no answer
    if len(response.strip()) > MAX_UNMARKED_CHARS:
        return None, False
    lines = lines_of(response)
    if not lines or BOX.search(response):
        return None, False
    return "\n".join(lines[-num_lines:]), False


def last_boxed(text: str) -> str | None:
    """Content of the last complete box; boxes that stand in one list with it are joined by commas."""
    matches = list(BOX.finditer(text))
    closing = _closing_braces(text) if matches else {}
    contents: list[str] = []
    start = 0
    for match in reversed(matches):
        end, content = _box_content(text, match.end(), closing)
        if contents and not (end <= start <= end + MAX_BETWEEN_BOXES and BETWEEN_BOXES.fullmatch(text, end, start)):
            break
        if content:
            contents.append(content)
            start = match.start()
            if len(contents) == MAX_LIST_OF_BOXES:
                break
    return ", ".join(dict.fromkeys(reversed(contents))) or None


def _box_content(text: str, begin: int, closing: dict[int, int]) -> tuple[int, str]:
    """(end, content) of the box whose argument begins here; no content if its braces do not close."""
    if text[begin : begin + 1] == "{":
        end = closing.get(begin, begin)
        return end + 1, clean(text[begin + 1 : end])
    line = re.compile(r"[^$\n]{0,200}").match(text, begin)[0]  # `\boxed 25$`
    return begin + len(line), "" if BOX.search(line) else clean(line)


def _closing_braces(text: str) -> dict[int, int]:
    """Position of the closing brace for each opening one. One pass: a model in a loop writes thousands of them."""
    opened: list[int] = []
    closing = {}
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):  # \{1,2\} are printed braces
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            closing[opened.pop()] = match.start()
    return closing


def lines_of(text: str, limit: int | None = None) -> list[str]:
    """The lines that have content, cleaned; the first `limit` of them."""
    lines = []
    for line in text.splitlines():
        if limit is not None and len(lines) == limit:
            break
        if cleaned := clean(line):
            lines.append(cleaned)
    return lines


def clean(text: str) -> str:
    """One line without what surrounds an answer: "**The final answer is $\\frac12$.**" -> "\\frac12"."""
    text = text.translate(UNICODE)
    before = None
    while text != before:
        before = text
        text = text.lstrip("`:*" + whitespace).rstrip("`.,;:*" + whitespace)
        text = LEAD_IN.sub("", _without_delimiters(text))
    return text


def _without_delimiters(text: str) -> str:
    """ "$5$" -> "5", also where the other "$" is on another line; "$5$ or $6$" stays."""
    for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        inner = text.removeprefix(opening)
        inner = inner if inner.endswith("\\$") else inner.removesuffix(closing)
        if opening not in inner.replace("\\$", "") and closing not in inner.replace("\\$", ""):
            text = inner
    return text


MATH = re.compile(r"(?<!\\)\$([^$]+)(?<!\\)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]")
SAYS = re.compile(r"\b(?:is|are|equals|gives|it's)\s+", re.IGNORECASE)


def value_of(text: str) -> str:
    """ "The area is $5$ square metres" -> "5": what a sentence says, or else its one piece of math."""
    *before, last = SAYS.split(text)
    if before and re.match(r"(?:approximately |about |exactly )?[-+$\\(\[.\d]", last) and "\\text" not in text:
        text = last.removeprefix("approximately ").removeprefix("about ").removeprefix("exactly ")
    pieces = ["".join(piece) for piece in MATH.findall(text)]
    pieces = [piece for piece in pieces if re.search(r"\w", piece)]
    rest = MATH.sub(" ", text)
    if len(pieces) == 1 and not re.search(r"\d|%|percent|pct", rest):
        return pieces[0]
    return MATH.sub(lambda math: "".join(piece or "" for piece in math.groups()), text) if pieces else text
