"""A reward of the user's own: how it is found, called, limited, and what it may return."""

import json
import math
import sys
import textwrap

import numpy as np
import pytest

from dars_jax.rewards import (
    Context,
    FunctionGrader,
    GradingError,
    Verdict,
    function_grader,
    load_grader,
)

CONTEXT = Context(uid=4, prompt="2 + 2", row={"level": 3}, tokens=[7, 1], finished=True)


def written(tmp_path, text, name="mine.py"):
    path = tmp_path / name
    path.write_text(textwrap.dedent(text))
    return str(path)


def grades(name, *responses, contexts=None, **settings):
    with load_grader(name, **settings) as grader:
        return grader.grade(responses, ["4"] * len(responses), contexts)


@pytest.mark.parametrize("in_process", [False, True])
def test_it_gets_what_it_names(tmp_path, in_process):
    place = written(tmp_path, """
        def check(response, answer, finished, row, *, prompt, tokens, strict=False):
            return (response, answer, prompt, row, tokens, finished, strict) == (
                "x", "4", "2 + 2", {"level": 3}, [7, 1], True, False)
    """)  # fmt: skip
    got = grades(f"{place}:check", "x", "y", contexts=[CONTEXT, CONTEXT], in_process=in_process)
    assert [g.reward for g in got] == [1.0, 0.0]
    assert [g.verdict for g in got] == [Verdict.CORRECT, Verdict.WRONG]


@pytest.mark.parametrize("in_process", [False, True])
def test_a_batch_function_gets_lists(tmp_path, in_process):
    place = written(tmp_path, """
        def check(responses, answers, rows, finished):
            assert len(responses) == len(answers) == len(rows) == len(finished) > 1
            return [len(r) / 200 for r in responses]
    """)  # fmt: skip
    texts = ["x" * n for n in range(150)]
    got = grades(f"{place}:check", *texts, contexts=[CONTEXT] * 150, in_process=in_process)
    assert [g.reward for g in got] == [n / 200 for n in range(150)]


def test_a_file_is_found_from_the_directory_of_the_user(tmp_path, monkeypatch):
    written(tmp_path, "from beside import word\ndef check(r, a): return r == word\n", "near.py")
    written(tmp_path, "word = 'yes'\n", "beside.py")
    monkeypatch.chdir(tmp_path)
    assert [g.reward for g in grades("./near.py:check", "yes", "no")] == [1.0, 0.0]
    assert [g.reward for g in grades("near:check", "yes", "no")] == [1.0, 0.0]


@pytest.mark.parametrize(
    "value, reward",
    [
        (True, 1.0), (0.25, 0.25), (np.float32(0.5), 0.5), (np.int64(1), 1.0),
        (np.bool_(False), 0.0), (np.array(0.75), 0.75),
    ],
)  # fmt: skip
def test_scalars_of_any_kind_are_rewards(value, reward):
    assert FunctionGrader(lambda r, a: value).grade(["x"], ["y"])[0].reward == reward


def test_a_jax_scalar_is_a_reward_where_transfers_are_forbidden():
    import jax
    import jax.numpy as jnp

    grader = FunctionGrader(lambda r, a: jnp.float32(len(r)) / 4)
    with jax.transfer_guard("disallow"):
        assert grader.grade(["x"], ["y"])[0].reward == 0.25


@pytest.mark.parametrize("value", [None, math.nan, np.float32("nan")])
def test_no_reward_leaves_the_answer_out(value):
    grade = FunctionGrader(lambda r, a: value).grade(["x"], ["y"])[0]
    assert grade.verdict == Verdict.LEFT_OUT


def test_of_several_accepted_answers_the_best_counts():
    grader = FunctionGrader(lambda r, a: {"a": 0.2, "b": 0.9, "c": None}[a])
    assert grader.grade(["x"], [("a", "b", "c")])[0].reward == 0.9


@pytest.mark.parametrize("reward, verdict", [(0.7, Verdict.CORRECT), (0.69, Verdict.WRONG)])
def test_what_counts_as_correct_is_a_setting(reward, verdict):
    grader = FunctionGrader(lambda r, a: reward, correct_at=0.7)
    assert grader.grade(["x"], ["y"])[0].verdict == verdict


@pytest.mark.parametrize(
    "body, says",
    [
        ("raise ValueError('bad\\nluck')", "it raised ValueError: bad"),
        ("return 1.5", "it returned 1.5"),
        ("return float('inf')", "it returned inf"),
        ("return 'yes'", "it returned 'yes'"),
        ("return [1.0]", r"it returned \[1.0\]"),
        ("import sys; sys.exit(0)", "it raised SystemExit"),
        ("import os; os._exit(0)", "it ended its process"),
    ],
)
def test_a_failure_names_the_reward_the_row_and_the_answer(tmp_path, body, says):
    place = written(tmp_path, f"def check(response, answer):\n    {body}\n")
    with pytest.raises(GradingError, match=says) as caught:
        grades(f"{place}:check", "the answer", contexts=[CONTEXT])
    assert "mine.py:check" in str(caught.value)
    assert "row 5, response 'the answer', answer '4'" in str(caught.value)


