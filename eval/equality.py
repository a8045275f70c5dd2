"""Are two mathematical answers one answer? What they are is read by `eval.latex`; expressions go to math-verify.

Rules:

- Lists and sets in any order, tuples, points and vectors in theirs; a list may stand for a set or for a tuple. A set is
  no tuple. Intervals have the same ends, open or closed. A column or row of a matrix is a vector.
- Of an assignment (x = 5, f(x) = ..., AB = 4) the value counts, unless two different letters are given constants; of a
  chain of equal sides the last. Other equations and inequalities are equal up to a factor, an equation is no
  expression.
- x \\in S is S; inequalities for one unknown are the interval that they say.
- \\pm is both values. a:b is a ratio. A number with a base is not its value in base ten.
- Words are compared without case and articles. An option letter may be followed by its text: "C. 42".
- Numbers and units: `eval.numbers`.
"""

import re
from fractions import Fraction
from itertools import accumulate

from eval.answers import clean, value_of
from eval.latex import Items, Leaf, Node, Relation, assignment, compact, interval, plain, read, without_text
from eval.math_verify import MATH_VERIFY
from eval.numbers import Unit, read_number, same_number

MAX_COMPARISONS = 40  # by math-verify, for one answer
MAX_MATH_CHARS = 400
MAX_NESTING = 20  # the parser's time doubles with every few levels
MAX_POWER_DIGITS = 100_000

OPTION = re.compile(r"\(?([A-J])\)?")
CHOSEN = re.compile(r"\(([A-J])\).*|([A-J])(?:\s*[.):].*)?", re.DOTALL)
WORDS = re.compile(r"[A-Za-z][A-Za-z'-]+(?:[ ,]+[A-Za-z'-]+)*")
TIME = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?(?:([apAP])\.?[mM]\.?)?")
ARTICLE = re.compile(r"\b(?:a|an|the)\s+")


class Undecided(Exception):
    """Neither rules nor math-verify can tell; the text says why."""


