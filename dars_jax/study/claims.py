"""The paper's claims, decided from intervals by code.

A condition compares a measure of two arms and is met, contradicted or neither:

    "more"      met if the whole interval of the difference lies above 0, contradicted if below
    "not_more"  met if it lies below MARGIN, contradicted if above 0
    "not_less"  met if it lies above -MARGIN, contradicted if below 0

A claim is reproduced if all its conditions are met, not reproduced if one is contradicted, and
undecided otherwise.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from dars_jax.study import loudness
from dars_jax.study.compare import Budget, Measure, Study
from dars_jax.study.resampling import Estimate, estimate

MARGIN = 0.02  # 2 points of Pass@k: less is called no difference
VERDICTS = {True: "reproduced", False: "not reproduced", None: "undecided"}


@dataclasses.dataclass(frozen=True)
class Condition:
    """What the difference arm - other must be."""

    arm: str
    kind: str
    other: str
    measure: Measure

    def judge(self, difference: Estimate) -> bool | None:
        """Met, contradicted, or neither."""
        low, high = difference.low, difference.high
        if self.kind == "more":
            return True if low > 0 else (False if high < 0 else None)
        if self.kind == "not_more":
            return False if low > 0 else (True if high < MARGIN else None)
        return False if high < 0 else (True if low > -MARGIN else None)

    def __str__(self) -> str:
        sign = {"more": ">", "not_more": "≤", "not_less": "≥"}[self.kind]
        what = f"Pass@{self.measure}" if isinstance(self.measure, int) else self.measure
        return f"{what}: {self.arm} {sign} {self.other}"


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of the paper and what it says about arms here."""

    text: str
    conditions: tuple[Condition, ...]


CLAIMS = (
    Claim(
        "Depth-Naive (32 rollouts for every prompt) does not raise Pass@K over GRPO",
        (Condition("depth_naive", "not_more", "grpo", 128),),
    ),
    Claim(
        "DARS raises Pass@K over GRPO, with no more rollouts than Depth-Naive",
        (
            Condition("dars_et", "more", "grpo", 128),
            Condition("dars_hw", "more", "grpo", 128),
            Condition("depth_naive", "more", "dars_hw", "rollouts"),
        ),
    ),
    Claim(
        "HW is at least as good as ET in Pass@K",
        (
            Condition("dars_hw", "not_less", "dars_et", 128),
            Condition("dars_b", "not_less", "dars_b_et", 128),
        ),
    ),
    Claim(
        "Breadth raises Pass@1 and keeps entropy",
        (
            Condition("breadth_naive", "more", "grpo", 1),
            Condition("breadth_naive", "more", "grpo", "entropy"),
        ),
    ),
    Claim(
        "DARS-B gains in both Pass@1 and Pass@K",
        (Condition("dars_b", "more", "grpo", 1), Condition("dars_b", "more", "grpo", 128)),
    ),
)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What the runs say about a claim at a budget."""

    verdict: str  # of VERDICTS, or "no runs" where an arm is missing or has not come so far
    evidence: tuple[tuple[Condition, Estimate, bool | None], ...]


def decide(study: Study, claim: Claim, budget: Budget) -> Finding:
    """The verdict on a claim when every arm has spent the same."""
    evidence = []
    for condition in claim.conditions:
        if condition.measure == "rollouts" and budget.axis != "prompts":
            continue  # nobody has more of them than the budget
        if not all(study.reaches(arm, budget) for arm in (condition.arm, condition.other)):
            return Finding("no runs", ())
        difference = study.difference(condition.arm, condition.other, condition.measure, budget)
        evidence.append((condition, difference, condition.judge(difference)))
    said = [verdict for *_, verdict in evidence]
    whole = False if False in said else (None if None in said else True)
    return Finding(VERDICTS[whole], tuple(evidence))


MEDIUM, HARD, EASY = (0.4, 0.6), 0.1, 0.9
PEAK = "GRPO's cumulative advantage peaks at prompts of medium accuracy"


def peak(accuracy: np.ndarray) -> tuple[str, str]:
    """Verdict on PEAK, and the pull of hard, medium and easy prompts in words.

    Args:
      accuracy: float64[P], of the base policy on the held-out problems.
    """
    loud = loudness.pull(accuracy, loudness.METHODS[0])
    masks = {
        f"accuracy up to {HARD}": accuracy <= HARD,
        f"{MEDIUM[0]} to {MEDIUM[1]}": (accuracy >= MEDIUM[0]) & (accuracy <= MEDIUM[1]),
        f"{EASY} and above": accuracy >= EASY,
    }
    there = {name: estimate(loud[mask][None]) for name, mask in masks.items() if mask.any()}
    words = "; ".join(
        f"{name}: {e.mean:.2f} ({e.low:.2f} to {e.high:.2f}), {masks[name].sum()} problems"
        for name, e in there.items()
    )
    medium = there.pop(f"{MEDIUM[0]} to {MEDIUM[1]}", None)
    if medium is None or not there:
        return VERDICTS[None], words
    below = [e.high < medium.low for e in there.values()]
    above = [e.low > medium.high for e in there.values()]
    return VERDICTS[False if any(above) else (True if all(below) else None)], words


@dataclasses.dataclass(frozen=True)
class Question:
    """Two arms whose comparison nobody has published."""

    text: str
    arm: str
    other: str


QUESTIONS = (
    Question("Where the rollouts go: DARS-B against as many for every prompt",
             "dars_b", "breadth_24"),
    Question("The same pull by sampling (DARS-B) or by weighting (MaxRL), 8 rollouts a prompt",
             "dars_b", "breadth_maxrl"),
    Question("The same pull by sampling (DARS-B) or by weighting (MaxRL), 24 rollouts a prompt",
             "dars_b", "breadth_24_maxrl"),
    Question("Half by sampling and half by weighting, or all by weighting",
             "dars_b_half", "breadth_24_maxrl"),
    Question("What adaptive sampling adds to weights", "dars_b_maxrl", "breadth_24_maxrl"),
    Question("What rescue alone (Reinforce-Ada) adds to weights",
             "ada_b_maxrl", "breadth_24_maxrl"),
    Question("Weighted: DARS-B or Reinforce-Ada", "dars_b_maxrl", "ada_b_maxrl"),
    Question("Unweighted: DARS-B or Reinforce-Ada", "dars_b", "ada_b"),
)  # fmt: skip


def winner(question: Question, difference: Estimate) -> str:
    """Name of the better arm, if the interval of arm - other says so."""
    if difference.low > 0:
        return question.arm
    return question.other if difference.high < 0 else "undecided"


MIXED = "dars_b"
MIXES = ("breadth_24_maxrl", "dars_b_half", "dars_b_maxrl")  # what might be better than MIXED


def overall(differences: Sequence[Estimate]) -> str:
    """Of differences at several k: "wins", "loses", "trades", or "undecided" if all hold 0."""
    better = any(e.low > 0 for e in differences)
    worse = any(e.high < 0 for e in differences)
    if better and worse:
        return "trades"
    return "wins" if better else "loses" if worse else "undecided"
