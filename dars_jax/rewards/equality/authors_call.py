"""math-verify called as the paper's authors call it, for figures beside theirs.

    verify(parse("$" + gold + "$"), parse(response))

over the whole response, with its defaults.  Only its time-outs are off: they are alarms of the wall
clock, 5 seconds each; the worker's limit on CPU time stands instead.  Runs in workers only.

What this grader accepts is not what ours accepts: a text without a box is judged by its last
number, numbers are rounded to six decimals, and words are dropped.

Where it evaluates Python: its reader of plain text takes arithmetic out of a response, `2*(3+4)/5`,
and hands it to sympy's parse_expr, and sympy turns the text of numbers into numbers by eval().  The
worker lets such code run if it names nothing but numbers and their operations (`permits`); what
sympy would generate otherwise, from sums and from polynomials, is built beforehand or refused.
"""

import contextlib
import importlib
import logging
from types import CodeType

from math_verify import parse, verify

from dars_jax.rewards.equality import generated_code

# What the code of plain arithmetic names; see sympy.parsing.sympy_parser.
_NUMBERS = frozenset(["Integer", "Float", "Rational", "Add", "Mul", "Pow", "Symbol", "E", "sympy"])
# What sympy and math-verify import while they work, found by running them on benchmarks.
_LATE = (
    "antlr4.LL1Analyzer", "sympy.assumptions.wrapper", "sympy.codegen.ast", "sympy.combinatorics",
    "sympy.integrals.heurisch", "sympy.integrals.manualintegrate", "sympy.integrals.risch",
    "sympy.physics.matrices", "sympy.physics.units", "sympy.sets.handlers.add",
    "sympy.sets.handlers.comparison", "sympy.sets.handlers.functions",
    "sympy.sets.handlers.intersection", "sympy.sets.handlers.issubset",
    "sympy.sets.handlers.mul", "sympy.sets.handlers.power", "sympy.sets.handlers.union",
    "sympy.sets.setexpr", "sympy.tensor.tensor",
)  # fmt: skip
_WARM_UP = (
    (r"\frac{1}{3}", r"so \boxed{0.3333333}"), (r"x^2-1", r"it is $(x-1)(x+1)$"),
    (r"(-\infty,2]\cup[3,4)", r"\boxed{x\le 2 \text{ or } 3\le x<4}"), ("12", "12/5 = 2*6/5"),
    (r"\{1,2\}", r"$1$ and $2$"), (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\boxed{(1,2)}"),
    (r"\sin 2x", r"\boxed{2\sin x\cos x}"), (r"\int_0^1 2x\,dx", r"\boxed{1}"),
    ("y=2x", r"\boxed{2x}"), (r"4.5e33", r"\boxed{4.5\times 10^{33}}"),
)  # fmt: skip

logging.getLogger("math_verify").setLevel(logging.CRITICAL)


def judge(gold: str, response: str) -> bool | None:
    """math-verify's verdict; None if it finds nothing in the response."""
    target = parse(response, parsing_timeout=None)
    if not target:
        return None
    found = parse(f"${gold}$", parsing_timeout=None)
    return bool(verify(found, target, timeout_seconds=None))


def permits(event: str, args: tuple) -> bool:
    """Whether an audit event is the reading of numbers: text compiled, or their code run."""
    if event == "compile":
        return True  # runs nothing by itself
    return event == "exec" and _is_arithmetic(args[0])


def _is_arithmetic(code: CodeType) -> bool:
    return _NUMBERS.issuperset(code.co_names) and not any(
        isinstance(constant, CodeType) for constant in code.co_consts
    )


def warm_up() -> None:
    """Imports and builds what would come late, before imports are forbidden."""
    for name in _LATE:
        importlib.import_module(name)
    generated_code.build()
    for gold, response in _WARM_UP:
        with contextlib.suppress(Exception):  # only what it loads matters; answers come later
            judge(gold, response)
