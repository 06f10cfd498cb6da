r"""Judges the grader: rewrites of right answers must count, mutants of them must not.

    python -m dars_jax.drills.rewrites [GOLDS.jsonl ...] --rewrites 10000 --mutants 2000 --seed 0

Files have rows with "answer" (a benchmark) or "gold"; without a file the golds below are used.  One
JSON line for every rewrite that is refused and every mutant that is accepted, then the counts.  An
accepted mutant may be right by chance, `2 + 2` for `2 \cdot 2`: by_value.py computes each once
more, without the grader's code.  "equal" true is shown, false refuted, null to be looked at.
"""

import argparse
import collections
import json
import random
import re
import sys
from collections.abc import Callable, Iterator, Sequence

from dars_jax.drills import by_value
from dars_jax.rewards import Grader, load_grader

GOLDS = tuple(
    line
    for line in r"""
42
-7
1024
0.125
\frac{3}{7}
-\frac{11}{4}
2\frac{1}{3}
28\%
3.5e8
5\sqrt{3}
2+\sqrt{5}
\frac{1+\sqrt{13}}{2}
\sqrt[3]{16}
6\pi
e^{3}
\ln 12
52_8
3-4i
x^2-5x+6
(x-2)(x+7)
\frac{x+1}{x-3}
2^{n}-1
\binom{n}{3}
n!
\sin 3x
a_{1}+2b
|x-4|
\lfloor \frac{n}{3} \rfloor
\max(a,7)
x=9
y=3x-8
x^2+y^2=25
f(x)=4x+1
f'(x)=6x
g(0)e^{-t}
x<13
-2\le x<5
x\equiv 3 \pmod{7}
(3,-8)
(1,2,4)
(2,5),(6,9)
[2,7)
(-\infty,3]\cup[8,\infty)
\{2,3,8\}
3,5,12
\pm 6
1,4,7,\ldots
\begin{pmatrix}1&2\\3&8\end{pmatrix}
\begin{pmatrix}4\\-9\end{pmatrix}
15\text{ cm}
\$24
75^\circ
3:8
\text{odd}
\text{Monday}
C
k\pi, k\in\mathbb{Z}
""".strip().splitlines()
)

Change = Callable[[str, random.Random], str | None]

_NUMBER = re.compile(r"-?\d+")
_SIMPLE_FRACTION = re.compile(r"\\frac\{(\d+)\}\{(\d+)\}")
_LIST = re.compile(r"[^()\[\]{}\\]*(?:,[^()\[\]{}\\]+)+|\\\{[^{}\\]*(?:,[^{}\\]*)+\\\}")
_FULL_WIDTH = {i: i + 0xFEE0 for i in range(ord("-"), ord("9") + 1)}
_WORDY = re.compile(r"\\text|\\mathrm|\\mbox|[A-Za-z]{4}|\$")


def _substitute(pattern: str, replacement: str) -> Change:
    """The change of one occurrence, or None where there is none."""
    compiled = re.compile(pattern)

    def change(text: str, rng: random.Random) -> str | None:
        matches = list(compiled.finditer(text))
        if not matches:
            return None
        match = rng.choice(matches)
        return text[: match.start()] + match.expand(replacement) + text[match.end() :]

    return change


def _where(test: Callable[[str], object], make: Callable[[str], str]) -> Change:
    return lambda text, rng: make(text) if test(text) else None


def _is_number(text: str) -> bool:
    return (
        re.fullmatch(r"-?\d+(\.\d+)?|-?\\d?frac\{\d+\}\{\d+\}|\d*\\sqrt\{\d+\}", text) is not None
    )


def _thousands(text: str) -> str:
    return f"{int(text):,}".replace(",", "{,}")


def _items(text: str) -> list[str] | None:
    inside = text.removeprefix(r"\{").removesuffix(r"\}")
    return inside.split(",") if _LIST.fullmatch(text) else None


