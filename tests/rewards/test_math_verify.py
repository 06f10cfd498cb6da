"""`math_verify` judges as the authors' own call does, in workers that run nothing but numbers."""

import json

import pytest
from math_verify import parse, verify

from dars_jax.drills import decisions
from dars_jax.rewards import Verdict, load_grader
from dars_jax.rewards.equality import authors_call

# gold, response: whole texts, with and without a box, where both graders differ too
PAIRS = [
    (r"\frac{1}{3}", r"So \boxed{0.3333333}."),
    ("12", "The answer is 2*6."),
    ("12", "Half of 24 is 12"),
    ("2.4", "12/5 = 2.4, and the answer is 12/5"),
    ("52_8", r"\boxed{52_3}"),
    (r"\{1,2\}", r"\boxed{1} and \boxed{2}"),
    (r"(-\infty,2]", r"\boxed{x\le 2}"),
    (r"\frac{x+1}{2}", r"$\frac{x}{2}+\frac12$"),
    ("7", r"\boxed{8}"),
    ("x=5", r"\boxed{5}"),
]
NOTHING = ["", "  \n", "I do not know."]
HOSTILE = [
    "__import__('os').system('touch MARK')",
    r"\boxed{__import__('os').system('touch MARK')}",
    r"\sum_{k=1}^{9} open('MARK','w')",
    r"$\operatorname{exec}(open('MARK','w'))$",
    "The answer is (1).__class__(2)",
    "The answer is 9**9**9**9**9",
    "The answer is " + "(" * 3000 + "1" + ")" * 3000,
    "1" + "+1" * 5000,
    "\x00\ud800 4",
]


@pytest.fixture(scope="module")
def grader():
    with load_grader("math_verify", num_workers=1) as grader:
        yield grader


def test_verdicts_are_those_of_the_authors_call(grader):
    expected = [verify(parse(f"${gold}$"), parse(text)) for gold, text in PAIRS]
    grades = grader.grade([text for _, text in PAIRS], [gold for gold, _ in PAIRS])
    assert [grade.reward == 1 for grade in grades] == expected
    assert 0 < sum(expected) < len(PAIRS)


def test_a_text_without_anything_to_judge_has_no_answer(grader):
    grades = grader.grade(NOTHING, ["4"] * len(NOTHING))
    assert {grade.verdict for grade in grades} == {Verdict.NO_ANSWER}


def test_of_several_golds_the_best_counts(grader):
    assert grader.grade([r"\boxed{8}"], [["7", "8"]])[0].verdict == Verdict.CORRECT


def test_hostile_texts_run_nothing_and_cost_no_other(grader, tmp_path):
    mark = tmp_path / "mark"
    texts = [text.replace("MARK", str(mark)) for text in HOSTILE]
    grades = grader.grade([*texts, r"\boxed{5}"], ["5"] * (len(texts) + 1))
    assert [grade.verdict for grade in grades if grade.reward] == [Verdict.CORRECT]
    assert grades[-1].reward == 1 and not mark.exists()


@pytest.mark.parametrize(
    "text", ["open", "f(3)", "Integer.mro", "[k for k in (1, 2)]", "lambda: 1"]
)
def test_only_the_code_of_numbers_is_let_through(text):
    assert authors_call.permits("exec", (compile("Integer (2 )", "", "eval"),))
    assert not authors_call.permits("exec", (compile(text, "", "eval"),))
    assert not authors_call.permits("open", ("/etc/passwd",))


def test_a_difference_without_a_reason_fails_the_table(tmp_path, capsys):
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"gold": "20", "answer": r"20 \%", "reason": "no factor 100"},
            {"gold": "8", "answer": r"8\text{ dozen}"}, {"gold": "1", "answer": "1"}]  # fmt: skip
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert decisions.main([str(pairs)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert r"| `20` | `20 \%` | equal | differ | no factor 100 |" in lines
    assert r"| `8` | `8\text{ dozen}` | equal | differ | undecided |" in lines
    assert lines[-1] == "2 of 3 pairs, 1 undecided."
