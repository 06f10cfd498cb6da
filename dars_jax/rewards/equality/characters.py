"""Characters that mean what LaTeX has commands for: fractions, superscripts, full-width signs."""

import re
import unicodedata

_VULGAR = re.compile(r"(\d*)([\u00bc-\u00be\u2150-\u215e])")
_RAISED = str.maketrans("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b",
                        "0123456789+-")  # fmt: skip
_LOWERED = str.maketrans(
    "\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089", "0123456789"
)
_SUPERSCRIPT = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u207b]+")
_SUBSCRIPT = re.compile("[\u2080-\u2089]+")
_WIDE = re.compile("[\uff01-\uff5e\U0001d400-\U0001d7ff]")  # full width, mathematical alphabets
_UNSEEN = re.compile("[\u200b-\u200f\u2060\u2061-\u2064\ufeff\u00ad]")
_COMMAS = str.maketrans({"\u3001": ",", "\uff0c": ",", "\u3002": "."})


def plain(text: str) -> str:
    """The same text in signs that LaTeX knows."""
    if text.isascii():
        return text
    text = _UNSEEN.sub("", text).translate(_COMMAS)
    text = _VULGAR.sub(_fraction, text)
    text = _SUPERSCRIPT.sub(lambda m: "^{" + m[0].translate(_RAISED) + "}", text)
    text = _SUBSCRIPT.sub(lambda m: "_{" + m[0].translate(_LOWERED) + "}", text)
    return _WIDE.sub(lambda m: unicodedata.normalize("NFKC", m[0]), text)


def _fraction(match: re.Match[str]) -> str:
    over, under = unicodedata.normalize("NFKC", match[2]).split("\u2044")
    return f"({match[1]}+{over}/{under})" if match[1] else f"({over}/{under})"
