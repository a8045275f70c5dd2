r"""Reads a mathematical answer as what it is: a list ("1, 2", "x=3 or x=5"), a set \{...\}, a tuple, point, vector or
interval (...), [...], a union of these, a matrix, a relation, or one expression or words. `eval.equality` compares.
"""

import re
from dataclasses import dataclass
from itertools import zip_longest

from eval.answers import UNICODE
from eval.numbers import NUMBER, Number, Unit, read_number, split_unit

MAX_ITEMS = 200
MAX_DEPTH = 12

TEXT_COMMAND = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|normal)?|math(?:rm|bf|it|sf|cal)|[mh]box|operatorname\*?)\s*\{([^{}]*)\}"
)
SYMBOLS = {
    "\u00d7": "\\times ", "\u00b7": "\\cdot ", "\u22c5": "\\cdot ", "\u00f7": "\\div ", "\u221e": "\\infty ",
    "\u03c0": "\\pi ", "\u03b8": "\\theta ", "\u2264": "\\le ", "\u2265": "\\ge ", "\u2260": "\\ne ",
    "\u2248": "\\approx ", "\u222a": "\\cup ", "\u2229": "\\cap ", "\u2208": "\\in ", "\u00b1": "\\pm ",
    "\u211d": "\\mathbb{R}", "\u2205": "\\emptyset ", "\u00b2": "^2", "\u00b3": "^3", "\u00bd": "\\frac{1}{2}",
    "\u00bc": "\\frac{1}{4}", "\u00be": "\\frac{3}{4}", "\u2044": "/", "\u2032": "'",
}  # fmt: skip
SPELLINGS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<=\d)(?:\{,\}|\\,|[\u2009\u202f])\s*(?=\d{3}(?!\d))", ","),  # thousands marks
        (r"(?<=\d),\\!\s*(?=\d)", ""),
        (r"\u221a\s*(\d+|[a-z](?![a-z]))", r"\\sqrt{\1}"),
        (r"\u221a\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\[dtc]frac(?![a-z])", r"\\frac"),
        (r"\\(?:left|right|displaystyle|[bB]igg?[lr]?|textstyle|limits)(?![a-zA-Z])\.?|(?<!\\)\\!", ""),
        (r"\\(?:quad|qquad|hfill|phantom\{[^{}]*\})(?![a-zA-Z])|(?<!\\)\\[,;: ]|~", " "),
        (r"\\(?:lbrace|\{)", r"\\{"),
        (r"\\(?:rbrace|\})", r"\\}"),
        (r"\\leqslant|\\leq(?![a-z])|<=", r"\\le "),
        (r"\\geqslant|\\geq(?![a-z])|>=", r"\\ge "),
        (r"\\neq(?![a-z])|!=", r"\\ne "),
        (r"\\lt(?![a-z])", "<"),
        (r"\\gt(?![a-z])", ">"),
        (r"\\varnothing|\\\{\s*\\\}", r"\\emptyset "),
        (r"\\infinity|\binfinity\b|\boo\b|(?<![a-zA-Z\\])inf(?![a-zA-Z])", r"\\infty "),
        (r"\\langle(?![a-z])", "("),
        (r"\\rangle(?![a-z])", ")"),
        (
            r"(?<![A-Za-z\\])(arc(?:sin|cos|tan)|(?:sin|cos|tan)h?|cot|sec|csc|ln|log|exp|pi)(?![A-Za-z])(?!\s[A-Za-z]{2})",
            r"\\\1 ",
        ),
        (r"\\R(?![a-zA-Z])|\\(?:Reals|mathbf\{R\})", r"\\mathbb{R}"),
        (r"(?<=[\w)}])\*\*(?=[\d({a-z])", "^"),
        (r"\*\*", ""),
        (r"(?<![\d\\])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d/])", r"\1\\frac{\2}{\3}"),  # a mixed number
    )
]
UNITS_ONLY = re.compile(r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degrees?(?![a-z])|\u00b0|\\?\$")


def plain(text: str) -> str:
    r"""One spelling where LaTeX and Unicode have several; \text{...} and spaces stay, with "$" and degrees."""
    text = re.sub(r"(?<=\d)\s*([kcdm]?m)([\u00b2\u00b3])", r"\\text{\1}\2", text.translate(UNICODE))
    for symbol, command in SYMBOLS.items():
        if symbol in text:
            text = text.replace(symbol, command)
    for pattern, replacement in SPELLINGS:
        text = pattern.sub(replacement, text)
    return _braced(text).strip()


def _braced(text: str) -> str:
    r"""sqrt(x+1) and e^(2x) -> \sqrt{x+1} and e^{2x}."""
    while match := re.search(r"(?<![A-Za-z\\])(?:sqrt\s*(?=\()|(?<=\^)(?=\())|\\sqrt\s*(?=\()", text):
        depth = 0
        for end in range(match.end(), len(text)):
            depth += (text[end] == "(") - (text[end] == ")")
            if depth == 0:
                break
        else:
            return text
        command = "\\sqrt" if "sqrt" in match[0] else ""
        text = f"{text[: match.start()]}{command}{{{text[match.end() + 1 : end]}}}{text[end + 1 :]}"
    return text


def without_text(text: str) -> str:
    for _ in range(2):  # \textbf{\text{B}}
        text = TEXT_COMMAND.sub(r" \1 ", text)
    return text


def bare(text: str) -> str:
    r"""`plain` text without \text{...}, degrees and dollars."""
    return UNITS_ONLY.sub("", without_text(plain(text))).replace("\\%", "%").strip()


def compact(text: str) -> str:
    r"""A spelling that equal expressions mostly share: no spaces, no \text, \frac{1}{2} for \frac12."""
    text = UNITS_ONLY.sub("", without_text(text)).replace("\\%", "%")
    is_list = re.search(r"\d,\s+\d", text)
    text = re.sub(r"(\^\d+)\s+(?=\d)", r"\1\\cdot ", text)
    text = "".join(text.split()).rstrip(".,;:\\")
    if NUMBER.fullmatch(text) and not is_list:
        return text.replace(",", "")
    text = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac(\d)\{", r"\\frac{\1}{", text)
    text = re.sub(r"(\\frac\{[^{}]*\})(\d)", r"\1{\2}", text)
    text = re.sub(r"\\sqrt(\d)", r"\\sqrt{\1}", text)
    return re.sub(r"_\{(\w+)\}", r"_\1", re.sub(r"\^\{(\w)\}", r"^\1", text))


# --- reading


@dataclass(frozen=True)
class Leaf:
    """One expression or words. text: as written, with its unit; value: without."""

    text: str
    value: str
    unit: Unit | None
    number: Number | None


@dataclass(frozen=True)
class Items:
    """kind: "list", "set", "(]" (the brackets of a tuple, point, vector or interval), "union" or "rows" of a matrix."""

    kind: str
    items: tuple["Node", ...]


@dataclass(frozen=True)
class Relation:
    """operators[i] stands between sides[i] and sides[i+1]: =, <, >, \\le, \\ge, \\ne."""

    sides: tuple[str, ...]
    operators: tuple[str, ...]

    @property
    def text(self) -> str:
        return "".join(side + op for side, op in zip_longest(self.sides, self.operators, fillvalue=""))


Node = Leaf | Items | Relation

_OPENING, _CLOSING = "([{", ")]}"
_LIST = re.compile(r"[,;]|(?<![A-Za-z\\])(?:and|or)(?![a-z])|\\text\s*\{\s*(?:,\s*)?(?:and|or)\s*\}|\n")
_UNION = re.compile(r"\\cup(?![a-z])|(?<=[\])}])\s*U\s*(?=[\[(\\])")
_EQUALITY = re.compile(r"\\(?:le|ge|ne)(?![a-z])|[=<>]")
_MATRIX = re.compile(
    r"\\begin\{(?:[pbvB]?(?:small)?matrix|array)\}(?:\{[^{}]*\})?(.*?)\\end\{(?:[pbvB]?(?:small)?matrix|array)\}"
)
_CASES = re.compile(r"\\begin\{(?:cases|aligned|align\*?|gathered)\}(.*?)\\end\{(?:cases|aligned|align\*?|gathered)\}")
_MEMBER = re.compile(r"(?:\\?[A-Za-z]+(?:_\w|\([a-z]\))?\s*)\\in(?![a-z])\s*")
_NAME = (
    r"(?:(?!\\(?:sin|cos|tan|cot|sec|csc|log|ln|exp|frac|sqrt|int|sum|lim|max|min))"
    r"\\?[A-Za-z]+(?:_\{?\w+\}?)?'*(?:\^\{?-1\}?)?(?:\([^()]*\))?)"
)
_NAMING = re.compile(rf"{_NAME}|\({_NAME}(?:,{_NAME})*\)|(?:m?\\(?:angle|triangle|overline|arc)\{{?[A-Za-z]+\}}?)|"
                     rf"\|[A-Za-z]+\||{_NAME}(?::{_NAME})+|\\frac\{{[A-Z]+\}}\{{[A-Z]+\}}")  # fmt: skip


def read(text: str, depth: int = 0) -> Node:
    """`text` is `plain`."""
    text = text.strip().strip("$").strip().rstrip(".,;:").strip()
    if depth > MAX_DEPTH or len(text) > 4000:
        return _leaf(text)
    if (matrix := _MATRIX.fullmatch(_without_group(text))) and "\\begin" not in matrix[1]:
        return _matrix(matrix[1], depth)
    if (cases := _CASES.fullmatch(text)) and "\\begin" not in cases[1]:
        rows = [row.replace("&", " ") for row in cases[1].split("\\\\")]
        return Items("list", tuple(read(row, depth + 1) for row in rows if row.strip()))
    if member := _MEMBER.match(text):
        return read(text[member.end() :], depth)
    for separator in (re.compile(";"), _LIST):
        pieces = _split(text, separator)
        if len(pieces) > 1 and not (separator.pattern == ";" and "," not in re.sub(r"\([^()]*\)", "", text)):
            break
    if len(pieces) > 1 and not _is_one_number(text):
        if len(pieces) > MAX_ITEMS:
            return _leaf(text)
        items = _items(pieces, depth)
        ranges = [interval(item) for item in items]
        if "or" in text and all(isinstance(item, Relation) for item in items) and all(ranges):
            return Items("union", tuple(ranges))
        return Items("list", items)
    pieces = _split(text, _UNION)
    if len(pieces) > 1:
        return Items("union", tuple(read(piece, depth + 1) for piece in pieces[:MAX_ITEMS]))
    if relation := _relation(text):
        return _plus_minus(relation, depth) or relation
    return _bracketed(text, depth) or _plus_minus_leaf(text, depth) or _leaf(text)


_TRIGONOMETRIC = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*(?:\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degrees?(?![a-z])|\u00b0)")


def _items(pieces: list[str], depth: int) -> tuple[Node, ...]:
    r"""What the pieces of a list are; a piece with \pm is two of them."""
    nodes = [(piece, read(piece, depth + 1)) for piece in pieces]
    split = [
        node.items if "\\pm" in piece and getattr(node, "kind", "") == "list" else (node,) for piece, node in nodes
    ]
    return tuple(item for items in split for item in items)


def _leaf(text: str) -> Leaf:
    if _TRIGONOMETRIC.search(text):
        text = _DEGREES.sub(r"(\1\\cdot\\frac{\\pi}{180})", text)
    value, unit = split_unit(text)
    value = compact(value)
    if "%" in value and value.endswith("%"):
        value = value.rstrip("%")
    return Leaf(text, value, unit, read_number(value))


def _is_one_number(text: str) -> bool:
    return bool(re.fullmatch(r"[-+]?\d+(\.\d+)?", compact(split_unit(text)[0])))


def _split(text: str, separator: re.Pattern) -> list[str]:
    """At the separators that stand outside brackets. Intervals mix ( and ], so brackets only count."""
    pieces, depth, start, at = [], 0, 0, 0
    while at < len(text):
        if depth == 0 and (match := separator.match(text, at)):
            pieces.append(text[start:at])
            start = at = match.end()
            continue
        if text.startswith("\\begin", at):
            depth += 1
        elif text.startswith("\\end", at):
            depth -= 1
        depth += (text[at] in _OPENING) - (text[at] in _CLOSING)
        at += 2 if text[at] == "\\" and text[at + 1 : at + 2] not in _OPENING + _CLOSING + "be" else 1
    return [piece for piece in (*pieces, text[start:]) if piece.strip()]


def _without_group(text: str) -> str:
    """What is inside the one pair of brackets around a whole matrix: ([\\begin...]) -> \\begin..."""
    while (
        len(text) > 2 and text[0] in "([" and text[-1] in ")]" and text[1:].lstrip().startswith(("\\begin", "(", "["))
    ):
        inner = text[1:-1].strip()
        if not (inner.startswith(("\\begin", "(", "[")) and inner.endswith(("}", ")", "]"))):
            break
        if inner.count("\\begin") != 1:
            break
        text = inner
    return text


def _matrix(body: str, depth: int) -> Items:
    rows = [row.replace("\\hline", " ").split("&") for row in re.split(r"\\\\", body) if row.strip()]
    cells = [tuple(read(cell, depth + 1) for cell in row) for row in rows]
    return Items("rows", tuple(Items("()", row) for row in cells))


def _bracketed(text: str, depth: int) -> Node | None:
    """A set, tuple or interval, if the whole text is in one pair of brackets."""
    if re.fullmatch(r"\].*[\[\]]|[\[(].*\[", text) and _closes_at_end("(" + text[1:-1] + ")", 0):  # ]0,1[
        text = {"]": "(", "[": "["}.get(text[0], "(") + text[1:-1] + {"[": ")", "]": "]"}[text[-1]]
    if text.startswith("\\{") and _closes_at_end(text, 1):
        inner = re.split(r"\\mid(?![a-z])|(?<![\d|])\|(?![\d|])|:", text[2:-2])
        if len(inner) == 2 and re.search(r"[=<>]|\\(?:le|ge|ne)(?![a-z])", inner[1]):  # {x | x > 2}
            return read(inner[1], depth + 1)
        return Items("set", _items(_split(text[2:-2], re.compile("[,;]")), depth))
    if not text or text[0] not in _OPENING or not _closes_at_end(text, 0):
        return None
    pieces = _split(text[1:-1], re.compile("[,;]"))
    if text[0] == "{" or (len(pieces) == 1 and text[0] + text[-1] in ("()", "[]")):
        return read(text[1:-1], depth + 1) if pieces else None
    if len(pieces) < 2 or _is_one_number(text[1:-1]) and "," not in text[1:-1]:
        return None
    return Items(text[0] + text[-1], tuple(read(piece, depth + 1) for piece in pieces))


def _closes_at_end(text: str, at: int) -> bool:
    depth = 0
    for i in range(at, len(text)):
        depth += (text[i] in _OPENING) - (text[i] in _CLOSING)
        if depth == 0:
            return i == len(text) - 1
    return False


def _relation(text: str) -> Relation | None:
    text = re.split(r"\\(?:approx|simeq|cong)(?![a-z])|\\(?:Right|Longright|implies)", text)[0].strip() or text
    sides, operators, depth, start, at = [], [], 0, 0, 0
    while at < len(text):
        match = _EQUALITY.match(text, at) if depth == 0 else None
        if match:
            sides.append(text[start:at].strip())
            operators.append(match[0])
            start = at = match.end()
            continue
        depth += (text[at] in _OPENING) - (text[at] in _CLOSING)
        at += 1
    sides.append(text[start:].strip())
    if not operators or not sides[-1]:
        return None
    if not sides[0]:  # "= 5"
        sides, operators = sides[1:], operators[1:]
    return Relation(tuple(sides), tuple(operators)) if operators else None


def _plus_minus_leaf(text: str, depth: int) -> Node | None:
    if not re.search(r"\\(?:pm|mp)(?![a-z])", text):
        return None
    plus = re.sub(r"\\pm(?![a-z])", "+", re.sub(r"\\mp(?![a-z])", "-", text))
    minus = re.sub(r"\\pm(?![a-z])", "-", re.sub(r"\\mp(?![a-z])", "+", text))
    return Items("list", (read(plus, depth + 1), read(minus, depth + 1)))


def _plus_minus(relation: Relation, depth: int) -> Node | None:
    return _plus_minus_leaf(relation.text, depth) if "=" in relation.operators else None


# --- relations


def assignment(relation: Node, depth: int = 0) -> tuple[str, Node] | None:
    """Of an assignment: what is named, and its value; of a chain of numbers no name and the last."""
    if not isinstance(relation, Relation) or set(relation.operators) != {"="}:
        return None
    name, value = compact(relation.sides[0]), relation.sides[-1]
    if _NAMING.fullmatch(name):
        variable = re.match(r"[A-Za-z]+|\\(?!frac|angle|triangle|overline|arc)[A-Za-z]+", name)
        if variable and re.search(rf"(?<![A-Za-z\\]){re.escape(variable[0])}(?![A-Za-z])", compact(value)):
            return None  # x = 2x - 1 says something else
        return name, read(value, depth + 1)
    value_name = compact(value)
    if (
        len(relation.sides) == 2
        and re.fullmatch(r"[a-zA-Z](?:_\w+)?", value_name)
        and not re.search(rf"(?<![A-Za-z\\]){value_name}(?![A-Za-z])", name)
    ):
        return value_name, read(relation.sides[0], depth + 1)  # 2 = x
    if _is_constant(name) and _is_constant(value):
        return "", read(value, depth + 1)  # 5 \cdot 5 = 25
    return None


def interval(node: Node) -> Items | None:
    """The interval that an inequality for one unknown says; \\ne is a union."""
    if not isinstance(node, Relation):
        return None
    sides, operators = [side.strip() for side in node.sides], [op.strip() for op in node.operators]
    if len(sides) == 2 and _is_constant(sides[0]) and not _is_constant(sides[1]):
        turned = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
        sides, operators = sides[::-1], [turned.get(operators[0], operators[0])]
    if len(sides) == 3 and all(op in (">", "\\ge") for op in operators):
        sides = sides[::-1]
        operators = [{">": "<", "\\ge": "\\le"}[op] for op in operators[::-1]]
    unknown = compact(sides[1] if len(sides) == 3 else sides[0])
    if not re.fullmatch(_NAME, unknown) or len(sides) > 3:
        return None
    if len(sides) == 3:
        if not all(op in ("<", "\\le") for op in operators) or not (_is_constant(sides[0]) and _is_constant(sides[2])):
            return None
        brackets = ("[" if operators[0] == "\\le" else "(") + ("]" if operators[1] == "\\le" else ")")
        return Items(brackets, (read(sides[0], 1), read(sides[2], 1)))
    if operators[0] == "=" or not _is_constant(sides[1]):
        return None
    end, low, high = read(sides[1], 1), _leaf("-\\infty"), _leaf("\\infty")
    if operators[0] == "\\ne":
        return Items("union", (Items("()", (low, end)), Items("()", (end, high))))
    if operators[0] in ("<", "\\le"):
        return Items("(" + (")" if operators[0] == "<" else "]"), (low, end))
    return Items(("(" if operators[0] == ">" else "[") + ")", (end, high))


def _is_constant(text: str) -> bool:
    return not re.search(
        r"[a-zA-Z]",
        re.sub(r"\\(?:frac|sqrt|pi|infty|ln|log|cdot|times|[a-z]+(?=\s*\d))|(?<![a-zA-Z\\])e(?![a-zA-Z])", "", text),
    )
