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

_LENGTHS = {"mm": "1/1000", "cm": "1/100", "dm": "1/10", "m": 1, "km": 1000, "in": "254/10000", "ft": "3048/10000",
            "yd": "9144/10000", "mi": "1609344/1000"}  # fmt: skip
_SAME_UNITS = {
    "mm": "millimeter millimetre", "cm": "centimeter centimetre", "dm": "decimeter decimetre", "m": "meter metre",
    "km": "kilometer kilometre", "in": "inch inches", "ft": "foot feet", "yd": "yard", "mi": "mile",
    "mg": "milligram", "g": "gram gramme", "kg": "kilogram kilo", "lb": "lbs pound", "oz": "ounce",
    "ms": "millisecond", "s": "sec second", "min": "minute", "h": "hr hour", "day": "days", "week": "wk",
    "ml": "mL milliliter millilitre", "l": "L liter litre", "gal": "gallon", "N": "newton", "J": "joule", "kJ": "kilojoule",
    "W": "watt", "kW": "kilowatt", "Pa": "pascal", "kPa": "kilopascal", "Hz": "hertz", "V": "volt", "A": "ampere amp",
    "K": "kelvin", "mol": "mole", "eV": "electronvolt",
    "$": "dollar usd USD buck", "cent": "\u00a2", "\u20ac": "euro EUR", "\u00a3": "GBP", "%": "percent pct percentage",
    "deg": "degree \u00b0", "rad": "radian",
}  # fmt: skip
_OF = {
    **{unit: ({"length": 1}, Fraction(factor)) for unit, factor in _LENGTHS.items()},
    **{unit: ({"mass": 1}, Fraction(factor)) for unit, factor in
       {"mg": "1/1000", "g": 1, "kg": 1000, "lb": "45359237/100000", "oz": "45359237/1600000"}.items()},
    **{unit: ({"time": 1}, Fraction(factor)) for unit, factor in
       {"ms": "1/1000", "s": 1, "min": 60, "h": 3600, "day": 86400, "week": 604800}.items()},
    **{unit: ({"length": 3}, Fraction(factor)) for unit, factor in {"ml": "1/1000000", "l": "1/1000", "gal": "3785411784/1000000000000"}.items()},
    "N": ({"length": 1, "mass": 1, "time": -2}, Fraction(1000)),
    "J": ({"length": 2, "mass": 1, "time": -2}, Fraction(1000)),
    "kJ": ({"length": 2, "mass": 1, "time": -2}, Fraction(10**6)),
    "W": ({"length": 2, "mass": 1, "time": -3}, Fraction(1000)),
    "kW": ({"length": 2, "mass": 1, "time": -3}, Fraction(10**6)),
    "Pa": ({"length": -1, "mass": 1, "time": -2}, Fraction(1000)),
    "kPa": ({"length": -1, "mass": 1, "time": -2}, Fraction(10**6)),
    "Hz": ({"time": -1}, Fraction(1)),
    **{unit: ({unit: 1}, Fraction(1)) for unit in ("V", "A", "K", "mol", "eV", "\u20ac", "\u00a3", "%", "deg", "rad")},
    "$": ({"money": 1}, Fraction(1)),
    "cent": ({"money": 1}, Fraction(1, 100)),
}  # fmt: skip
UNITS = {name: _OF[unit] for unit in _OF for name in (unit, *_SAME_UNITS.get(unit, "").split())}
UNITS |= {name: ({"length": 1, "time": -1}, Fraction("1609344/3600000")) for name in ("mph",)}
UNITS |= {name: ({"length": 1, "time": -1}, Fraction(1000, 3600)) for name in ("kph", "kmh")}
MULTIPLES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}  # powers of ten

_WORD = r"(?:\\(?:text(?:rm|bf|it|normal)?|math(?:rm|bf|it|sf)|mbox|hbox|operatorname|rm)\s*\{[^{}]*\}|(?<![A-Za-z\\])(?:[A-Za-z]{2,}\.?|[mgl](?=/)))"
_POWER = r"(?:\s?\^\s?(?:\{\s?[-+]?\d\s?\}|[-+]?\d))?"
_UNIT = re.compile(
    rf"[\s~]*(?:\\[ ,;])?[\s~]*({_WORD}{_POWER}(?:\s?(?:/|\*|\\cdot|)\s?(?:{_WORD}|(?<=/)[a-zA-Z]){_POWER}){{0,5}})[\s.]*\Z"
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