class Comparison:
    """Of one answer with one reference. num_asked: how often math-verify was asked; grader: what it says it is."""

    def __init__(self):
        self.num_asked = 0
        self.grader = ""

    def same(self, gold: str, found: str) -> bool:
        """Raises Undecided."""
        gold, found = plain(value_of(clean(gold))), plain(value_of(found))
        form, other = compact(gold), compact(found)
        if form == other and not _has_unit(gold, found):
            return True
        if (option := OPTION.fullmatch(form)) and (
            len(form) == 3 or "\\text" in gold or CHOSEN.fullmatch(without_text(found).strip())
        ):
            chosen = CHOSEN.fullmatch(" ".join(without_text(found).split()))
            if chosen or len(form) == 3:
                return bool(chosen) and (chosen[1] or chosen[2]) == option[1]
        if base := re.fullmatch(r"(\d[0-9A-Z]*)_\d+", form):  # math-verify ignores the subscript: 52_8 == 52_7
            return other == base[1]
        if is_words(gold):
            return same_words(gold, found)
        decimal = re.compile(r"[-+]?\d+\.\d+")
        for a, b in ((form, other), (other, form)):
            if decimal.fullmatch(a) and re.fullmatch(r"[-+]?\d+,\d+", b) and a == b.replace(",", "."):
                return True  # a decimal comma, where the other side has a point
        return self.same_nodes(read(gold), read(found))

    def same_nodes(self, a: Node, b: Node) -> bool:
        if a == b:
            return True
        if isinstance(a, Relation) or isinstance(b, Relation):
            return self._same_relations(a, b)
        if isinstance(a, Items) or isinstance(b, Items):
            return self._same_items(a, b)
        return self._same_leaves(a, b)

    # several

    def _same_items(self, a: Node, b: Node) -> bool:
        if isinstance(a, Leaf) or isinstance(b, Leaf):
            items, leaf = (a, b) if isinstance(a, Items) else (b, a)
            if items.kind in ("set", "rows", "list") and len(items.items) == 1:
                only = items.items[0]
                return self.same_nodes(*((only, leaf) if items is a else (leaf, only)))
            if items.kind == "list" or leaf.number is not None:
                return False
            return self._ask(text_of(a), text_of(b))
        kinds = {a.kind, b.kind}
        if kinds == {"rows"}:
            return self._same_rows(a, b)
        if "rows" in kinds:
            rows, other = (a, b) if a.kind == "rows" else (b, a)
            if all(isinstance(row, Items) for row in other.items) and other.kind in ("list", "[]", "()"):
                return self._same_rows(rows, other)
            vector = vector_of(rows)
            return bool(vector) and other.kind in ("list", "[]", "()") and self._in_order(vector, other.items)
        if "union" in kinds:
            return self._same_unions(a, b)
        if kinds <= {"list", "set"}:
            if kinds == {"list"} and (order := self._by_name(a, b)) is not None:
                return order
            return self._any_order(a.items, b.items)
        if "set" in kinds:
            return False  # a point or an interval is no set
        if "list" not in kinds and a.kind != b.kind and len(a.items) == 2:
            return False  # ends of an interval
        return self._in_order(a.items, b.items)

    def _same_rows(self, a: Items, b: Items) -> bool:
        return len(a.items) == len(b.items) and all(
            self._in_order(row.items, other.items) for row, other in zip(a.items, b.items, strict=True)
        )

    def _in_order(self, items: tuple[Node, ...], others: tuple[Node, ...]) -> bool:
        return len(items) == len(others) and all(self.same_nodes(a, b) for a, b in zip(items, others, strict=True))

    def _any_order(self, items: tuple[Node, ...], others: tuple[Node, ...]) -> bool:
        if len(items) != len(others):
            items, others = tuple(dict.fromkeys(items)), tuple(dict.fromkeys(others))
        if len(items) != len(others):
            return False
        rest = list(others)
        open_items = []
        for item in items:  # what is spelled alike needs no question
            if item in rest:
                rest.remove(item)
            else:
                open_items.append(item)
        for item in open_items:
            match = next((other for other in rest if self.same_nodes(item, other)), None)
            if match is None:
                return False
            rest.remove(match)
        return True

    def _by_name(self, a: Items, b: Items) -> bool | None:
        """ "x = 1, y = 2" against "1, 2" in order; None unless one side names different things and the other none."""
        named = [[assignment(item) for item in node.items] for node in (a, b)]
        for mine, theirs in (named, named[::-1]):
            names = {found[0] for found in mine if found}
            if len(names) == len(mine) > 1 and not any(theirs):
                return self._in_order(a.items, b.items)
        return None

    def _same_unions(self, a: Items, b: Items) -> bool:
        parts = [node.items if node.kind == "union" else (node,) for node in (a, b)]
        parts = [tuple(interval(part) or part for part in side) for side in parts]
        return self._any_order(*parts) or (len(parts[0]) != len(parts[1]) and self._ask(text_of(a), text_of(b)))

    # relations

    def _same_relations(self, a: Node, b: Node) -> bool:
        named = [assignment(node) if isinstance(node, Relation) else None for node in (a, b)]
        if all(named):
            (name, value), (other_name, other_value) = named
            letters = all(re.fullmatch(r"[A-Za-z]", n) for n in (name, other_name))
            constants = all(isinstance(v, Leaf) and v.number is not None for v in (value, other_value))
            return not (letters and constants and name != other_name) and self.same_nodes(value, other_value)
        if isinstance(a, Relation) and isinstance(b, Relation) and a.operators == b.operators == ("=",):
            (left, right), (other_left, other_right) = a.sides, b.sides
            if compact(left) == compact(other_left) and self.same_nodes(read(right), read(other_right)):
                return True
        ranges = [interval(node) or node for node in (a, b)]
        if not any(isinstance(node, Relation) for node in ranges):
            return self.same_nodes(*ranges)
        if any(named) and not all(isinstance(node, Relation) for node in (a, b)):
            return self.same_nodes(named[0][1] if named[0] else a, named[1][1] if named[1] else b)
        relations = [node for node in (a, b) if isinstance(node, Relation)]
        if len(relations) == 1 and any(isinstance(n, Leaf) for n in (a, b)) and set(relations[0].operators) == {"="}:
            return False  # an equation is no expression
        return self._ask(text_of(a), text_of(b))

    # one expression

    def _same_leaves(self, a: Leaf, b: Leaf) -> bool:
        if a.unit and b.unit and a.unit.dimensions is not None and b.unit.dimensions is not None:
            if a.unit.dimensions != b.unit.dimensions:
                return self._radians(a, b)
            if a.unit.factor != b.unit.factor:
                return self._same_quantities(a, b)
        if not a.value or not b.value or a.value.count("'") != b.value.count("'"):
            return False
        if a.value == b.value:
            return True
        if ":" in a.value and ":" in b.value or ":" in a.value + b.value and (a.number or b.number):
            return _same_ratio(compact(a.text), compact(b.text))
        if a.number and b.number:
            return same_number(a.number, b.number) or _same_percent(a, b)
        if bool(a.unit) != bool(b.unit) and (_is_degree(a.unit) or _is_degree(b.unit)) and "\\pi" in a.value + b.value:
            return self._radians(a, b)
        if is_words(a.text) or is_words(b.text):
            return same_words(a.text, b.text)
        return self._ask(_math(a), _math(b))

    def _same_quantities(self, a: Leaf, b: Leaf) -> bool:
        if a.number and b.number:
            return a.number.value * a.unit.factor == b.number.value * b.unit.factor
        values = [
            f"({leaf.value})*\\frac{{{leaf.unit.factor.numerator}}}{{{leaf.unit.factor.denominator}}}"
            for leaf in (a, b)
        ]
        return self._ask(*values)

    def _radians(self, a: Leaf, b: Leaf) -> bool:
        if not any(_is_degree(leaf.unit) for leaf in (a, b)):
            return False
        if not all(leaf.unit is None or leaf.unit.dimensions[0][0] in ("deg", "rad") for leaf in (a, b)):
            return False
        return self._ask(
            *(f"({leaf.value})*\\frac{{\\pi}}{{180}}" if _is_degree(leaf.unit) else leaf.value for leaf in (a, b))
        )

    def _ask(self, gold: str, found: str) -> bool:
        """Raises Undecided."""
        if max(len(gold), len(found)) > MAX_MATH_CHARS:
            raise Undecided("too long")
        if max(_nesting(gold), _nesting(found)) > MAX_NESTING:
            raise Undecided("too deep")
        if is_huge(gold) or is_huge(found):
            raise Undecided("too large")
        self.num_asked += 1
        if self.num_asked > MAX_COMPARISONS:
            raise Undecided("too many comparisons")
        factor = re.compile(r"(?<![A-Za-z\\_.\d^{])([ie]|\d+(?:\.\d+)?)\(")  # else a function, of e or of 9
        equal, self.grader = MATH_VERIFY.compare(*(factor.sub(r"\1\\cdot(", text) for text in (gold, found)))
        if equal is None:
            raise Undecided(self.grader)
        return equal


