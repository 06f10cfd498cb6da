"""Spells Unicode as LaTeX: signs, Greek letters, raised and lowered digits, full-width characters.

Characters of zero width vanish.  Digits of other scripts, which int() would read, become
unreadable.
"""

import re
import unicodedata

_SIGNS = {
    "−": "-", "–": "-", "‒": "-", "‐": "-", "‑": "-",
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ",
    "∙": r"\cdot ", "∗": "*", "÷": r"\div ", "⁄": "/", "∕": "/", "√": r"\sqrt ", "∛": r"\sqrt[3]",
    "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ",
    "≡": r"\equiv ", "≈": r"\approx ", "∼": r"\sim ", "±": r"\pm ", "∓": r"\mp ",
    "∪": r"\cup ", "∩": r"\cap ", "∖": r"\setminus ", "∈": r"\in ", "∅": r"\emptyset ",
    "∀": r"\forall ", "∧": r"\land ", "∨": r"\lor ", "→": r"\to ", "∑": r"\sum ", "∏": r"\prod ",
    "∫": r"\int ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ",
    "⟨": r"\langle ", "⟩": r"\rangle ", "…": r"\ldots ", "⋯": r"\ldots ", "’": "'", "′": "'",
    "″": "''", "º": "°", "˚": "°", "、": ",", "。": ".", "€": r"\euro ", "£": r"\pounds ",
    "∣": "|", "∆": r"\Delta ", "Ω": r"\Omega ", "µ": r"\mu ", "℃": r"°\text{C}",
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}",
}  # fmt: skip
# In the order of Unicode, from α; the second sigma is the final one.
_SMALL = (
    r"\alpha \beta \gamma \delta \epsilon \zeta \eta \theta \iota \kappa \lambda \mu \nu \xi o "
    r"\pi \rho \sigma \sigma \tau \upsilon \phi \chi \psi \omega "
)
_CAPITAL = {"Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi",
            "Σ": "Sigma", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega"}  # fmt: skip
_GREEK = {chr(0x3B1 + i): name + " " for i, name in enumerate(_SMALL.split())}
_GREEK |= {letter: rf"\{name} " for letter, name in _CAPITAL.items()}
_SPACES = dict.fromkeys("\u00a0\u2002\u2003\u2009\u200a\u202f\u3000", " ")
_NOTHING = dict.fromkeys("\u200b\u200c\u200d\u2060\u2061\u2062\ufeff\u00ad", "")
_TABLE = str.maketrans(_SIGNS | _GREEK | _SPACES | _NOTHING)

_RAISED = re.compile("[⁰¹²³⁴-⁹⁺⁻ⁿⁱ]+")
_LOWERED = re.compile("[₀-₉₊₋ₙ]+")
_VULGAR = re.compile("[¼-¾⅐-⅞]")
# Full-width forms and mathematical alphabets have plain letters, digits and signs as their meaning.
_STYLED = re.compile("[\uff01-\uff5e\U0001d400-\U0001d7ff]")
_FOREIGN_DIGIT = re.compile(r"(?![0-9])\d|[\u2460-\u24ff\u2776-\u2793]")


def without_unicode(text: str) -> str:
    """The same answer with the signs above spelled in ASCII; other characters stay."""
    if text.isascii():
        return text
    text = _STYLED.sub(lambda m: unicodedata.normalize("NFKC", m[0]), text)
    text = _RAISED.sub(lambda m: f"^{{{_plain(m[0])}}}", text)
    text = _LOWERED.sub(lambda m: f"_{{{_plain(m[0])}}}", text)
    text = _VULGAR.sub(_spell_fraction, text)
    return _FOREIGN_DIGIT.sub("?", text.translate(_TABLE))


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("−", "-")


def _spell_fraction(match: re.Match) -> str:
    over, _, under = unicodedata.normalize("NFKC", match[0]).partition("⁄")
    return rf"\frac{{{over}}}{{{under}}}"
