"""What is accepted has been proved equal; what is merely alike is not.  By kind of answer."""

import pytest


@pytest.fixture(scope="module")
def grade(grader):
    """grade(gold, answer) -> whether the answer counts."""
    return lambda gold, answer: bool(
        grader.grade([rf"So it is $\boxed{{{answer}}}$."], [gold])[0].reward
    )


ALIKE = {
    "another rule for the function": [
        (r"g(t)=4t", r"g(t)=9t"), (r"g(t)=4t", r"g(t)=0"), (r"h(n)=n", r"h(n)=3n"),
        (r"g'(x)=6x", r"g'(x)=7x"), (r"g'(x)=6x", r"g(x)=6x"), (r"g^{-1}(x)=4x", r"g^{-1}(x)=5x"),
    ],
    "a function's argument is not a factor": [
        (r"V(0)e^{-t}", "0"), ("g(0)+3", "3"), (r"P(A|B)", "PAB"), (r"w(0,t)", "0"),
        (r"y(0)\cos t", r"z(0)\sin t"),
    ],
    "equal only where one happens to look": [
        (r"|x-20|", "20-x"), (r"\min(x,900)", "x"),
        (r"\lfloor n/3\rfloor", r"\lfloor n/3.1\rfloor"),
        (r"\lceil\frac{n+1}{7}\rceil", r"\lceil\frac{n+2}{7}\rceil"), (r"|a-b|", "a-b"),
        (r"\sqrt{x^2}", "x"), (r"n \bmod 9", "n"),
    ],
    "another base": [(r"243_5", r"243_7"), (r"61_7", r"61_2"), (r"101_2", "101")],
    "words that change a number": [
        ("7", r"7 \text{ squared}"), ("7", r"7\text{ dozen}"), ("7", r"7 \text{ thirds}"),
        ("7", r"7\text{ otherwise}"), ("20", r"20\text{ divided by }4"), ("7", r"7\text{ always}"),
    ],
    "as often as it is listed": [
        ("3,3,8", "3,8,8"), ("3,3,8", "3,8"), ("4", "4,4"),
    ],
    "signs between letters": [("AB:CD", "AB-CD"), ("MN-PQ", "MNPQ"), ("C'D'", "CD")],
    "another letter": [(r"\Gamma", r"\gamma"), (r"\Sigma", r"\sigma")],
    "a branch is lost": [(r"xy=x^3", r"y=x^2"), (r"x^2=5x", r"x=5")],
    "brackets of no kind": [("(2,9,4)", "[2,9,4)"), ("(2,9,4)", "(2,9,4]")],
    "another modulus or class": [
        (r"x\equiv 2\pmod 7", r"x\equiv 2\pmod 9"), (r"x\equiv 2\pmod 7", r"x\equiv 3\pmod 7"),
        (r"2\pmod 7", "2"),
    ],
    "another range": [
        (r"3k\pi, k\in\mathbb{Z}", r"3k\pi, k\in\mathbb{R}"),
        (r"4", r"4\text{ if }n\text{ is odd}"),
    ],
    "dots stand for something else": [(r"1,4,\ldots,n", r"1,5,\ldots,n"), (r"2+\cdots+n", "2+n")],
}  # fmt: skip

