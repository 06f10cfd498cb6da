"""Claims are decided by intervals, whoever wins."""

import made_up_runs
import numpy as np
import pytest

from dars_jax.study import claims, runs
from dars_jax.study.compare import Budget, Study
from dars_jax.study.resampling import Estimate

END = Budget("prompts", 40)


def condition(kind):
    return claims.Condition("a", kind, "b", 128)


@pytest.mark.parametrize(
    ("kind", "low", "high", "verdict"),
    [
        ("more", 0.01, 0.05, True), ("more", -0.01, 0.05, None), ("more", -0.05, -0.01, False),
        ("not_more", -0.05, 0.01, True), ("not_more", -0.05, 0.03, None),
        ("not_more", 0.001, 0.01, False), ("not_less", -0.01, 0.05, True),
        ("not_less", -0.03, 0.05, None), ("not_less", -0.01, -0.001, False),
        ("more", -np.inf, np.inf, None), ("not_more", -np.inf, np.inf, None),
    ],
)  # fmt: skip
def test_an_interval_meets_contradicts_or_leaves_open(kind, low, high, verdict):
    assert condition(kind).judge(Estimate((low + high) / 2, low, high)) is verdict


def made_up_study(tmp_path, levels, rollouts=80):
    """Arms that end at the given Pass@1, two seeds each."""
    rng = np.random.default_rng(0)
    study = {}
    for arm, level in levels.items():
        mine = []
        for seed in range(2):
            correct = {0: made_up_runs.right(rng, 0.1), 4: made_up_runs.right(rng, level)}
            mine.append(runs.read(made_up_runs.write(
                tmp_path / arm / str(seed), correct, rollouts=rollouts)))  # fmt: skip
        study[arm] = tuple(mine)
    return Study(study)


BETTER = claims.Claim("a is better", (claims.Condition("a", "more", "b", 1),))


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [(0.6, 0.3, "reproduced"), (0.3, 0.6, "not reproduced"), (0.45, 0.45, "undecided")],
)
def test_the_same_code_finds_for_and_against(tmp_path, a, b, verdict):
    study = made_up_study(tmp_path, {"b": b, "a": a})
    finding = claims.decide(study, BETTER, END)
    assert finding.verdict == verdict
    ((_, difference, _),) = finding.evidence
    assert difference.mean == pytest.approx(a - b, abs=0.08)


def test_a_claim_needs_all_its_conditions(tmp_path):
    study = made_up_study(tmp_path, {"b": 0.3, "a": 0.6})
    both = claims.Claim("", (*BETTER.conditions, claims.Condition("b", "more", "a", 1)))
    assert claims.decide(study, both, END).verdict == "not reproduced"


def test_arms_that_are_missing_or_not_so_far_decide_nothing(tmp_path):
    study = made_up_study(tmp_path, {"b": 0.3})
    assert claims.decide(study, BETTER, END).verdict == "no runs"
    study = made_up_study(tmp_path / "more", {"b": 0.3, "a": 0.6})
    assert claims.decide(study, BETTER, Budget("prompts", 41)).verdict == "no runs"


def test_a_winner_is_named_only_by_its_interval():
    question = claims.Question("", "a", "b")
    assert claims.winner(question, Estimate(0.1, 0.01, 0.2)) == "a"
    assert claims.winner(question, Estimate(-0.1, -0.2, -0.01)) == "b"
    assert claims.winner(question, Estimate(0.1, -0.01, 0.2)) == "undecided"


def test_every_arm_that_is_named_exists():
    from dars_jax.study.arms import ARMS

    named = {c.arm for claim in claims.CLAIMS for c in claim.conditions}
    named |= {c.other for claim in claims.CLAIMS for c in claim.conditions}
    named |= {arm for q in claims.QUESTIONS for arm in (q.arm, q.other)}
    assert named <= ARMS.keys()


def test_the_peak_is_found_where_there_are_hard_medium_and_easy_prompts():
    hard, medium, easy = np.full(40, 0.03), np.full(20, 0.5), np.full(20, 0.97)
    verdict, words = claims.peak(np.concatenate([hard, medium, easy]))
    assert verdict == "reproduced" and "40 problems" in words
    assert claims.peak(np.concatenate([hard, easy]))[0] == "undecided"
