"""Equality is reflexive, symmetric and does not see rewrites; it sees every mutant."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dars_jax.drills import by_value, rewrites
from dars_jax.rewards.equality.evaluator import TooBig
from dars_jax.rewards.equality.rules import equivalent
from dars_jax.rewards.equality.trees import Unreadable

_numbers = st.integers(2, 60).map(str)
_letters = st.sampled_from("abcknxyz")
_roots = (_numbers | _letters).map(lambda x: rf"\sqrt{{{x}}}")
_atoms = _numbers | _letters | _roots | st.sampled_from([r"\pi", "e", "(-3)", "0.5"])


def _combined(inner):
    two = st.tuples(inner, inner)
    return st.one_of(
        two.map(lambda p: rf"\frac{{{p[0]}}}{{{p[1]}}}"),
        two.map(lambda p: f"({p[0]}+{p[1]})"),
        two.map(lambda p: f"({p[0]}-{p[1]})"),
        two.map(lambda p: rf"{p[0]}\cdot {p[1]}"),
        # of nothing negative: the fourth root of -3 is no real number, and not proved
        inner.map(lambda x: rf"\sqrt{{({x})^{{2}}+1}}"),
        inner.map(lambda x: f"({x})^{{2}}"),
        inner.map(lambda x: rf"\left|{x}\right|"),
        inner.map(lambda x: rf"\sin({x})"),
        inner.map(lambda x: rf"\lfloor {x} \rfloor"),
        inner.map(lambda x: f"f({x})"),
    )


values = st.recursive(_atoms, _combined, max_leaves=5)
answers = st.one_of(
    values,
    st.tuples(values, values).map(lambda p: f"({p[0]},{p[1]})"),
    st.tuples(values, values, values).map(",".join),
    st.tuples(values, values).map(lambda p: rf"\{{{p[0]},{p[1]}\}}"),
    st.tuples(_letters, values).map("=".join),
    st.tuples(_letters, _numbers).map("<".join),
    st.tuples(_numbers, _numbers).map(lambda p: f"[{p[0]},1{p[0]}{p[1]})"),
    st.tuples(values, values).map(lambda p: rf"\begin{{pmatrix}}{p[0]}&1\\2&{p[1]}\end{{pmatrix}}"),
)


def judged(gold, answer):
    try:
        return equivalent(gold, answer)
    except (Unreadable, TooBig):
        return False


@given(answers)
@settings(max_examples=60)
def test_an_answer_equals_itself(answer):
    assert judged(answer, answer)


@given(answers, answers)
@settings(max_examples=60)
def test_equality_is_symmetric(first, second):
    assert judged(first, second) == judged(second, first)


@given(values, values, values)
@settings(max_examples=40)
def test_sums_and_products_commute(a, b, c):
    assert judged(f"{a}+{b}+({c})", f"({c})+{b}+{a}")
    assert judged(rf"{a}\cdot {b}", rf"{b}\cdot {a}")


@given(values, st.integers(1, 9))
@settings(max_examples=40)
def test_adding_a_number_is_another_value(value, number):
    assert not judged(value, f"{value}+{number}")
    assert not judged(f"{value}+{number}", value)


@given(st.lists(_numbers, min_size=2, max_size=5), st.randoms())
def test_lists_keep_how_often_and_forget_in_which_order(items, rng):
    shuffled = list(items)
    rng.shuffle(shuffled)
    assert judged(",".join(items), ",".join(shuffled))
    assert not judged(",".join(items), ",".join([*items, items[0]]))


def test_rewrites_of_the_drill_are_accepted_and_mutants_refused(grader):
    rows = list(rewrites.drawn(rewrites.GOLDS, rewrites.REWRITES, 1000, seed=2))
    assert rewrites.judge(grader, rows, right=True) == []
    mutants = list(rewrites.drawn(rewrites.GOLDS, rewrites.MUTANTS, 1000, seed=2))
    accepted = rewrites.judge(grader, mutants, right=False)
    # .125 is 0.125, and that is all that is equal by chance
    assert {(row["gold"], row["answer"]) for row in accepted} <= {("0.125", ".125")}


def test_the_same_seed_draws_the_same_rows():
    draw = [list(rewrites.drawn(rewrites.GOLDS, rewrites.MUTANTS, 50, seed=s)) for s in (1, 1, 2)]
    assert draw[0] == draw[1] != draw[2]


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("0.05", ".05", True), ("-3", "2(-3)+3", True), ("033", "33", True), ("0", "-0", True),
        (r"11,\! 111", r"11\! 111", True), (r"(-\infty, 0]", r"]-\infty, 0]", True),
        (r"(-\infty, 0]", r"[-\infty, 0]", False), ("x^12", "2x", True), ("x^{12}", "x^12", False),
        (r"\frac{1}{3}", "0.333333333333333333333", False), (r"(x+1)^2", "x^2+2x+1", True),
        (r"\sqrt{x^2}", "x", False), (r"2\sqrt[3]{2}", r"\sqrt[3]{16}", True), ("1,2", "1", False),
        (r"\text{odd}", "odd", None), ("52_8", "52_9", None), ("|x|", "x", None), ("(1", "1", None),
        (r"\sin^2 x", "0", None), ("4!", "24", True), ("x!", "x", None),
    ],
)  # fmt: skip
def test_values_are_computed_once_more_without_the_graders_code(gold, answer, equal):
    assert by_value.equal(gold, answer) is equal


def test_the_drill_reads_golds_and_prints_what_was_judged_otherwise(tmp_path, capsys):
    golds = tmp_path / "golds.jsonl"
    golds.write_text(json.dumps({"answer": "0.125"}) + "\n" + json.dumps({"gold": "x=3"}) + "\n")
    assert rewrites.main([str(golds), "--rewrites", "40", "--mutants", "40", "--seed", "3"]) == 0
    *rows, counts = map(json.loads, capsys.readouterr().out.splitlines())
    assert (counts["golds"], counts["rewrites"], counts["refused"]) == (2, 40, 0)
    assert len(rows) == counts["accepted"] == counts["shown equal"]