def _reordered(text: str, rng: random.Random) -> str | None:
    items = _items(text)
    if items is None or "=" in text or "ldots" in text or "for" in text:
        return None
    rng.shuffle(items)
    joined = ",".join(items)
    return rf"\{{{joined}\}}" if text[0] == "\\" else joined


def _equation_reversed(text: str, rng: random.Random) -> str | None:
    sides = text.split("=")
    if len(sides) != 2 or re.search(r"\\text|\\begin|,|\$|:|\\pm", text):
        return None
    return f"{sides[1]}={sides[0]}"


REWRITES: dict[str, Change] = {
    "as it is": lambda text, rng: text,
    "dollars": _where(lambda t: "$" not in t, "${}$".format),
    "full stop": _where(lambda t: not t.endswith("."), "{}.".format),
    "braces": _where(lambda t: "$" not in t, "{{{}}}".format),
    "display": _where(lambda t: True, r"\displaystyle {}".format),
    "thin space": _where(lambda t: True, r"\,{}\;".format),
    "zero width": _where(lambda t: True, "{}\u200b".format),
    "newline": _where(lambda t: True, "\n{}\n".format),
    "spaces": lambda text, rng: (
        re.sub(r"(?<![\\eE^_{(\[,])([+=])", r" \1 ", text) if not _WORDY.search(text) else None
    ),
    "left right": lambda text, rng: (
        text.replace("(", r"\left(").replace(")", r"\right)")
        if "(" in text and text.count("(") == text.count(")") and r"\left" not in text
        and r"\begin" not in text
        else None
    ),
    "dfrac": _substitute(r"\\frac(?=\{)", r"\\dfrac"),
    "slash": _substitute(r"(?<![\d)}!. ])\\frac\{(\d+)\}\{(\d+)\}(?![\d^({a-z\\!])", r"(\1/\2)"),
    "unreduced": lambda text, rng: (
        _SIMPLE_FRACTION.sub(
            lambda m: rf"\frac{{{3 * int(m[1])}}}{{{3 * int(m[2])}}}", text
        )
        if re.fullmatch(r"-?\\frac\{\d+\}\{\d+\}", text)
        else None
    ),
    "braced power": _substitute(r"\^(\d)(?!\d)", r"^{\1}"),
    "bare power": _substitute(r"\^\{(\d)\}", r"^\1"),
    "braced root": _substitute(r"\\sqrt(\d)", r"\\sqrt{\1}"),
    "bare root": _substitute(r"\\sqrt\{(\d)\}", r"\\sqrt \1"),
    "times": _substitute(r"\\cdot(?![a-z])", r"\\times"),
    "leq": _substitute(r"\\le(?![a-z])", r"\\leq"),
    "unicode pi": _substitute(r"\\pi(?![a-z])", "π"),
    "unicode minus": _substitute(r"-(?=\d)", "−"),
    "unicode less": _substitute(r"\\leq?(?![a-z])", "≤"),
    "full width": _where(_NUMBER.fullmatch, lambda t: t.translate(_FULL_WIDTH)),
    "decimal": _where(re.compile(r"-?\d{1,9}").fullmatch, "{}.0".format),
    "thousands": _where(re.compile(r"\d{4,9}").fullmatch, _thousands),
    "leading zero": _where(re.compile(r"0\.\d+").fullmatch, lambda t: t[1:]),
    "per cent": _where(re.compile(r"\d+\\%").fullmatch, lambda t: f"{int(t[:-2]) / 100:.2f}"),
    "scientific": _where(
        re.compile(r"\d(?:\.\d+)?e-?\d+").fullmatch,
        lambda t: r"{} \times 10^{{{}}}".format(*t.split("e")),
    ),
    "named": _where(_is_number, "x={}".format),
    "unit": _where(_is_number, r"{}\text{{ cm}}".format),
    "upright unit": _where(_is_number, r"{}~\mathrm{{kg}}".format),
    "counted": _where(re.compile(r"\d+").fullmatch, r"{}\text{{ apples}}".format),
    "dollar sign": _where(re.compile(r"\d+(\.\d\d)?").fullmatch, r"\${}".format),
    "plus zero": _where(_is_number, "{}+0".format),
    "in brackets": _where(_is_number, "({})".format),
    "reordered": _reordered,
    "reversed": _equation_reversed,
    "qualified": _where(
        re.compile(r"[^,=<>$]*\bn\b[^,=<>$\\a-zA-Z]*").fullmatch, r"{} \text{{ for all }} n".format
    ),
    "bold": _where(re.compile(r"[A-E]").fullmatch, r"\textbf{{({})}}".format),
    "upper case": _where(
        re.compile(r"\\text\{[a-z]+\}").fullmatch, lambda t: t[:6] + t[6:].upper()
    ),
    "fancy brackets": _where(
        lambda t: r"\begin{pmatrix}" in t, lambda t: t.replace("pmatrix", "bmatrix")
    ),
}  # fmt: skip


