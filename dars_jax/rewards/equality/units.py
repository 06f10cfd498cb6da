"""Separates a value from the unit, currency or noun written beside it."""

from dars_jax.rewards.equality.expression import Unreadable
from dars_jax.rewards.equality.latex import WORD, word_set
from dars_jax.rewards.equality.unit_names import UNITS

_ALIASES = {
    "cm": "cm centimeter centimeters centimetre centimetres",
    "mm": "mm millimeter millimeters millimetres",
    "m": "m meter meters metre metres",
    "km": "km kilometer kilometers kilometre kilometres",
    "in": "in inch inches",
    "ft": "ft foot feet",
    "yd": "yd yard yards",
    "mi": "mi mile miles",
    "g": "g gram grams",
    "kg": "kg kilogram kilograms",
    "mg": "mg milligram milligrams",
    "lb": "lb lbs pounds",
    "oz": "oz ounce ounces",
    "s": "s sec second seconds",
    "min": "min mins minute minutes",
    "h": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "year years",
    "l": "l liter liters litre litres",
    "ml": "ml milliliter milliliters",
    "dollar": "dollar dollars usd",
    "cent": "cent cents",
    "euro": "euro euros eur",
    "pound": "pound",
    "yuan": "yuan rmb",
    "rupee": "rupee rupees rs",
    "degree": "degree degrees deg",
    "radian": "radian radians rad",
    "am": "am",
    "pm": "pm",
    "mph": "mph",
}
_CANONICAL = {alias: unit for unit, names in _ALIASES.items() for alias in names.split()}
_CURRENCIES = frozenset(["dollar", "euro", "pound", "yuan", "rupee", "cent"])
_POWERS = {"square": "^2", "sq": "^2", "squared": "^2", "cubic": "^3", "cubed": "^3", "cu": "^3"}
_MULTIPLES = {
    "hundred": "2", "thousand": "3", "million": "6", "billion": "9", "trillion": "12"
}  # fmt: skip
# R8: after these words a number is no answer.  (`or` and `and` already separate list items.)
_HEDGES = word_set(
    "maybe perhaps possibly probably not wrong incorrect so if unless except than less more fewer "
    "about approximately around roughly least most either neither to but without minus plus times "
    "is was can cannot false unknown none any some error guess"
)
_LINKS = word_set("of the a an in per each total altogether")
_PEOPLE = word_set("people men women children person way mice geese feet teeth")
# They end in s and are no things: how often, fractions, operations.
_NOT_COUNTED = word_set(
    "sometimes always times perhaps otherwise does has is was plus minus less unless halves thirds "
    "quarters fourths fifths sixths sevenths eighths ninths tenths twentieths hundredths "
    "thousandths millionths tens hundreds thousands millions billions dozens scores pairs cubes "
    "squares roots powers equals yields remains becomes this thus as us its percents parts"
)
_MAX_WORDS = 5
_PUNCTUATION = frozenset("^/*{}()-")


def strip(tokens: tuple[str, ...]) -> tuple[tuple[str, ...], str, frozenset[str]]:
    """Tokens without what stands beside the value, the unit if it is known, words that are none.

    Two different known units contradict each other; of a noun `agree` has to judge.
    """
    negative, tokens = tokens[:1] == ("-",), tokens[tokens[:1] == ("-",) :]
    unit = ""
    if len(tokens) > 1 and _CANONICAL.get(tokens[0][1:]) in _CURRENCIES:  # $12, -$12
        tokens, unit = tokens[1:], _CANONICAL[tokens[0][1:]]
    if len(tokens) > 2 and tokens[-2] == "°" and tokens[-1] in "CF":
        tokens = tokens[:-1]
    if tokens[-1:] == ("°",):
        unit = "degree"
    if (
        len(tokens) > 1
        and tokens[-1] == r"\Omega"
        and (tokens[-2][0].isdigit() or tokens[-2] == ")")
    ):
        tokens, unit = tokens[:-1], "ohm"
    value, tail = _cut(tokens)
    if tail and value[-1:] == (r"\mu",):  # 5 µm
        value, tail = value[:-1], (f"{WORD}µ{tail[0][1:]}", *tail[1:])
    if tail[:1] and tail[0][1:] in _MULTIPLES:
        value, tail = (*value, "*", "10", "^", _MULTIPLES[tail[0][1:]]), tail[1:]
    words = [token[1:] for token in tail if token[0] == WORD]
    if words in (["percent"], ["per", "cent"]):
        value, tail = (*value, "%"), ()
    elif len(words) > _MAX_WORDS or _HEDGES & set(words):
        raise Unreadable("words that are no unit")
    nouns = frozenset(word for word in words if tail and not _is_unit(word))
    if len(nouns) < len(words):  # 5 square meters, but not 5 squared
        nouns -= _POWERS.keys()
    return (("-", *value) if negative else value), unit or _canonical(tail), nouns


def agree(gold: frozenset[str], answer: frozenset[str]) -> bool:
    """Whether words behind a value may be missing on the other side.

    25 students, 9 chickens: things that are counted, in the plural.  Words that change the value
    (5 squared, 5 tenths, 5 dozen, 10 divided by 2) or qualify it (5 sometimes) may not.
    """
    return all(_is_counted(word) for word in gold ^ answer)


def _is_counted(word: str) -> bool:
    if word in _LINKS or word in _PEOPLE:
        return True
    return word.endswith("s") and not word.endswith("ss") and word not in _NOT_COUNTED


def _is_unit(word: str) -> bool:
    return word in _CANONICAL or word in UNITS or word in _MULTIPLES


def _cut(tokens: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Splits before the first word, if only what units are made of follows it."""
    words = (i for i, token in enumerate(tokens) if token[0] == WORD and i > 0)
    first = next((i for i in words if "_" not in tokens[max(0, i - 2) : i]), len(tokens))
    tail = tokens[first:]
    if not all(token[0] == WORD or token.isdigit() or token in _PUNCTUATION for token in tail):
        raise Unreadable("a word inside an expression")
    if tail and tokens[first - 1] == "(" and tail[-1] == ")":  # 15 (minutes)
        first, tail = first - 1, tail[:-1]
    return tokens[:first], tail


def _canonical(tail: tuple[str, ...]) -> str:
    """A spelling-independent name of a unit, or "" when any word is not a unit."""
    result, power = [], ""
    for token in tail:
        if token[0] != WORD:
            result.append(token if token in "^/23" else "")
        elif token[1:] in _POWERS:
            power = _POWERS[token[1:]]
            if result:  # meters squared
                result.append(power)
                power = ""
        elif token[1:] == "per":
            result.append("/")
        elif token[1:] in _CANONICAL:
            result.append(_CANONICAL[token[1:]] + power)
            power = ""
        else:
            return ""
    return "".join(result)
