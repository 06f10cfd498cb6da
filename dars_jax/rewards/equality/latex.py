r"""Turns an answer as models write it into tokens, so that spelling stops mattering.

Tokens are plain strings: a number ("12", "0.5"), a letter ("x"), a command ("\frac"), a symbol
("+"), or a word, marked by a leading quote ('"cm').  Fonts, sizes, spaces, dollar signs and
thousands separators are gone afterwards; `\text{}` survives only as the mark on words.

Everything is linear in the length of the text and nothing is ever executed: the text comes from
an untrusted writer.
"""

import re

from dars_jax.rewards.equality import characters

WORD = '"'
APPLIED = "\u2061"  # behind the letter of a function that a bracket follows


def word_set(text: str) -> frozenset[str]:
    """The words of a text as a set."""
    return frozenset(text.split())


_UNICODE = str.maketrans(
    {
        "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ",
        "π": r"\pi ", "√": r"\sqrt ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
        "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "±": r"\pm ",
        "º": "°", "²": "^2", "³": "^3", "≈": r"\approx ", "θ": r"\theta ",
        "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "’": "'", "′": "'",
        "€": r'\euro ', "£": r"\pounds ", "\u00a0": " ", "\u2009": " ", "\u202f": " ",
    }
)  # fmt: skip

# Digits of other scripts would pass for numbers in int() and str.isdigit().
_FOREIGN_DIGIT = re.compile(r"(?![0-9])\d|[\u00b9\u2070-\u209f\u2460-\u24ff]")

# A backslash before the backslash means `\\` (a matrix row) followed by a space.
_SPACE = re.compile(r"(?<!\\)\\(?:[,;:>! \n]|q?quad(?![A-Za-z])|[hv]space\*?\{[^{}]*\})|~")
_NOISE = re.compile(
    r"\\(?:left|right)\s*\.|\\[hv]?phantom\s*(?:\{[^{}]*\}|-)|(?<!\\)\\[()\[\]]|(?<!\\)\$"
    r"|\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits|mathstrut|hfill"
    r"|rm|bf|it|sf|tt|normalsize|large|Large|strut)(?![A-Za-z])"
)
_DEGREE = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])")
_BLACKBOARD = re.compile(r"\\mathbb\s*(?:\{\s*([A-Z])\s*\}|([A-Z]))")
_PRIME = re.compile(r"\^\s*(?:\{\s*\\prime\s*\}|\\prime(?![A-Za-z]))")
_LETTER_TIMES = re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)")  # 4.5 x 10^33
_PMOD = re.compile(r"\(?\\pmod\s*(?:\{([^{}]*)\}|(?=\d))\)?")
_ABBREVIATION_DOT = re.compile(r"(?<=[A-Za-z])\.(?!\d)")  # 5 p.m., 3 sq. ft.
_BARE_DOT = re.compile(r"(?<=\d)\.(?=\s*[-/)}*+,])")  # 1./3
_CERTAIN_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\s*\\!|\\,|\{\\,\})(?=\s*\d{3}(?!\d))")
_SPACED_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?!\d)")
_COMMA_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_MIXED = re.compile(r"(?<![\d.])(\d+) +(\d+) */ *(\d+)(?!\d)")
# 3.83e35 is scientific; 2e-3 may be 2*e - 3, so a bare one-digit exponent needs a point before.
_SCIENTIFIC = re.compile(r"(\d+\.\d+[eE][+-]?\d+|\d+[eE]\+?\d+|\d+[eE]-\d\d+)(?![\dA-Za-z.])")

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
    r"\varnothing": r"\emptyset", r"\land": '"and', r"\wedge": '"and',
    r"\lor": '"or', r"\vee": '"or', r"\$": '"dollar', r"\euro": '"euro', r"\pounds": '"pound',
    r"\backslash": r"\setminus", r"\prime": "'", r"\arg": "arg", r"\_": "_", r"\&": '"and',
    r"\ldots": "\u2026", r"\dots": "\u2026", r"\cdots": "\u2026", r"\dotsc": "\u2026",
    r"\dotsb": "\u2026", r"\reals": "ℝ", r"\R": "ℝ",
    r"\lg": r"\log", r"\varphi": r"\phi", r"\varepsilon": r"\epsilon",
    r"\rightarrow": r"\to", r"\sp": "^", r"\sb": "_", r"\lparen": "(",
    r"\rparen": ")", r"\tg": r"\tan", r"\ctg": r"\cot", r"\arctg": r"\arctan",
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
    "day men cup sq usd eur rs"
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
    text = _FOREIGN_DIGIT.sub("?", characters.plain(text).translate(_UNICODE))
    text = text.replace("...", " \u2026 ").replace("\u2026", " \u2026 ")
    text = _PRIME.sub("'", text).rstrip(" .;:,")
    text = _LETTER_TIMES.sub(r"\\times ", text)
    text = _PMOD.sub(r"\\pmod \1", text)
    text = _CERTAIN_THOUSANDS.sub("", text)
    text = _SPACE.sub(" ", text)
    text = _NOISE.sub(" ", text)
    text = _DEGREE.sub("° ", text)
    text = _BLACKBOARD.sub(lambda m: _NUMBER_SETS.get(m[1] or m[2], m[1] or m[2]), text)
    text = _ABBREVIATION_DOT.sub("", text)
    text = _BARE_DOT.sub("", text)
    text = " ".join(text.split())
    text = _SPACED_THOUSANDS.sub(lambda m: m[0].replace(" ", ""), text)
    text = _MIXED.sub(r"(\1+\2/\3)", text)
    text = _SCIENTIFIC.sub(lambda m: _spell_scientific(m[0]), text)
    return text.rstrip(" .;:,")


def _spell_scientific(number: str) -> str:
    mantissa, exponent = re.split("[eE]", number)
    return f"({mantissa}*10^{{{exponent.lstrip('+')}}})"


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
        after = before[-1] if before else ""
        unit_place = (
            after[:1].isdigit()
            or after[:1] == WORD
            or after in ("}", ")", "/", "*", r"\pi", r"\mu")
        )
        if len(run) > 1 or (unit_place and run not in "eixyzn"):
            return [WORD + lower]
        return [run]
    if lower in _SHORT_WORDS or len(run) >= 4:
        return [WORD + lower]
    return list(run)