def test_some_failures_may_be_allowed(tmp_path):
    place = written(tmp_path, "def check(response, answer):\n    return 1 / int(response)\n")
    got = grades(f"{place}:check", "1", "0", "2", max_errors=1)
    assert [g.verdict for g in got] == [Verdict.CORRECT, Verdict.FAILED, Verdict.CORRECT]
    with pytest.raises(GradingError, match="ZeroDivisionError"):
        grades(f"{place}:check", "1", "0", "0", max_errors=1)


@pytest.mark.parametrize("plural", ["", "s"])
def test_an_endless_answer_is_worth_nothing_and_costs_no_other(tmp_path, plural):
    place = written(tmp_path, """
        def one(response):
            while response == "hang":
                pass
            return 1.0
        def check(response, answer): return one(response)
        def checks(responses, answers): return [one(r) for r in responses]
    """)  # fmt: skip
    got = grades(f"{place}:check{plural}", "x", "hang", "y", timeout_s=0.3)
    assert [g.verdict.name for g in got] == ["CORRECT", "TIMED_OUT", "CORRECT"]


def test_a_limit_that_no_answer_keeps_is_an_error(tmp_path):
    place = written(tmp_path, "def check(response, answer):\n    while True: pass\n")
    with pytest.raises(GradingError, match=r"raise reward\.timeout_s"):
        grades(f"{place}:check", *map(str, range(20)), timeout_s=0.02)


@pytest.mark.parametrize("plural", ["", "s"])
def test_an_answer_that_takes_all_memory_is_too_big(tmp_path, plural):
    place = written(tmp_path, """
        def one(response): return len(bytearray(2**32 if response == "big" else 1)) > 0
        def check(response, answer): return one(response)
        def checks(responses, answers): return [one(r) for r in responses]
    """)  # fmt: skip
    got = grades(f"{place}:check{plural}", "x", "big", "y", memory_gib=0.5)
    assert [g.verdict.name for g in got] == ["CORRECT", "TOO_BIG", "CORRECT"]


def test_a_worker_that_never_answers_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(function_grader, "_STALLED_S", 0.5)
    place = written(tmp_path, "import time\ndef check(r, a): time.sleep(3600)\n")
    with pytest.raises(GradingError, match="or never answered"):
        grades(f"{place}:check", "x")


def test_a_file_named_like_a_library_takes_its_place_nowhere(tmp_path):
    place = written(tmp_path, "def check(r, a): return True\n", "json.py")
    assert grades(f"{place}:check", "x", in_process=True)[0].reward == 1.0
    assert json.loads("[1]") == [1] and sys.modules["json"] is json
    assert grades(f"{place}:check", "x")[0].reward == 1.0


def test_what_it_prints_disturbs_nobody(tmp_path):
    place = written(tmp_path, "def check(response, answer):\n    print('hello')\n    return True\n")
    assert [g.reward for g in grades(f"{place}:check", "x", "y")] == [1.0, 1.0]


def test_waiting_comes_back_when_the_time_is_up(tmp_path):
    place = written(tmp_path, "import time\ndef check(r, a): time.sleep(60)\n")
    with load_grader(f"{place}:check") as grader:
        grader.submit(0, "x", "4")
        assert grader.collect(wait=True, timeout_s=0.1) == []


def test_streamed_answers_keep_their_numbers(tmp_path):
    place = written(tmp_path, "def check(r, a): return int(r) / 100\n")
    with load_grader(f"{place}:check") as grader:
        for i in range(100):
            grader.submit(i, str(i), "4")
        got = dict(grader.collect(wait=True))
    assert {i: g.reward for i, g in got.items()} == {i: i / 100 for i in range(100)}


@pytest.mark.parametrize(
    "text, says",
    [
        ("def check(response answer): pass", r"invalid syntax.*mine.py, line 1"),
        ("import nothing_of_that_name", "No module named 'nothing_of_that_name'"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("def other(response, answer): pass", "has no 'check'; its functions are other"),
        ("check = 3", "is a int, not a function"),
        ("def check(response): pass", "it must take"),
        ("def check(): pass", "it must take"),
        ("def check(response, answer, colour): pass", "it must take"),
        ("async def check(response, answer): pass", "coroutine"),
    ],
)
def test_what_cannot_be_a_reward_is_refused_at_once_in_one_line(tmp_path, text, says):
    place = written(tmp_path, text)
    with pytest.raises(ValueError, match=says) as caught:
        load_grader(f"{place}:check")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["maths", "./nowhere.py:check", "nowhere:check", ":check", "a:"])
def test_an_unknown_reward_is_refused(name):
    with pytest.raises(ValueError, match="reward"):
        load_grader(name)


def test_asking_for_what_is_not_known_is_an_error():
    grader = FunctionGrader(lambda response, answer, tokens: True)
    with pytest.raises(GradingError, match="asks for 'tokens'"):
        grader.grade(["x"], ["y"], [Context(prompt="?")])
