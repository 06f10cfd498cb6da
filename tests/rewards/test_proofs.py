"""What is proved about trees: identities in finite fields, and digits that tell numbers apart."""

from fractions import Fraction

import pytest

from dars_jax.rewards.equality import finite_field, identities, same_value
from dars_jax.rewards.equality.evaluator import TooBig
from dars_jax.rewards.equality.expression import parse
from dars_jax.rewards.equality.latex import readings

X, Y = "x", "y"


def tree(text):
    return parse(readings(text)[0])


@pytest.mark.parametrize("p", finite_field.PRIMES)
def test_every_prime_makes_small_numbers_positive_and_has_its_roots_of_unity(p):
    field = finite_field.Field(p, b"")
    field.fuel = 10**9
    assert p % 4 == 3 and (p + 1) % 120 == 0
    assert all(pow(n, (p - 1) // 2, p) == 1 for n in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37))
    assert pow(2, field.q - 1, field.q) == 1  # (p - 1) / 2 is prime, by Fermat
    assert field.root_of_unity(120) == (1, 0) and field.root_of_unity(60) == (p - 1, 0)
    assert field.root_of_unity(30) == (0, 1)  # e^{i pi / 2}
    assert 2 * field.root_of_unity(20)[0] % p == 1  # 2 cos 60 degrees
    assert field.circle(field.order) == (1, 0) != field.circle(1)


def test_a_sign_is_drawn_for_every_value_by_itself():
    assert identities.identical(("abs", ("neg", X)), ("abs", X))
    assert identities.identical(("abs", ("*", X, Y)), ("*", ("abs", X), ("abs", Y)))
    assert not identities.identical(("abs", X), X)
    assert not identities.identical(("abs", ("+", X, Fraction(10**12))), ("+", X, Fraction(10**12)))


def test_tiny_terms_count():
    for text in (r"\sqrt2", r"\pi", r"\sin 1", r"e^{3}", r"\sqrt[3]{5}+\sqrt7", "x", r"\sin x"):
        assert same_value.same_value(tree(text), tree(text + "+0"))
        assert not same_value.same_value(tree(text), tree(text + "+10^{-200}"))


def test_nearly_equal_numbers_differ():
    # equal in the first 12 decimals
    assert not same_value.same_value(tree(r"e^{\pi\sqrt{163}}"), tree("262537412640768744"))
    assert not same_value.same_value(tree(r"\sin(10^{-50})"), tree("10^{-50}"))
    assert not same_value.same_value(tree(r"\lfloor\sqrt{9-10^{-40}}\rfloor"), tree("3"))


def test_floors_of_integers_are_compared_on_a_whole_period():
    assert same_value.same_value(tree(r"\lceil n/2\rceil"), tree(r"\lfloor (n+1)/2\rfloor"))
    # differ first at n = 11
    assert not same_value.same_value(tree(r"\lfloor n/11\rfloor"), tree(r"\lfloor n/12\rfloor"))
    # x may be any real number
    assert not same_value.same_value(tree(r"\lceil x/2\rceil"), tree(r"\lfloor (x+1)/2\rfloor"))


def test_a_closed_form_is_proved_by_its_differences():
    assert same_value.same_value(tree(r"\sum_{k=1}^n k^2"), tree(r"\frac{n(n+1)(2n+1)}{6}"))
    assert not same_value.same_value(tree(r"\sum_{k=0}^n 2^k"), tree("2^{n+1}"))


def test_equations_keep_their_branches():
    equations = {"xy=1": "y=1/x", "xy=x^2": "y=x", "xy=x": "y=1", "y/x=1": "y=x"}
    verdicts = []
    for first, second in equations.items():
        left, right = (
            ("+", tree(a), ("neg", tree(b))) for a, b in (e.split("=") for e in (first, second))
        )
        verdicts.append(same_value.same_solution(left, right))
    assert verdicts == [True, False, False, False]


def test_degrees_are_bounded():
    with pytest.raises(TooBig):
        identities.identical(("^", X, Fraction(10**9)), X)
