"""The arms of a study: which configuration, what is changed in it, for how long.

Every arm of a study sees the same prompts in the same order for a seed, evaluates at the same
numbers of prompts, and differs from the others only in what its line says.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

AXES = ("prompts", "rollouts", "tokens")  # what a run may be said to have cost
SHORT, LONG = 6_400, 25_600  # prompts after which arms are compared
EVALUATE_EVERY = 1_280  # prompts
CHECKPOINT_EVERY = 6_400  # prompts


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way of training."""

    name: str
    title: str  # in tables and legends
    config: str  # file below configs/, with its argument
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)  # {"section.key": value}


_N24 = {"rollout.n_pre": 24, "rollout.n_max": 24}
_MAXRL = {"objective.advantage": "maxrl"}
ARMS = {
    arm.name: arm
    for arm in (
        Arm("grpo", "GRPO", "grpo.py"),
        Arm("depth_naive", "Depth-Naive", "depth_naive.py"),
        Arm("breadth_naive", "Breadth-Naive", "breadth_naive.py"),
        Arm("dars_et", "DARS-ET", "dars_et.py"),
        Arm("dars_hw", "DARS-HW", "dars_hw.py"),
        Arm("dars_b_et", "DARS-B (ET)", "dars_b.py:et"),
        Arm("dars_b", "DARS-B (HW)", "dars_b.py"),
        Arm("breadth_24", "Breadth, n 24", "breadth_naive.py", _N24),
        Arm("breadth_maxrl", "Breadth + MaxRL", "breadth_naive.py", _MAXRL),
        Arm("breadth_24_maxrl", "Breadth, n 24 + MaxRL", "breadth_naive.py", _N24 | _MAXRL),
        Arm("dars_b_half", "half DARS-B, half weights", "dars_b.py:hw_half",
            {"objective.advantage": "ada_est"}),
        Arm("dars_b_maxrl", "DARS-B + MaxRL", "dars_b.py", _MAXRL),
        Arm("ada_b", "Reinforce-Ada", "dars_b.py:ada_positive"),
        Arm("ada_b_maxrl", "Reinforce-Ada + MaxRL", "dars_b.py:ada_positive", _MAXRL),
    )
}  # fmt: skip
QUICK = ("grpo", "depth_naive", "breadth_naive", "dars_b")
BASES = (60, 100, 120, 150, 300)  # supervised steps of the base policy
BASE_ARMS = ("grpo", "dars_b")
STANDARD_BASE = 100
ALSO = ("bases",)  # what can be run besides the arms


@dataclasses.dataclass(frozen=True)
class Trial:
    """An arm with a seed, for a number of prompts: one run."""

    arm: Arm
    seed: int
    prompts: int
    base: int = STANDARD_BASE

    @property
    def directory(self) -> str:
        """Below the working directory of the study."""
        base = "" if self.base == STANDARD_BASE else f"-base_{self.base}"
        return f"{self.arm.name}{base}/seed_{self.seed}"

    def overrides(self, prompts_per_step: int) -> dict[str, Any]:
        """What the run changes in the arm's configuration: {"section.key": value}."""
        steps = lambda prompts: prompts // prompts_per_step  # noqa: E731
        return self.arm.changes | {
            "seed": self.seed,
            "policy.warmup_steps": self.base,
            "train.num_steps": steps(self.prompts),
            "eval.every": steps(EVALUATE_EVERY),
            "checkpoint.every": steps(CHECKPOINT_EVERY),
        }


def main_trials(names: Sequence[str], seeds: int, prompts: int) -> list[Trial]:
    """All arms for a seed before the next seed, so that what is there can be compared."""
    return [Trial(ARMS[name], seed, prompts) for seed in range(seeds) for name in names]


def base_trials(seeds: int) -> list[Trial]:
    """Weaker and stronger base policies; those of the standard base belong to the main arms."""
    bases = [base for base in BASES if base != STANDARD_BASE]
    return [
        Trial(ARMS[name], seed, SHORT, base)
        for seed in range(seeds) for base in bases for name in BASE_ARMS
    ]  # fmt: skip