def _swapped(text: str, rng: random.Random) -> str | None:
    """Two different entries of a tuple, or the two sides of a fraction, change places."""
    match = re.fullmatch(r"\((.*),(.*)\)", text)
    if match and "(" not in text[1:]:
        return f"({match[2]},{match[1]})"
    match = _SIMPLE_FRACTION.search(text)
    return (
        text[: match.start()] + rf"\frac{{{match[2]}}}{{{match[1]}}}" + text[match.end() :]
        if match
        else None
    )


def _digit(text: str, rng: random.Random) -> str | None:
    places = [i for i, c in enumerate(text) if c.isdigit()]
    if not places:
        return None
    i = rng.choice(places)
    return text[:i] + str((int(text[i]) + rng.randint(1, 9)) % 10) + text[i + 1 :]


def _sign(text: str, rng: random.Random) -> str | None:
    places = [i for i, c in enumerate(text) if c in "+-" and text[i - 1 : i] not in ("e", "m")]
    if not places:
        return f"-{text}" if text[:1].isdigit() else None
    i = rng.choice(places)
    return text[:i] + {"+": "-", "-": "+"}[text[i]] + text[i + 1 :]


def _deleted(text: str, rng: random.Random) -> str | None:
    places = [i for i, c in enumerate(text) if c.isdigit() or c in "+-=<>'!|,"]
    if not places:
        return None
    i = rng.choice(places)
    return text[:i] + text[i + 1 :]


def _item_changed(text: str, rng: random.Random) -> str | None:
    """A list without one item, or with one of them twice."""
    items = _items(text)
    if items is None or text[0] == "\\" or "ldots" in text or "in" in text:
        return None
    i = rng.randrange(len(items))
    return ",".join(items[:i] + items[i + 1 :]) if rng.random() < 0.5 else f"{text},{items[i]}"


MUTANTS: dict[str, Change] = {
    "digit": _digit,
    "sign": _sign,
    "deleted": _deleted,
    "swapped": _swapped,
    "items": _item_changed,
    "letter": _substitute(r"(?<![\\A-Za-z{])[a-dx-z](?![A-Za-z])", "w"),
    "function": _substitute(r"\\(?:sin|cos|ln|max|lfloor|binom)(?![a-z])", r"\\tan"),
    "argument": _substitute(r"(?<=[fg])\(\w\)", "(7)"),
    "prime": _substitute(r"(?<![\\A-Za-z{])[fgxy](?=\()", r"\g<0>'"),
    "opening": _substitute(r"^\[|^\((?=[^()]*,[^()]*[\])]$)", "]"),
    "closing": _substitute(r"(?<=[\d,a-z])[\])]$", "["),
    "relation": _substitute(r"<|>|\\leq?(?![a-z])|\\geq?(?![a-z])", r"\\ne "),
    "squared": _where(_is_number, r"{}\text{{ squared}}".format),
    "dozen": _where(_is_number, r"{}\text{{ dozen}}".format),
    "hedge": _where(lambda t: True, r"{} \text{{ or }} 987".format),
    "not": _where(lambda t: True, r"\text{{not }}{}".format),
    "more": _where(lambda t: True, "{}+1".format),
    "twice": _where(re.compile(r"[^,=<>\\{]*").fullmatch, "2({})+3".format),
    "base": _substitute(r"(?<=\d)_\{?8\}?", "_9"),
    "capital": _substitute(r"\\(alpha|delta|sigma|omega|phi)(?![a-z])", r"\\Lambda"),
    "power": _substitute(r"\^(\d)(?!\d)", r"^{\g<1>7}"),
}  # fmt: skip


