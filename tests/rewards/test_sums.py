"""A weighted sum of rewards: the first says what is right, all of them pay."""

import textwrap

import pytest

from dars_jax.rewards import Grade, GradingError, Verdict, load_grader


@pytest.fixture
def style(tmp_path):
    path = tmp_path / "style.py"
    path.write_text(
        textwrap.dedent("""
            def brief(response, answer): return None if "skip" in response else len(response) < 20
            def polite(response, answer): return 0.5 if "please" in response else 0.0
            def broken(response, answer): raise KeyError(response)
        """)
    )
    return path


LONG = "so that is what it is: "


def test_the_sum_pays_and_the_first_decides_what_is_right(style):
    name = f"math + 0.25 * {style}:brief - 0.5 * {style}:polite"
    texts = [r"\boxed{4}", LONG + r"\boxed{4}", r"\boxed{5}", r"please \boxed{4}", "none"]
    with load_grader(name, in_process=True) as grader:
        grades = grader.grade(texts, ["4"] * 5)
        assert grader.parts == ("math", f"{style}:brief", f"{style}:polite")
        assert grader.counters()["correct"] == 3
    assert [grade.reward for grade in grades] == [1.25, 1.0, 0.25, 1.0, 0.25]
    names = ["CORRECT", "CORRECT", "WRONG", "CORRECT", "NO_ANSWER"]
    assert [grade.verdict.name for grade in grades] == names
    assert grades[3].parts == (1.0, 1.0, 0.5)


def test_streamed_answers_get_what_a_batch_gets(style):
    texts = [rf"\boxed{{{k}+1}}" + "x" * k for k in range(30)]
    with load_grader(f"math + 0.2 * {style}:brief") as grader:
        for i, text in enumerate(texts):
            grader.submit(i, text, "4")
        got = dict(grader.collect(wait=True))
        assert [got[i] for i in range(30)] == grader.grade(texts, ["4"] * 30)
    assert got[3] == Grade(1.2, Verdict.CORRECT, (1.0, 1.0))


def test_what_one_leaves_out_is_left_out_and_what_fails_one_has_failed(style):
    with load_grader(f"math + 2 * {style}:brief", in_process=True) as grader:
        grade = grader.grade([r"skip \boxed{4}"], ["4"])[0]
        assert (grade.reward, grade.verdict) == (0.0, Verdict.LEFT_OUT)
    name = f"math + {style}:brief + {style}:broken"
    with load_grader(name, in_process=True) as grader:
        with pytest.raises(GradingError, match="KeyError"):
            grader.grade([r"\boxed{4}"], ["4"])
        grader.submit(0, r"skip \boxed{4}", "4")
        assert dict(grader.collect(wait=True))[0].verdict == Verdict.FAILED
        assert "KeyError" in grader.complaints()[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("math + math", "'math' stands twice"),
        ("math + 0 * math_verify", "has the weight 0"),
        ("math + 1e999 * math_verify", "has the weight inf"),
        ("math + 0.2.1 * math_verify", "is no reward; write"),
        ("math + 0.2 * maths", "'maths'"),
        ("math + ", r"'math \+'"),
    ],
)
def test_a_sum_that_is_none_is_refused_in_one_line(name, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_grader(name)
    assert "\n" not in str(caught.value)
