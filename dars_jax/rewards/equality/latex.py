r"""Turns an answer as models write it into tokens, so that spelling stops mattering.

Tokens are plain strings: a number ("12", "0.5"), a letter ("x"), a command ("\frac"), a symbol
("+"), or a word, marked by a leading quote ('"cm').  Fonts, sizes, spaces, dollar signs and
thousands separators are gone afterwards; `\text{}` survives only as the mark on words.

Everything is linear in the length of the text and nothing is ever executed: the text comes from
an untrusted writer.
"""

import re

from dars_jax.rewards.equality.unicode import without_unicode
from dars_jax.rewards.equality.vocabulary import ONE_LETTER_UNITS, UNITS, word_set

WORD = '"'

# A backslash before the backslash means `\\` (a matrix row) followed by a space.
_SPACE = re.compile(r"(?<!\\)\\(?:[,;:>! \n]|q?quad(?![A-Za-z])|[hv]space\*?\{[^{}]*\})|~")
_NOISE = re.compile(
    r"\\(?:left|right)\s*\.|\\[hv]?phantom\s*(?:\{[^{}]*\}|-)|(?<!\\)\\[()\[\]]|(?<!\\)\$"
    r"|\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits|mathstrut|hfill"
    r"|rm|bf|it|sf|tt|normalsize|large|Large|strut)(?![A-Za-z])"
)
_DEGREE = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])")
_BLACKBOARD = re.compile(r"\\mathbb\s*(?:\{\s*([A-Z])\s*\}|([A-Z]))")
# 5 p.m., 3 sq. ft.; but the dot of the choice `C. 12` stays
_ABBREVIATION_DOT = re.compile(r"(?<=[A-Za-z])\.(?!\d)(?<!^[A-J]\.)(?<![{(][A-J]\.)")
_BARE_DOT = re.compile(r"(?<=\d)\.(?=\s*[-/)}*+,])")  # 1./3
_CERTAIN_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\s*\\!|\\,|\{\\,\})(?=\s*\d{3}(?!\d))")
_SPACED_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?!\d)")
_COMMA_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_MIXED = re.compile(r"(?<![\d.])(\d+) +(\d+) */ *(\d+)(?!\d)")
# A number, e and digits: 3e8, 2e-3, 3\mathrm{E}8.  Before a letter, a power or a product it is
# Euler's number: 2e-3x, 2e-3\pi.
_SCIENTIFIC = re.compile(
    r"(?<![\w.\\])(\d+(?:\.\d*)?|\.\d+)"
    r"(?:[eE]([+-]?\d+)|[eE]\{([+-]?\d+)\}|\s*\\(?:text|mathrm|textrm)\{\s*(?:[eE]\s*\}\s*(\+?\d+|\{\s*[+-]?\d+\s*\})"
    r"|E\s*\}\s*(-\d+)))(?![\dA-Za-z^(]|\.\d|\s*(?:[/*^!]|\\(?:pi|sqrt|frac|cdot|times)))"
)
_TIMES_X = re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*(?:\^|\*\*))")  # 4.5 x 10^33
_ROW_SPACING = re.compile(r"\\\\\s*\[\s*-?[\d.]+\s*(?:pt|em|ex|mm|cm|in|mu)\s*\]")
_PRIMES = re.compile(r"\^\s*(?:\{\s*((?:\\prime\s*|'\s*)+)\}|(\\prime)(?![A-Za-z]))")
_DOTS = re.compile(r"\.\s?\.\s?\.+|\\(?:ldots|dots|cdots|dotsc|dotsb|hdots)(?![A-Za-z])")
_DOLLAR = re.compile(r"(?<!\\)\$")

_TOKEN = re.compile(
    r"\d+\.\d+|\.\d+|\d+|\\[A-Za-z]+\*?|\\.|[A-Za-z]+|\*\*|<=|>=|!=|:=|\S", re.DOTALL
)
_TEXT_COMMANDS = {
    "\\" + name
    for name in word_set(
        "text textrm textbf textit textsf texttt textnormal textup emph mbox hbox mathrm "
        "mathbf mathit mathsf mathtt boldsymbol bm operatorname operatorname* underline mathcal "
        "ensuremath mathord"
    )
}
_SYNONYMS = {
    r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\cfrac": r"\frac", r"\dbinom": r"\binom",
    r"\tbinom": r"\binom", r"\geq": r"\ge", r"\geqslant": r"\ge", r"\leq": r"\le",
    r"\leqslant": r"\le", "<=": r"\le", ">=": r"\ge", r"\lt": "<", r"\gt": ">", r"\neq": r"\ne",
    "!=": r"\ne", ":=": "=", r"\cdot": "*", r"\times": "*", r"\ast": "*", "**": "^", r"\div": "/",
    r"\%": "%", r"\colon": ":", r"\vert": "|", r"\lvert": "|", r"\rvert": "|",
    r"\mid": "|", r"\lbrace": r"\{", r"\rbrace": r"\}", r"\lbrack": "[", r"\rbrack": "]",
    r"\varnothing": r"\emptyset", r"\wedge": r"\land", r"\vee": r"\lor", r"\$": '"dollar',
    r"\euro": '"euro', r"\pounds": '"pound',
    r"\backslash": r"\setminus", r"\arg": "arg", r"\_": "_", r"\&": '"and',
    r"\reals": "ℝ", r"\R": "ℝ", r"\lg": r"\log", r"\varphi": r"\phi", r"\varepsilon": r"\epsilon",
    r"\rightarrow": r"\to", r"\sp": "^", r"\sb": "_", r"\lparen": "(",
    r"\rparen": ")", r"\AA": '"Å', r"\ohm": '"Ω', r"\Pr": "P", r"\tg": r"\tan",
    r"\ctg": r"\cot", r"\arctg": r"\arctan",
}  # fmt: skip
_NUMBER_SETS = {"R": "ℝ", "Z": "ℤ", "Q": "ℚ", "N": "ℕ", "C": "ℂ"}
FUNCTIONS = word_set(
    "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh ln log exp sqrt min max "
    "gcd lcm"
)
_PLAIN_COMMANDS = FUNCTIONS | {"pi", "infty", "theta", "alpha", "beta", "cup"}
_UNITS_LIKE_COMMANDS = frozenset(["min", "sec", "cup"])
_PLAIN_SYNONYMS = {"infinity": r"\infty", "oo": r"\infty", "inf": r"\infty", "sqr": r"\sqrt"}
_SHORT_WORDS = word_set(
    "and or cm mm km kg mg ml hr hrs min sec ft in mi mph kmh am pm lb oz yd no yes odd cents "
    "day men cup sq usd eur rs for all any not the nor but mod rad deg mol"
) - {"min", "sec", "in", "cup"}  # these read as functions, an operator, or letters


