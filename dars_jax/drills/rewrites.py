"""A judge of the grader that makes its own cases: python -m dars_jax.drills.rewrites [GOLDS …]

Golds are rewritten without changing what they say, and must count; they are mutated so that they
say something else, and must not.  GOLDS are files of JSON lines with an `answer`, a text or a list
of them; without any, golds of every kind that are built in.  Prints two JSON lines: how many
rewrites were refused and how many mutants accepted, with up to --show of each.  Every accepted
mutant has to be looked at: some change nothing (x+y for y+x).
"""

import argparse
import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from dars_jax.rewards import MathGrader

GOLDS = (
    "7", "-12", "0.375", "1200", r"\frac{3}{8}", r"-\frac{11}{4}", r"2\sqrt{5}",
    r"\frac{1+\sqrt{3}}{2}", r"3\pi", r"\frac{\pi}{6}", r"2\cdot 3^4", "2^{10}", "x^2-3x+2",
    "(x-1)(x+4)",
    r"\frac{x+1}{x-2}", "2n+1", "y=2x-5", "x=4", "f(x)=3x^2", "a^2+b^2=c^2", "(2,-3)", "(1,0,5)",
    r"\left(\frac12,3\right)", "[0,4)", r"(-\infty,2]", r"(-\infty,-1)\cup(1,\infty)",
    r"\{1,3,9\}", "2,5,11", "x>3", r"-2\le x<5", "45^\\circ",
    r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\text{odd}", r"\text{Tuesday}", "B", r"15\%",
    r"12\text{ cm}", r"\lfloor n/2\rfloor", "|x-3|", r"\binom{7}{3}", "5!", r"\log_2 9",
    r"\sin 20^\circ", "3:4", "4+3i", "1011_2", r"e^{-2x}", r"\sqrt[3]{4}", r"n(n+1)",
)  # fmt: skip

Change = Callable[[str, random.Random], str | None]  # None where it does not apply


def _replace(pattern: str, new: str | Callable[[re.Match[str]], str]) -> Change:
    """Changes one place that fits, taken at random."""

    def change(text: str, rng: random.Random) -> str | None:
        places = list(re.finditer(pattern, text))
        if not places:
            return None
        place = rng.choice(places)
        fresh = new(place) if callable(new) else place.expand(new)
        return text[: place.start()] + fresh + text[place.end() :]

    return change


def _items(text: str) -> tuple[str, list[str], str] | None:
    """Opening, items and closing of a set or a bare list, without brackets inside."""
    opening, inside, closing = "", text, ""
    if text.startswith(r"\{") and text.endswith(r"\}"):
        opening, inside, closing = r"\{", text[2:-2], r"\}"
    if "," not in inside or re.search(r"[()\[\]{}=!]|\d,\d{3}", inside):
        return None
    return opening, [item.strip() for item in inside.split(",")], closing


def _shuffle(text: str, rng: random.Random) -> str | None:
    found = _items(text)
    if found is None:
        return None
    opening, items, closing = found
    return opening + ", ".join(rng.sample(items, len(items))) + closing


def _drop(text: str, rng: random.Random) -> str | None:
    found = _items(text)
    if found is None or len(set(found[1])) < len(found[1]):
        return None
    opening, items, closing = found
    items.pop(rng.randrange(len(items)))
    return opening + ",".join(items) + closing


def _plain_number(change: Callable[[str], str]) -> Change:
    return lambda text, _: change(text) if re.fullmatch(r"-?\d+", text) else None


