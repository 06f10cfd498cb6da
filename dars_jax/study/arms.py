"""The arms of a study: which configuration, what is changed in it, for how long.

Every arm of a study sees the same prompts in the same order for a seed, evaluates at the same
numbers of prompts, and differs from the others only in what its line says.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from dars_jax.config import ConfigDict

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
        Arm("dars_b_half", "DARS-B, half weights", "dars_b_half.py"),
        Arm("dars_b_maxrl", "DARS-B + MaxRL", "dars_b.py", _MAXRL),
        Arm("ada_b", "Reinforce-Ada", "dars_b.py:ada_positive"),
        Arm("ada_b_maxrl", "Reinforce-Ada + MaxRL", "dars_b.py:ada_positive", _MAXRL),
    )
}  # fmt: skip
PANELS = {  # of the main figure
    "arms of the paper": ("grpo", "depth_naive", "breadth_naive", "dars_et", "dars_hw",
                          "dars_b_et", "dars_b"),
    "more rollouts, weights, both": ("breadth_naive", "dars_b", "breadth_24", "breadth_maxrl",
                                     "breadth_24_maxrl", "dars_b_half", "dars_b_maxrl", "ada_b",
                                     "ada_b_maxrl"),
}  # fmt: skip
QUICK = ("grpo", "depth_naive", "breadth_naive", "dars_b")


@dataclasses.dataclass(frozen=True)
class Variant:
    """What is changed in every arm alike, to see whether an outcome depends on it."""

    name: str  # "" is the standard
    warmup_steps: int = 100  # supervised steps of the base policy
    rate: float = 1.0  # factor of the learning rate
    architecture: str = "countdown"


STANDARD = Variant("")


@dataclasses.dataclass(frozen=True)
class Part:
    """What can be run besides the arms: some of them, in variants, for so many prompts."""

    variants: tuple[Variant, ...]
    arms: tuple[str, ...]
    prompts: int


def _bases(*steps: int) -> tuple[Variant, ...]:
    return tuple(Variant(f"base_{n}", warmup_steps=n) for n in steps)


def _rates(*factors: float) -> tuple[Variant, ...]:
    return tuple(Variant(f"rate_{factor}", rate=factor) for factor in factors)


_MIXES = ("dars_b", "breadth_24_maxrl", "dars_b_half", "dars_b_maxrl")
# eight times the parameters; 60 steps make its base as weak as the standard one
_LARGE = Variant("large", warmup_steps=60, rate=0.5, architecture="countdown-8x")
ALSO = {
    "bases": Part(_bases(60, 120, 150, 300),
                  ("grpo", "dars_b", "breadth_24_maxrl", "dars_b_half"), SHORT),
    "rates": Part(_rates(0.5, 2.0),
                  ("grpo", "breadth_naive", "breadth_24", *_MIXES, "ada_b_maxrl"), SHORT),
    "breadth": Part(_rates(0.25, 0.5), ("grpo", "breadth_naive"), LONG),
    "strong": Part(_bases(150), _MIXES, LONG),
    "large": Part((_LARGE,), ("grpo", "breadth_naive", *_MIXES), SHORT),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Trial:
    """An arm with a seed, for a number of prompts: one run."""

    arm: Arm
    seed: int
    prompts: int
    variant: Variant = STANDARD

    @property
    def directory(self) -> str:
        """Below the working directory of the study."""
        variant = f"-{self.variant.name}" if self.variant.name else ""
        return f"{self.arm.name}{variant}/seed_{self.seed}"

    def overrides(self, config: ConfigDict) -> dict[str, Any]:
        """What the run changes in the arm's configuration: {"section.key": value}."""
        steps = lambda prompts: prompts // config.rollout.num_prompts  # noqa: E731
        return self.arm.changes | {
            "seed": self.seed,
            "policy.architecture": self.variant.architecture,
            "policy.warmup_steps": self.variant.warmup_steps,
            "optimizer.learning_rate": config.optimizer.learning_rate * self.variant.rate,
            "train.num_steps": steps(self.prompts),
            "eval.every": steps(EVALUATE_EVERY),
            "checkpoint.every": steps(CHECKPOINT_EVERY),
        }


def trials(names: Sequence[str], seeds: int, prompts: int, also: Mapping[str, int]) -> list[Trial]:
    """All arms for a seed before the next seed, then the parts likewise, no run twice.

    Args:
      also: how many seeds of which part of ALSO; of its arms, those in `names`.
    """
    out = [Trial(ARMS[name], seed, prompts) for seed in range(seeds) for name in names]
    for name, part_seeds in also.items():
        part = ALSO[name]
        out += [
            Trial(ARMS[arm], seed, part.prompts, variant)
            for seed in range(part_seeds)
            for variant in part.variants
            for arm in part.arms
            if arm in names
        ]
    longest: dict[str, Trial] = {}
    for trial in out:  # a shorter run is the beginning of a longer one
        there = longest.get(trial.directory, trial)
        longest[trial.directory] = max(trial, there, key=lambda t: t.prompts)
    return list(longest.values())
