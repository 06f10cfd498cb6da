r"""Parses the tokens of one mathematical expression into a tree.

Decimals become exact fractions, so no rounding can happen later.  The grammar is what answers use:
sums, products (also implicit), quotients, powers, roots, functions, factorials, absolute values,
floors, binomials, finite sums and products, integrals, numbers as numerals.py reads them, per cent
and degrees, and applications of named functions, which applications.py has marked.
Anything else raises Unreadable.
"""

from fractions import Fraction

from dars_jax.rewards.equality.latex import FUNCTIONS
from dars_jax.rewards.equality.numerals import Numerals
from dars_jax.rewards.equality.trees import CONSTANTS, Node, Unreadable
from dars_jax.rewards.equality.vocabulary import word_set

_GREEK = frozenset(
    "\\" + name
    for name in word_set(
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau "
        "upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar"
    )
)
_FUNCTIONS = frozenset("\\" + name for name in FUNCTIONS - {"sqrt"})
_LIST_FUNCTIONS = frozenset([r"\min", r"\max", r"\gcd", r"\lcm"])
_INVERSE = {r"\sin": r"\arcsin", r"\cos": r"\arccos", r"\tan": r"\arctan"}
_BRACKETS = {"(": ")", "[": "]", "{": "}", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil"}
_ACCENTS = frozenset(
    [r"\vec", r"\hat", r"\bar", r"\overline", r"\tilde", r"\dot", r"\ddot", r"\overrightarrow"]
)
APPLY = "\u2061"  # between the name of a function and the bracket of its arguments
_MAX_DEPTH = 60  # recursion: ten Python frames a level stay far below the limit of 1,000


def closing_bracket(tokens: tuple[str, ...], start: int) -> int:
    """Index of the ")" that closes the "(" at start; the number of tokens if none does."""
    depth = 0
    for i in range(start, len(tokens)):
        depth += (tokens[i] == "(") - (tokens[i] == ")")
        if depth == 0:
            return i
    return len(tokens)


_DIFFERENTIALS = ("d", r"\partial")


def parse(tokens: tuple[str, ...]) -> Node:
    """The tree of a whole token sequence."""
    parser = _Parser(tokens)
    node = parser.fraction_over()
    if parser.peek() is not None:
        raise Unreadable(f"left over: {parser.peek()}")
    return node


class _Parser(Numerals):
    """Recursive descent; every method consumes what it reads and returns its tree."""

    def __init__(self, tokens: tuple[str, ...]):
        super().__init__(tokens)
        self.depth = 0
        self.closing: list[str] = []  # brackets that are open, to tell |x from |y

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise Unreadable("nested too deeply")
        terms = [self.product()]
        while self.peek() in ("+", "-"):
            negative = self.take() == "-"
            term = self.product()
            terms.append(("neg", term) if negative else term)
        self.depth -= 1
        return terms[0] if len(terms) == 1 else ("+", *terms)

    def product(self, stop_at_function: bool = False) -> Node:
        node = self.signed()
        while True:
            token = self.peek()
            if token == "*":
                self.take()
                node = ("*", node, self.signed())
            elif token == "/":
                self.take()
                node = ("/", node, self.signed())
            elif token in (r"\bmod", r"\mod"):
                self.take()
                node = ("mod", node, self.signed())
            elif token is None or not self.starts_factor(token, stop_at_function):
                return node
            elif token[0].isdigit() and isinstance(node, Fraction):
                raise Unreadable("two numbers side by side")
            else:
                node = ("*", node, self.power())

    def starts_factor(self, token: str, stop_at_function: bool) -> bool:
        if token in _FUNCTIONS:
            return not stop_at_function
        if token == "|":
            return self.closing[-1:] not in (["|"], [")|"])
        return (
            token[0].isdigit()
            or token[0] == "."
            or token in _BRACKETS
            or token in _ACCENTS
            or token in (r"\frac", r"\sqrt", r"\binom", r"\sum", r"\prod", r"\int")
            or self.is_name(token)
        )

    def is_name(self, token: str) -> bool:
        return (len(token) == 1 and token.isalpha()) or token in _GREEK or token in CONSTANTS

    def signed(self) -> Node:
        sign = 1
        for _ in range(2):  # 3 - -2, but not a hundred signs
            if self.peek() not in ("+", "-"):
                break
            sign = -sign if self.take() == "-" else sign
        node = self.power()
        return node if sign == 1 else ("neg", node)

    def power(self) -> Node:
        node = self.postfix(self.atom())
        if self.peek() == "^":
            self.take()
            node = self.postfix(("^", node, self.argument()))
        return node

    def postfix(self, node: Node) -> Node:
        while True:
            token = self.peek()
            if token == "!" and self.peek(1) == "!":
                self.take()
                node = ("!!", node)
            elif token == "!":
                node = ("!", node)
            elif token == "%":
                node = ("*", node, Fraction(1, 100))
            elif token == "°":
                node = ("deg", node)
            else:
                return node
            self.take()

    def argument(self) -> Node:
        """What follows ^ or \\sqrt: a group, or one atom with its sign (10^-3)."""
        if self.peek() == "{":
            return self.group("{")
        if self.peek() == "-":
            self.take()
            return ("neg", self.argument())
        if self.peek() in _FUNCTIONS:
            raise Unreadable("a function as an argument needs braces")
        return self.atom()

    def group(self, opening: str) -> Node:
        self.take(opening)
        self.closing.append(_BRACKETS[opening])
        node = self.fraction_over()
        self.take(self.closing.pop())
        return node

    def fraction_over(self) -> Node:
        r"""A sum, or two of them with \over between."""
        node = self.sum()
        if self.peek() == r"\over":
            self.take()
            node = ("/", node, self.sum())
        return node

    def atom(self) -> Node:
        token = self.take()
        if token[0].isdigit() or token[0] == ".":
            return self.number(token)
        self.at -= 1
        if token in ("(", "[", "{"):
            node = self.group(token)
            if self.peek() == "_" and isinstance(node, Fraction) and node.denominator == 1:
                return self.in_base(str(node))
            return node
        if token in (r"\lfloor", r"\lceil"):
            return (token, self.group(token))
        if token == "|":
            self.take()
            self.closing.append("|")
            node = self.sum()
            self.take(self.closing.pop())
            return ("abs", node)
        self.at += 1
        if token == r"\frac":
            if self.is_derivative():
                raise Unreadable("a derivative")
            return ("/", self.digit_or_group(), self.digit_or_group())
        if token == r"\binom":
            return ("binom", self.digit_or_group(), self.digit_or_group())
        if token == r"\sqrt":
            return self.root()
        if token in (r"\sum", r"\prod"):
            return self.series(token)
        if token == r"\int":
            return self.integral()
        if token in _FUNCTIONS:
            return self.function(token)
        if token in _ACCENTS:
            self.take("{")
            name = self.take()
            self.take("}")
            return token + name
        if self.is_name(token):
            return self.name(token)
        raise Unreadable(f"unknown: {token}")

    def is_derivative(self) -> bool:
        r"""`\frac{dy}{dx}`, `\frac{d}{dx}`: no quotient of products."""
        rest = self.tokens[self.at :]
        if len(rest) < 2 or rest[0] != "{" or rest[1] not in _DIFFERENTIALS or "}" not in rest:
            return False
        below = rest[rest.index("}") + 1 :]
        return below[:1] == ["{"] and below[1:2] == rest[1:2] and below[3:4] == ["}"]

    def digit_or_group(self) -> Node:
        r"""An argument of \frac: TeX takes a single digit of `\frac12`."""
        token = self.peek()
        if token is not None and token.isdigit() and len(token) > 1:
            self.tokens[self.at] = token[1:]
            return Fraction(int(token[0]))
        return self.argument()

    def name(self, token: str) -> Node:
        if token in CONSTANTS and self.peek() != "_":
            return token
        while self.peek() in ("_", "'"):
            mark = self.take()
            token += mark + (self.subscript() if mark == "_" else "")
        return self.application(token)

    def application(self, name: str) -> Node:
        """f(x), f^{-1}(x), f^{(n)}(x), P(A|B): a name, or an application where one is marked."""
        if self.peek() == "^" and APPLY in self.tokens[self.at :]:
            mark = self.tokens.index(APPLY, self.at)
            above = self.tokens[self.at + 1 : mark]
            if above[:1] == ["{"] and above[-1:] == ["}"] and above.count("{") == 1:
                name += "^" + "".join(above)
                self.at = mark
        if self.peek() != APPLY:
            return name
        self.take()
        self.take("(")
        # In P(A|B) the bar stands between arguments; in f(|x|) it has a partner.
        end = closing_bracket(tuple(self.tokens), self.at - 1)
        lone_bar = self.tokens[self.at : end].count("|") == 1
        self.closing.append(")|" if lone_bar else ")")
        arguments = [self.sum()]
        while self.peek() in (",", "|", ";"):
            name += "|" if self.take() == "|" else ""
            arguments.append(self.sum())
        self.closing.pop()
        self.take(")")
        return ("call", name, *arguments)

    def subscript(self) -> str:
        if self.peek() != "{":
            return self.take()
        self.take()
        inside = []
        while self.peek() != "}":
            inside.append(self.take())
        self.take()
        return "".join(inside)

    def root(self) -> Node:
        degree: Node = Fraction(2)
        if self.peek() == "[":
            degree = self.group("[")
        elif self.peek() == "(":  # sqrt(3) as in plain text
            return ("root", self.group("("), degree)
        return ("root", self.argument(), degree)

    def function(self, name: str) -> Node:
        power: Node | None = None
        base: Node | None = None
        while self.peek() in ("^", "_"):
            if self.take() == "^":
                power = self.argument()
            else:
                base = self.argument()
        if power == ("neg", Fraction(1)) and name in _INVERSE:
            name, power = _INVERSE[name], None
        arguments = self.function_arguments(name)
        node = ("fn", name, *arguments, *([base] if base is not None else []))
        return node if power is None else ("^", node, power)

    def function_arguments(self, name: str) -> list[Node]:
        if name in _LIST_FUNCTIONS:
            closing = _BRACKETS[self.take()] if self.peek() in ("(", "{") else ""
            arguments = [self.sum()]
            while self.peek() == ",":
                self.take()
                arguments.append(self.sum())
            if not closing:
                raise Unreadable(f"{name} needs a list")
            self.take(closing)
            return arguments
        if self.peek() in ("(", "[", "{", "|"):
            return [self.postfix(self.atom())]  # \sin(x)y is sin(x) times y
        return [self.product(stop_at_function=True)]

    def series(self, kind: str) -> Node:
        """A sum or product over one index with given ends."""
        self.take("_")
        self.take("{")
        index = self.name(self.take())
        self.take("=")
        low = self.sum()
        self.take("}")
        self.take("^")
        high = self.argument()
        return ("series", kind, index, low, high, self.product())

    def integral(self) -> Node:
        """A definite integral; the body ends at `d` and a name."""
        self.take("_")
        low = self.argument()
        self.take("^")
        high = self.argument()
        end = max(
            (i for i in range(self.at, len(self.tokens) - 1) if self.tokens[i] == "d"), default=-1
        )
        if end < self.at:
            raise Unreadable("an integral without its variable")
        body = parse(tuple(self.tokens[self.at : end])) if end > self.at else Fraction(1)
        self.at = end + 1
        return ("integral", self.name(self.take()), low, high, body)
