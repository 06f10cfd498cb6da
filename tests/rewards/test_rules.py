"""The rules R1 to R8 on answers as models write them."""

import json
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dars_jax.rewards import Verdict, last_box
from dars_jax.rewards.fast_path import decide


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed {28}", "28"),
        (r"\fbox{3}", "3"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{\frac{1}{2}} and text {", r"\frac{1}{2}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\left\{1\right.}", r"\left\{1\right."),
        (r"\boxed{5} as a \boxed answer", "5"),
        (r"\boxed{5} but then \boxed{6", None),
        # one list: nothing but joiners stand between
        (r"\boxed{1} and \boxed{2}", "1, 2"),
        (r"$\boxed{x=1}$, $\boxed{x=2}$ and $\boxed{x=3}$.", "x=1, x=2, x=3"),
        (r"\boxed{1}\quad\boxed{2}", "1, 2"),
        (r"$\boxed{(1,2)} \text{ and } \boxed{(3,4)}$", "(1,2), (3,4)"),
        (r"\boxed{1} or \boxed{2}", "1, 2"),
        # no list: a correction, a new paragraph, the same box again, a box in a box
        (r"\boxed{1}, no, \boxed{2}", "2"),
        ("\\boxed{1},\n\n\\boxed{2}", "2"),
        (r"\boxed{5}, that is, \boxed{5}", "5"),
        (r"\boxed{5}, \boxed{5}", "5"),
        (r"\boxed{7}\boxed{8}", "8"),
        (r"\boxed{\boxed{8} 7}", "8"),
        (r"\boxed{}", ""),
        ("the answer is 5", None),
        ("", None),
    ],
)
def test_the_last_balanced_box_is_the_answer(response, answer):
    assert last_box(response) == answer


def test_without_a_box_nothing_is_correct(grader):
    responses = [
        "5",
        "The answer is 5.",
        r"\boxed{5",
        r"\boxed{}",
        r"\boxed{ }",
        "$5$",
        r"\text{5}",
    ]
    grades = grader.grade(responses, ["5"] * len(responses))
    assert {grade.verdict for grade in grades} == {Verdict.NO_ANSWER}


def test_extraction_is_linear():
    # Quadratic scanning would take minutes on these.
    for bomb in ("\\boxed{" * 200_000, "{" * 1_000_000, "\\" * 1_000_000, "\\boxed " * 200_000):
        assert last_box(bomb) is None


def test_a_list_of_boxes_is_found_in_linear_time():
    assert last_box("\\boxed{1}, " * 100_000 + "\\boxed{2}").count(",") == 100_000


def test_two_solutions_boxed_apart_are_both_needed(grader):
    responses = [r"\boxed{x=1} and \boxed{x=2}", r"\boxed{x=1} or \boxed{x=2}", r"\boxed{x=2}"]
    assert [g.reward for g in grader.grade(responses, ["1,2"] * 3)] == [1.0, 1.0, 0.0]
    assert [g.reward for g in grader.grade(responses, ["2"] * 3)] == [0.0, 0.0, 1.0]


def test_any_accepted_form_counts(grader):
    forms = ["3.83e35", r"3.83 \times 10^{35}"]
    grades = grader.grade([r"\boxed{3.83\cdot10^{35}}", r"\boxed{3.83}"], [forms, forms])
    assert [grade.reward for grade in grades] == [1.0, 0.0]


def test_an_answer_cannot_be_a_list_of_candidates(grader):
    shotgun = ",".join(str(k) for k in range(50))
    assert grader.grade([rf"\boxed{{{shotgun}}}"], ["7"])[0].reward == 0.0


@given(
    number=st.fractions(max_denominator=10**6),
    factor=st.integers(2, 9),
)
def test_the_fast_path_agrees_with_fractions(number, factor):
    unreduced = rf"\frac{{{number.numerator * factor}}}{{{number.denominator * factor}}}"
    plain = f"{number.numerator}/{number.denominator}"
    assert decide(unreduced, (plain,)) is True
    assert decide(unreduced, (f"{number.numerator + 1}/{number.denominator}",)) is False


def test_the_fast_path_and_the_workers_agree(grader):
    """The same numbers, spelled so that the fast path must pass them on."""
    rng = random.Random(0)
    for _ in range(200):
        a, b = rng.choice(["7", "-7", "0.25", r"\frac{1}{4}", "1/4", "12.50", "025", "25"]), "25"
        b = rng.choice(["7", "1/4", "12.5", "25", "-7"])
        fast = decide(a, (b,))
        slow = grader.grade([rf"\boxed{{\left({a}\right)}}"], [b])[0].reward == 1.0
        assert fast == slow, (a, b)


def test_the_command_prints_a_table_and_names_bad_lines(tmp_path):
    good = tmp_path / "good.jsonl"
    good.write_text(json.dumps({"response": r"\boxed{1/2}", "gold": ["3", "0.5"]}) + "\n")
    bad = tmp_path / "bad.jsonl"
    bad.write_text(good.read_text() + '{"response": 3}\n')
    command = [sys.executable, "-m", "dars_jax.rewards"]
    run = subprocess.run([*command, str(good)], capture_output=True, text=True)
    assert run.returncode == 0 and "correct" in run.stdout and "1.0000" in run.stdout
    run = subprocess.run([*command, str(bad)], capture_output=True, text=True)
    assert run.returncode == 1 and f"{bad}:2" in run.stderr