def drawn(
    golds: Sequence[str], changes: dict[str, Change], count: int, seed: int
) -> Iterator[tuple[str, str, str]]:
    """(name of the change, gold, changed gold), count of them."""
    rng = random.Random(seed)
    names = list(changes)
    made = 0
    for _ in range(100 * count):
        if made == count:
            return
        gold, name = rng.choice(golds), rng.choice(names)
        text = changes[name](gold.strip(), rng)
        if text is not None and (changes is REWRITES or text.strip() != gold.strip()):
            made += 1
            yield name, gold, text


def judge(grader: Grader, rows: Sequence[tuple[str, str, str]], right: bool) -> list[dict]:
    """Rows whose verdict is not the one wanted."""
    grades = grader.grade([rf"\boxed{{{text}}}" for _, _, text in rows], [g for _, g, _ in rows])
    return [
        {"change": name, "gold": gold, "answer": text, "verdict": grade.verdict.name.lower()}
        for (name, gold, text), grade in zip(rows, grades, strict=True)
        if (grade.reward == 1.0) != right
    ]


def _golds(paths: Sequence[str]) -> list[str]:
    if not paths:
        return list(GOLDS)
    golds = []
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                golds.append(str(row["answer"] if "answer" in row else row["gold"]))
    return golds


def main(argv: Sequence[str] | None = None) -> int:
    """Prints what was judged otherwise, and the counts.

    Returns:
      1 if a rewrite was refused, or a mutant accepted that is another value.
    """
    parser = argparse.ArgumentParser(
        prog="python -m dars_jax.drills.rewrites",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("golds", nargs="*", metavar="GOLDS.jsonl")
    parser.add_argument("--rewrites", type=int, default=10_000)
    parser.add_argument("--mutants", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reward", default="math", help="the grader, or math_verify")
    arguments = parser.parse_args(argv)
    golds = _golds(arguments.golds)
    rewrites = list(drawn(golds, REWRITES, arguments.rewrites, arguments.seed))
    mutants = list(drawn(golds, MUTANTS, arguments.mutants, arguments.seed))
    with load_grader(arguments.reward) as grader:
        refused = judge(grader, rewrites, right=True)
        accepted = judge(grader, mutants, right=False)
    for row in refused:
        print(json.dumps({"refused": row}))
    for row in accepted:
        row["equal"] = by_value.equal(row["gold"], row["answer"])
        print(json.dumps({"accepted": row}))
    shown = collections.Counter(row["equal"] for row in accepted)
    kinds = {
        "refused by change": dict(collections.Counter(row["change"] for row in refused)),
        "accepted by change": dict(collections.Counter(row["change"] for row in accepted)),
    }
    counts = {
        "golds": len(golds), "rewrites": len(rewrites), "refused": len(refused),
        "mutants": len(mutants), "accepted": len(accepted), "shown equal": shown[True],
        "refuted": shown[False], "to be looked at": shown[None], **kinds,
    }  # fmt: skip
    print(json.dumps(counts))
    return 1 if refused or shown[False] else 0


if __name__ == "__main__":
    sys.exit(main())
