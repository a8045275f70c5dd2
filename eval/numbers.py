r"""Numbers as people and models write them: exact values, decimals that stand for them, units.

Rules, for two numbers:

- Exact values are equal or they are not: 326.5 is not 326.5001.
- A decimal may stand for a number that has no finite one (1/3, \sqrt2, \pi): with at least `MIN_DIGITS` significant
  digits, all of them right (rounded or cut). A reference may be such a decimal too, of three digits or more.
- A unit may be left out. Two units that are stated must measure the same thing, and then count: 1 m is 100 cm, and
  neither 1 cm nor 1 kg. Words that are no known units (apples, ways) say nothing.
- Per cent is a unit that also has a value: 50% is 50 and is 0.5 where the other side states no unit. 50 is not 0.5.
- Degrees may be left out, and are radians where the other side is a multiple of \pi.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_DIGITS = 1000  # Python refuses to read integers of more than 4,300 digits
MIN_DIGITS = 4
MIN_REFERENCE_DIGITS = 3

NUMBER = re.compile(r"(?<![\w.])(?:(?<![)\]}])[-+])?(?:[1-9]\d{0,2}(?:,\d{3})+(?!\d)|\d+|(?=\.\d))(?:\.\d+)?")
DECIMAL = re.compile(r"[-+]?(\d*)\.(\d+)|[-+]?\d\.?(\d*)(?:e|\\times10\^)\{?-?\d+\}?")
FRACTION = re.compile(r"([-+]?)(\d*)\\frac\{([-+]?\d+)\}\{([-+]?\d+)\}")
SLASHED = re.compile(r"([-+]?)()\(?(-?\d+)\)?/\(?(-?\d+)\)?")
SCIENTIFIC = re.compile(
    r"([-+]?(?:\d+\.?\d*|\.\d+))(?:(?:(?:\\times|\\cdot|\u00d7|\u00b7|\*|x)10(?:\^|\*\*)\{?\(?|[eE])([-+]?\d{1,3})\)?\}?)?"
)
POWER_OF_TEN = re.compile(r"10\^\{?(-?\d{1,3})\}?")


@dataclass(frozen=True)
class Number:
    """An exact value and how it was written, without spaces."""

    value: Fraction
    text: str

    @property
    def num_digits(self) -> int | None:
        """Significant digits of a decimal; None for any other spelling."""
        match = DECIMAL.fullmatch(self.text)
        if not match:
            return None
        digits = (match[1] + match[2]).lstrip("0") if match[2] else "1" + match[3]
        return len(digits)

    @property
    def last_place(self) -> Fraction:
        """What one more in the last digit of a decimal adds."""
        mantissa, _, exponent = re.sub(r"\\times10\^\{?|\}", lambda m: "e" if m[0] != "}" else "", self.text).partition(
            "e"
        )
        return Fraction(10) ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def read_number(text: str) -> Number | None:
    r"""12, -1.5, 1,234, 3/4, \frac{3}{4}, 1\frac{4}{5}, 6.7\times10^{-5}, 1e3; else None. `text` has no spaces."""
    if not text or len(text) > MAX_DIGITS:
        return None
    text = text.replace(",", "") if NUMBER.fullmatch(text) else text
    if match := FRACTION.fullmatch(text) or SLASHED.fullmatch(text):
        sign, whole, numerator, denominator = match.groups()
        if int(denominator) == 0:
            return None
        value = int(whole or 0) + Fraction(int(numerator), int(denominator))
        return Number(-value if sign == "-" else value, text)
    if match := POWER_OF_TEN.fullmatch(text):
        return Number(Fraction(10) ** int(match[1]), text)
    if match := SCIENTIFIC.fullmatch(text):
        return Number(Fraction(match[1]) * Fraction(10) ** int(match[2] or 0), text)
    return None


def same_number(gold: Number, found: Number, slack: Fraction = Fraction(0)) -> bool:
    """Equal, or a decimal on one side that stands for the other. slack: relative, where values are not exact."""
    difference = abs(gold.value - found.value)
    if difference <= slack * abs(gold.value):
        return True
    for decimal, other, least in ((found, gold, MIN_DIGITS), (gold, found, MIN_REFERENCE_DIGITS)):
        digits = decimal.num_digits
        if digits is not None and other.num_digits is None and digits >= least and _is_endless(other.value):
            return difference < decimal.last_place
    return False


def _is_endless(value: Fraction) -> bool:
    """Has no finite decimal (or one so long that the value is that of a root)."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest > 1 or value.denominator > 10**15