SAME = {
    "a function by its rule": [
        (r"g(t)=4t", "4t"), (r"4t", r"g(t)=4t"), (r"g(x)=x(x-1)", "g(x)=x^2-x"),
        ("x(x-2)", "x^2-2x"), (r"g'(x)=6x", r"g'(x)=2\cdot 3x"), (r"2f(0)", r"f(0)+f(0)"),
    ],
    "pieces of equal parts": [
        (r"|x-20|", "|20-x|"), (r"1+\lfloor n/3\rfloor", r"\lfloor\frac{n}{3}\rfloor+1"),
        (r"\max(a,2b)", r"\max(b+b,a)"), (r"\binom{2n}{n}", r"\frac{(2n)!}{n!\,n!}"),
        (r"\sqrt{x^2}", "|x|"), (r"\arctan(2x)", r"\arctan(x+x)"),
    ],
    "units and things counted": [
        ("7", r"7\text{ kJ/mol}"), ("7", r"7\text{ rabbits}"), (r"3\pi", r"3\pi\,\mathrm{m}"),
        (r"1+\sqrt5", r"(1+\sqrt5)\text{ m}"), ("0.75", r".75\text{ inches}"), ("8", r"8\,\Omega"),
        ("8", r"8\,\mu\mathrm{m}"), ("6", r"6\text{ square meters}"),
    ],
    "other characters": [
        (r"\frac34", "¾"), (r"\frac{5}{2}", "2½"), ("y^6", "y⁶"), ("(7,8)", "（7，8）"),
        ("x_2", "x₂"), ("45", "４５"), (r"y^{-2}", "y⁻²"), ("9", "9\u200b"),
    ],
    "a qualifier may be left out": [
        (r"g(x)=4x", r"g(x)=4x\text{ for all }x\in\mathbb{R}"), ("5n", r"5n\text{ where }n\ge 0"),
        (r"3k\pi", r"3k\pi,\ k\in\mathbb{Z}"), (r"3k\pi (k\in\mathbb{Z})", r"3k\pi"),
        (r"5n", r"5n\text{ (where }n\text{ is an integer)}"),
    ],
    "other spellings": [
        (r"6.1\times 10^{21}", "6.1 x 10^21"), ("6e9", "6e9."), (r"\frac29", r"0.\dot{2}"),
        (r"20^\circ 5'", r"20^{\circ}5^{\prime}"), (r"2,4,\ldots,2n", r"2, 4, \dots, 2n"),
        (r"x_1+\cdots+x_n", r"x_1+\ldots+x_n"), (r"x\equiv 2\pmod 7", r"x \equiv 2 \mod 7"),
        (r"x\equiv 2\pmod 7", r"x\equiv 9\pmod 7"), ("D", "D) 15"), ("D", "D: 15"),
    ],
    "solutions are a set": [("(1,4),(2,3)", "(2,3),(1,4),(1,4)"), (r"\{2,5\}", r"\{5,2,2\}")],
}  # fmt: skip


def flat(table):
    return [pytest.param(*pair, id=f"{kind}: {pair}") for kind in table for pair in table[kind]]


@pytest.mark.parametrize(("gold", "answer"), flat(ALIKE))
def test_what_is_only_alike_is_refused(grade, gold, answer):
    assert not grade(gold, answer)
    assert grade(gold, gold) and grade(answer, answer)


@pytest.mark.parametrize(("gold", "answer"), flat(SAME))
def test_what_is_proved_equal_counts_either_way(grade, gold, answer):
    assert grade(gold, answer)


@pytest.mark.parametrize(
    ("response", "gold", "right"),
    [
        (r"\boxed{4} and \boxed{9}", "9", False), (r"\boxed{4} and \boxed{9}", "4, 9", True),
        (r"$\boxed{4}$, $\boxed{9}$", "9,4", True), (r"\boxed{4}\quad\boxed{9}", "9", False),
        (r"\boxed{x=4}\text{ and }\boxed{x=9}", "x=4, x=9", True),
        (r"\boxed{4}, no: \boxed{9}", "9", True), (r"\boxed{4} or \boxed{9}", "9", False),
        (r"\boxed{9}, \boxed{9}", "9", True), (r"\boxed{9}" + "\n\n" + r"\boxed{9}", "9", True),
        (r"\boxed{4}" + "\n" + r"\boxed{9}", "9", True),
        (r"\boxed{(1,2)}, \boxed{(3,4)}", "(1,2),(3,4)", True),
        (r"\boxed{1}, " * 80 + r"\boxed{2}", "2", False),
        (r"\boxed{\boxed{4}, \boxed{9}}", "4,9", True),
    ],
)  # fmt: skip
def test_boxes_joined_into_a_list_are_one_answer(grader, response, gold, right):
    assert bool(grader.grade([response], [gold])[0].reward) == right