def _math(leaf: Leaf) -> str:
    """For math-verify, which takes a mixed number for a product and [...] for a list."""
    if leaf.number and re.match(r"[-+]?\d+\\frac", leaf.value):
        return f"\\frac{{{leaf.number.value.numerator}}}{{{leaf.number.value.denominator}}}"
    return re.sub(r"(?<!\\sqrt)\[([^\[\],]*)\]", r"(\1)", leaf.value)


def text_of(node: Node) -> str:
    """LaTeX of a node, without units."""
    if isinstance(node, Leaf):
        return node.value
    if isinstance(node, Relation):
        return " ".join(without_text(node.text).split())
    inner = ",".join(text_of(item) for item in node.items)
    if node.kind == "union":
        return "\\cup ".join(text_of(item) for item in node.items)
    if node.kind == "rows":
        rows = "\\\\".join("&".join(text_of(cell) for cell in row.items) for row in node.items)
        return f"\\begin{{pmatrix}}{rows}\\end{{pmatrix}}"
    return {"list": inner, "set": f"\\{{{inner}\\}}"}.get(node.kind, node.kind[0] + inner + node.kind[1:])


def vector_of(rows: Items) -> tuple[Node, ...]:
    """The entries of a single row or column; () for a matrix."""
    if len(rows.items) == 1:
        return rows.items[0].items
    return tuple(row.items[0] for row in rows.items) if all(len(row.items) == 1 for row in rows.items) else ()