def readings(text: str) -> list[tuple[str, ...]]:
    """One or two token sequences: `1,234` may be a number or a list of two numbers."""
    text = _clean(text)
    number = _COMMA_THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)
    result = [tuple(_tokens(number))]
    # Nobody writes 000 as a list item, so 1,000 has one reading only.
    if number != text and not re.search(r",0\d\d", text):
        result.append(tuple(_tokens(text)))
    return result


def words_in(tokens: tuple[str, ...]) -> list[str]:
    """The words of a token sequence, without their mark."""
    return [token[1:] for token in tokens if token[0] == WORD]


def _clean(text: str) -> str:
    text = without_unicode(text)
    text = _ROW_SPACING.sub(r"\\\\ ", text)
    text = _text_between_formulas(text)
    text = _CERTAIN_THOUSANDS.sub("", text)
    text = _SPACE.sub(" ", text)
    text = _NOISE.sub(" ", text)
    text = _DEGREE.sub("° ", text)
    text = _PRIMES.sub(lambda m: "'" * (m[0].count("prime") + m[0].count("'")), text)
    text = _DOTS.sub(r" \\ldots ", text)
    text = _BLACKBOARD.sub(lambda m: _NUMBER_SETS.get(m[1] or m[2], m[1] or m[2]), text)
    text = _ABBREVIATION_DOT.sub("", text)
    text = " ".join(text.split()).rstrip(" .;:,")
    text = _TIMES_X.sub(r"\\times ", text)
    text = _SCIENTIFIC.sub(_spell_scientific, text)
    text = _BARE_DOT.sub("", text)
    text = _SPACED_THOUSANDS.sub(lambda m: m[0].replace(" ", ""), text)
    return _MIXED.sub(r"(\1+\2/\3)", text)


def _text_between_formulas(text: str) -> str:
    """`$a$ or not $b$`: what stands outside the dollars is text, and counts."""
    parts = _DOLLAR.split(text)
    if len(parts) < 3 or len(parts) % 2 == 0:
        return text
    outside = [
        rf" \text{{{part}}} " if any(c.isalpha() for c in part) and "\\" not in part else part
        for part in parts[::2]
    ]
    inside = [*parts[1::2], ""]
    return "".join(a + " " + b for a, b in zip(outside, inside, strict=True))


def _spell_scientific(match: re.Match) -> str:
    mantissa, *exponents = match.groups()
    exponent = next(e for e in exponents if e is not None).strip("{ }").lstrip("+")
    return f"({mantissa.rstrip('.')}*10^{{{exponent}}})"


def _tokens(text: str) -> list[str]:
    """Tokens of a cleaned text; letter runs inside text commands become words."""
    in_text = False
    result: list[str] = []
    groups: list[bool] = []  # for each open brace: was the surrounding mode text?
    pending = False  # a text command has been read, its brace has not
    for match in _TOKEN.finditer(text):
        token = match[0]
        token = _SYNONYMS.get(token, token)
        if token in _TEXT_COMMANDS:
            pending = True
        elif token == "{":
            groups.append(in_text)
            # The braces of a text group go, so that \text{cm}^2 is a word and a power.
            result.extend([] if pending else ["{"])
            in_text, pending = in_text or pending, False
        elif token == "}":
            was_text, in_text = in_text, groups.pop() if groups else False
            result.extend([] if was_text and not in_text else ["}"])
        elif token.isalpha() and token.isascii():
            result.extend(_letters(token, in_text or pending, result))
            pending = False
        else:
            result.append(token)
    return result


def _letters(run: str, in_text: bool, before: list[str]) -> list[str]:
    """A run of letters is a word, a function spelled out, or a product of variables."""
    lower = run.lower()
    if run in _PLAIN_COMMANDS and not (in_text and run in _UNITS_LIKE_COMMANDS):
        return ["\\" + run]
    if lower in _PLAIN_SYNONYMS:
        return [_PLAIN_SYNONYMS[lower]]
    if in_text:
        # 5\mathrm{m} is a unit, 3+4\mathrm{i} and \mathrm{D} are letters.
        if len(run) > 1 or (run in ONE_LETTER_UNITS and _unit_place(before)):
            return [WORD + (run if run in UNITS else lower)]
        return [run]
    if lower in _SHORT_WORDS or len(run) >= 4:
        return [WORD + (run if run in UNITS else lower)]
    return list(run)


def _unit_place(before: list[str]) -> bool:
    """Whether a letter in text may be a unit here: after a number, a bracket, or another unit."""
    last = before[-1] if before else ""
    if last in ("/", "*", "^"):
        return any(token[0] == WORD for token in before)
    return last[:1] in tuple("0123456789.)}!°" + WORD) or last == r"\pi"
