"""The arms of a study: which configuration, what is changed in it, for how long.

Every arm of a study sees the same prompts in the same order for a seed, evaluates at the same
numbers of prompts, and differs from the others only in what its line says.
"""

import dataclasses
from collections.abc import Sequence
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
        Arm("dars_b_half", "half DARS-B, half weights", "dars_b.py:hw_half",
            {"objective.advantage": "ada_est"}),
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
# What can be run besides the arms: variants, and the arms that are run in them, for SHORT prompts.
_SPLITS = ("breadth_naive", "dars_b", "breadth_24", "breadth_24_maxrl", "dars_b_maxrl",
           "dars_b_half", "ada_b_maxrl")  # fmt: skip
ALSO: dict[str, tuple[tuple[Variant, ...], tuple[str, ...]]] = {
    "bases": (
        tuple(Variant(f"base_{n}", warmup_steps=n) for n in (60, 120, 150, 300)),
        ("grpo", "dars_b", "breadth_24_maxrl", "dars_b_half"),
    ),
    "rates": (
        tuple(Variant(f"rate_{factor}", rate=factor) for factor in (0.5, 2.0)),
        _SPLITS,
    ),
    # eight times the parameters; 60 steps make its base as weak as the standard one
    "large": (
        (Variant("large", warmup_steps=60, rate=0.5, architecture="countdown-8x"),),
        ("grpo", "dars_b", "breadth_24_maxrl", "dars_b_half", "dars_b_maxrl"),
    ),
}


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


def trials(names: Sequence[str], seeds: int, prompts: int, also: Sequence[str]) -> list[Trial]:
    """All arms for a seed before the next seed, then the variants likewise."""
    out = [Trial(ARMS[name], seed, prompts) for seed in range(seeds) for name in names]
    for part in also:
        variants, arms = ALSO[part]
        out += [Trial(ARMS[name], seed, SHORT, variant)
                for seed in range(seeds) for variant in variants for name in arms]  # fmt: skip
    return out