_MACRO = r"(?<![A-Za-z\\])"
REWRITES: dict[str, Change] = {
    "display fraction": _replace(r"\\frac", r"\\dfrac"),
    "slash fraction": _replace(r"(?<![\d ])\\frac\{(\d+)\}\{(\d+)\}(?![\w^!_(\\])", r"(\1/\2)"),
    "short fraction": _replace(r"\\frac\{(\d)\}\{(\d)\}", r"\\frac\1\2"),
    "thin space": _replace(r"(?<=[\d)}])([+=<>])(?=[\d(\\])", r"\\,\1\\;"),
    "space": _replace(r"(?<=[\d)}a-df-z])([-+=<>])", r" \1 "),
    "left and right": lambda text, _: (
        text.replace("(", r"\left(").replace(")", r"\right)")
        if "(" in text and r"\left" not in text and text.count("(") == text.count(")")
        else None
    ),
    "braces of a power": _replace(r"\^(\d)(?!\d)", r"^{\1}"),
    "times": _replace(r"\\cdot(?![a-z])", r"\\times"),
    "dollars": lambda text, _: f"${text}$" if "$" not in text else None,
    "full stop": lambda text, _: text + ".",
    "unicode minus": _replace(r"-(?=\d)", "\u2212"),
    "wide digits": lambda text, _: (
        "".join(chr(ord(c) + 0xFEE0) for c in text) if text.isascii() and text.isdigit() else None
    ),
    "order of a list": _shuffle,
    "decimal of an integer": _plain_number(lambda n: n + ".0"),
    "double over two": _plain_number(lambda n: rf"\frac{{{2 * int(n)}}}{{2}}"),
    "thousands": _plain_number(lambda n: f"{int(n):,}"),
    "a unit": _plain_number(lambda n: n + r"\text{ cm}"),
    "a name": _plain_number(lambda n: f"x = {n}"),
    "leading zero": _replace(r"^0(?=\.\d)", ""),
    "font": lambda text, _: rf"\mathbf{{{text}}}" if text.isdigit() else None,
    "power of a root": _replace(r"\\sqrt\{(\d+)\}", r"(\1)^{1/2}"),
    "space in a macro": _replace(r"\\(pi|sqrt|cup|le|ge|infty)(?=[^a-zA-Z])", r"\\\1 "),
}
MUTANTS: dict[str, Change] = {
    "digit": _replace(r"\d", lambda m: str((int(m[0]) + 1) % 10)),
    "last digit": _replace(r"\d(?!.*\d)", lambda m: str((int(m[0]) + 3) % 10)),
    "sign": lambda text, _: (
        "-" + text
        if re.match(r"\d|\\frac|\\sqrt", text)
        and "," not in text
        and text != "0"
        and not re.search(r"[=<>:]|\\(le|ge|in)\b|text", text)
        else None
    ),
    "plus for minus": _replace(r"(?<=[\w)}])[-+](?=[\w(\\])", lambda m: "+-"["+-".index(m[0]) - 1]),
    "bracket": lambda text, _: (
        text[:-1] + {")": "]", "]": ")"}[text[-1]]
        if re.fullmatch(r"[(\[][^()\[\]]*,[^(),\[\]]*[)\]]", text) and "infty" not in text
        else None
    ),
    "an item less": _drop,
    "an item more": lambda text, _: text + ",17" if re.fullmatch(r"-?\d+", text) else None,
    "times ten": _plain_number(lambda n: n + "0" if int(n) else n + "1"),
    "relation": _replace(r"[<>]", lambda m: "><"["<>".index(m[0])]),
    "square": _plain_number(lambda n: n + r"\text{ squared}"),
    "hedge": lambda text, _: text + r"\text{ or }91",
    "exponent": _replace(r"\^\{?(\d)", lambda m: m[0][:-1] + str((int(m[1]) + 1) % 10)),
}


def cases(
    golds: Sequence[str], changes: dict[str, Change], count: int, seed: int
) -> list[tuple[str, str, str]]:
    """`count` triples (name of the change, gold, changed gold), in an order that `seed` decides."""
    rng, names = random.Random(seed), sorted(changes)
    out: list[tuple[str, str, str]] = []
    for _ in range(50 * count):
        if len(out) == count:
            break
        gold, name = rng.choice(golds), rng.choice(names)
        changed = changes[name](gold, rng)
        if changed is not None and changed != gold:
            out.append((name, gold, changed))
    return out


def judge(
    grader: MathGrader, found: list[tuple[str, str, str]], *, expected: bool
) -> list[tuple[str, str, str]]:
    """The cases whose verdict is not the expected one."""
    grades = grader.grade([rf"\boxed{{{text}}}" for *_, text in found], [g for _, g, _ in found])
    return [
        case for case, grade in zip(found, grades, strict=True) if (grade.reward == 1.0) != expected
    ]


def read_golds(paths: Sequence[Path]) -> list[str]:
    """Golds of files; long ones are left out, since no policy is asked to repeat them."""
    golds: list[str] = []
    for path in paths:
        for line in path.read_text().splitlines():
            answer = json.loads(line)["answer"]
            golds += [answer] if isinstance(answer, str) else answer
    return [gold.strip() for gold in golds if len(gold) <= 80]


def main() -> None:
    """Parses the command line, prints the two lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("golds", nargs="*", type=Path, help="JSON lines with an `answer`")
    parser.add_argument("--rewrites", type=int, default=2_000)
    parser.add_argument("--mutants", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=20, help="failures printed of each")
    args = parser.parse_args()
    golds = read_golds(args.golds) or list(GOLDS)
    with MathGrader() as grader:
        for what, changes, count, expected in (
            ("rewrites", REWRITES, args.rewrites, True), ("mutants", MUTANTS, args.mutants, False),
        ):  # fmt: skip
            found = cases(golds, changes, count, args.seed)
            wrong = judge(grader, found, expected=expected)
            line = {"what": what, "golds": len(golds), "cases": len(found),
                    "refused" if expected else "accepted": len(wrong),
                    "share": round(len(wrong) / max(len(found), 1), 5)}  # fmt: skip
            print(json.dumps(line | {"show": wrong[: args.show]}, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