# --- units

_FORCE = {"length": 1, "mass": 1, "time": -2}
_ENERGY = {"length": 2, "mass": 1, "time": -2}
_POWER_OF_WORK = {"length": 2, "mass": 1, "time": -3}
_PRESSURE = {"length": -1, "mass": 1, "time": -2}
_KNOWN = (  # what is measured, in metres, grams, seconds, dollars; names
    ({"length": 1}, "1/1000", "mm millimeter millimetre"),
    ({"length": 1}, "1/100", "cm centimeter centimetre"),
    ({"length": 1}, "1/10", "dm decimeter decimetre"),
    ({"length": 1}, "1", "m meter metre"),
    ({"length": 1}, "1000", "km kilometer kilometre"),
    ({"length": 1}, "254/10000", "in inch inches"),
    ({"length": 1}, "3048/10000", "ft foot feet"),
    ({"length": 1}, "9144/10000", "yd yard"),
    ({"length": 1}, "1609344/1000", "mi mile"),
    ({"length": 3}, "1/1000000", "ml mL milliliter millilitre"),
    ({"length": 3}, "1/1000", "l L liter litre"),
    ({"length": 3}, "3785411784/1000000000000", "gal gallon"),
    ({"mass": 1}, "1/1000", "mg milligram"),
    ({"mass": 1}, "1", "g gram gramme"),
    ({"mass": 1}, "1000", "kg kilogram kilo"),
    ({"mass": 1}, "45359237/100000", "lb lbs pound"),
    ({"mass": 1}, "45359237/1600000", "oz ounce"),
    ({"time": 1}, "1/1000", "ms millisecond"),
    ({"time": 1}, "1", "s sec second"),
    ({"time": 1}, "60", "min minute"),
    ({"time": 1}, "3600", "h hr hour"),
    ({"time": 1}, "86400", "day days"),
    ({"time": 1}, "604800", "week wk"),
    ({"length": 1, "time": -1}, "1609344/3600000", "mph"),
    ({"length": 1, "time": -1}, "1000/3600", "kph kmh"),
    (_FORCE, "1000", "N newton"),
    (_ENERGY, "1000", "J joule"),
    (_ENERGY, "1000000", "kJ kilojoule"),
    (_POWER_OF_WORK, "1000", "W watt"),
    (_POWER_OF_WORK, "1000000", "kW kilowatt"),
    (_PRESSURE, "1000", "Pa pascal"),
    (_PRESSURE, "1000000", "kPa kilopascal"),
    ({"time": -1}, "1", "Hz hertz"),
    ({"voltage": 1}, "1", "V volt"),
    ({"current": 1}, "1", "A amp ampere"),
    ({"temperature": 1}, "1", "K kelvin"),
    ({"amount": 1}, "1", "mol mole"),
    ({"electronvolt": 1}, "1", "eV electronvolt"),
    ({"money": 1}, "1", "$ dollar usd USD buck"),
    ({"money": 1}, "1/100", "cent \u00a2"),
    ({"euro": 1}, "1", "\u20ac euro EUR"),
    ({"sterling": 1}, "1", "\u00a3 GBP"),
    ({"%": 1}, "1", "% percent pct percentage"),
    ({"deg": 1}, "1", "deg degree \u00b0"),
    ({"rad": 1}, "1", "rad radian"),
)
UNITS = {name: (dimensions, Fraction(factor)) for dimensions, factor, names in _KNOWN for name in names.split()}
MULTIPLES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}  # powers of ten