def is_words(text: str) -> bool:
    """Words, not a product of letters: \\text{...} without digits, or letters enough for it."""
    words = " ".join(without_text(text).split()).rstrip(".")
    if not WORDS.fullmatch(words):
        return False
    return "\\" in text or " " in words or len(words) > 3


def same_words(gold: str, found: str) -> bool:
    return _words(gold) == _words(found)


def _words(text: str) -> str:
    text = re.sub(r"(?<=\w)-(?=\w)", " ", without_text(text).casefold())
    return ARTICLE.sub("", " ".join(text.split()).rstrip(". "))


def is_huge(text: str) -> bool:
    """Would sympy, which evaluates powers and factorials of integers, write out more than `MAX_POWER_DIGITS` digits?"""
    text = re.sub(r"[\s{}()]|\\left|\\right", "", text.replace("**", "^"))
    for tower in re.finditer(r"\d+(?:\.\d+)?(?:\^-?\d+)+", text):
        base, *exponents = tower[0].split("^")
        if len(exponents) > 1 and (
            len(exponents) > 2
            or int(exponents[0].lstrip("-")[:6]) ** min(int(exponents[1].lstrip("-")[:6]), 20) > MAX_POWER_DIGITS
        ):
            return True
        if len(exponents[0]) > 9 or len(base) * int(exponents[0].lstrip("-")) > MAX_POWER_DIGITS:
            return True
    return any(len(match[1]) > 5 or int(match[1]) > 20_000 for match in re.finditer(r"(\d+)!", text)) or "!!" in text


def _nesting(text: str) -> int:
    return max(accumulate((c in "([{") - (c in ")]}") for c in text), default=0)


def _has_unit(*texts: str) -> bool:
    return any(re.search(r"\\text|\\m|[A-Za-z]{2}|\u00b0|\\circ|%|\$|\u20ac", text) for text in texts)


def _is_degree(unit: Unit | None) -> bool:
    return unit is not None and unit.dimensions == (("deg", 1),)


def _is_percent(leaf: Leaf) -> bool:
    return leaf.unit is not None and leaf.unit.dimensions == (("%", 1),)


def _same_percent(a: Leaf, b: Leaf) -> bool:
    """50% is 0.5, where the other side states no unit."""
    for percent, other in ((a, b), (b, a)):
        if _is_percent(percent) and other.unit is None:
            return percent.number.value / 100 == other.number.value
    return False


def _seconds(time: re.Match) -> int:
    hours = int(time[1]) % 12 + 12 * (time[4] in "pP") if time[4] else int(time[1])
    return 3600 * hours + 60 * int(time[2]) + int(time[3] or 0)


def _same_ratio(a: str, b: str) -> bool:
    """3:4 is 6:8 and 3/4. A time of day (08:34 PM, 20:34:00) is no ratio."""
    times = [TIME.fullmatch(text) for text in (a, b)]
    if all(times) and any(len(text) > 4 or text[-1] in "mM." for text in (a, b)):
        return _seconds(times[0]) == _seconds(times[1])
    parts = [text.split(":") for text in (a, b)]
    values = [[read_number(part) for part in side] for side in parts]
    if not all(all(side) for side in values) or any(value.value == 0 for side in values for value in side):
        return False
    sides = [[value.value for value in side] for side in values]
    if {len(side) for side in sides} == {1, 2}:
        return Fraction(sides[0][0], sides[0][1] if len(sides[0]) > 1 else 1) == Fraction(
            sides[1][0], sides[1][1] if len(sides[1]) > 1 else 1
        )
    return len(sides[0]) == len(sides[1]) and all(
        x * sides[1][0] == y * sides[0][0] for x, y in zip(*sides, strict=True)
    )