_WORD = (
    r"(?:\\(?:text(?:rm|bf|it|normal)?|math(?:rm|bf|it|sf)|mbox|hbox|operatorname|rm)\s*\{[^{}]*\}"
    r"|(?<![A-Za-z\\])(?:[A-Za-z]{2,}\.?|[mgl](?=/)))"
)
_POWER = r"(?:\s?\^\s?(?:\{\s?[-+]?\d\s?\}|[-+]?\d))?"
_UNIT = re.compile(
    rf"[\s~]*(?:\\[ ,;])?[\s~]*({_WORD}{_POWER}"
    rf"(?:\s?(?:/|\*|\\cdot|)\s?(?:{_WORD}|(?<=/)[a-zA-Z]){_POWER}){{0,5}})[\s.]*\Z"
)
_SYMBOL = re.compile(
    r"\s*(?:\\?(%|\$)|(\u20ac|\u00a3|\u00a2|\u00b0)|\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\(?:degree|degrees)(?![a-z]))\s*\Z"
)


@dataclass(frozen=True)
class Unit:
    """dimensions: powers of what is measured, None where a word is no known unit; factor: in base units."""

    dimensions: tuple[tuple[str, int], ...] | None
    factor: Fraction = Fraction(1)


def split_unit(text: str) -> tuple[str, Unit | None]:
    r""" "15\mbox{ cm}^2" -> ("15", square centimetres). `text` has its \text{...} still. None without a unit."""
    head, _, tail = (text[:-80], "", text[-80:])
    if match := re.match(r"\s*([-+]?)\s*(?:\\?(\$)|(\u20ac|\u00a3))\s*(?=[\d.])", text):
        inner, _ = split_unit(text[match.end() :])
        return match[1] + inner, _unit(match[2] or match[3])
    if match := _SYMBOL.search(tail):
        symbol = match[1] or match[2] or "deg"
        return head + tail[: match.start()], _unit(symbol)
    for match in _UNIT.finditer(tail):
        value, words = head + tail[: match.start()], match[1]
        if not re.search(r"[\d})\]]\s*\Z|\\(?:pi|infty)\s*\Z", value):
            continue
        multiple, _, rest = _unwrapped(words).strip().partition(" ")
        if multiple in MULTIPLES:
            return f"{value}\\times10^{{{MULTIPLES[multiple]}}}", _unit(rest) if rest.strip() else None
        unit = _unit(_unwrapped(words))
        if unit.dimensions is not None or "\\" in words or re.search(r"[A-Za-z]{4}", words):
            return value, unit
    return text, None


def _unwrapped(words: str) -> str:
    return re.sub(r"\\[a-z]+\s*\{([^{}]*)\}", r" \1 ", words)


def _unit(words: str) -> Unit:
    """ "cm^2", "square feet", "m/s", "kg m s^{-1}", "miles per hour"."""
    words = re.sub(r"\bper cent\b", "percent", words)
    words = re.sub(r"\bper\b", "/", words)
    words = re.sub(r"\b(square|sq\.?|cubic)\s+([A-Za-z]+)", lambda m: f"{m[2]}^{3 if m[1] == 'cubic' else 2}", words)
    dimensions: dict[str, int] = {}
    factor, sign = Fraction(1), 1
    for slash, name, power in re.findall(
        r"(/)|([^\s/*^{}\\.\d-]+)\.?\s*(?:\^\s*\{?\s*([-+]?\d))?", words.replace("\\cdot", " ")
    ):
        if slash:
            sign = -1
            continue
        known = UNITS.get(name) or UNITS.get(name.lower()) or UNITS.get(name.lower().removesuffix("s"))
        if known is None:
            return Unit(None)
        exponent = sign * int(power or 1)
        for dimension, times in known[0].items():
            dimensions[dimension] = dimensions.get(dimension, 0) + times * exponent
        factor *= known[1] ** exponent
    return Unit(tuple(sorted((d, p) for d, p in dimensions.items() if p)), factor) if dimensions else Unit(None)
