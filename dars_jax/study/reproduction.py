"""All runs of a reproduction, and the table of what arms have reached."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from dars_jax.study.arms import ARMS, LONG, SHORT, Variant
from dars_jax.study.compare import Budget, Study
from dars_jax.study.page import Table
from dars_jax.study.resampling import Estimate

TITLES = {name: arm.title for name, arm in ARMS.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Reproduction:
    """All runs of a reproduction."""

    main: Study  # the arms, on the standard base policy
    variants: Mapping[Variant, Study]  # what else was run
    axis: str  # of the budget that comes first
    command: str

    @property
    def most(self) -> int:
        """The largest k: answers of each problem."""
        return self.main.runs[self.main.baseline][0].num_samples

    @property
    def sizes(self) -> list[int]:
        """Prompts after which arms are compared, as far as the baseline has come."""
        run = self.main.runs[self.main.baseline][0]
        return [size for size in (SHORT, LONG) if run.reached("prompts", size)]

    def budgets(self, axis: str) -> list[Budget]:
        """What the baseline has spent at each size."""
        return [self.main.budget(axis, size) for size in self.sizes]


def level_table(study: Study, ks: Sequence[int], budget: Budget) -> Table:
    """Levels with half widths of their intervals."""
    rows = []
    first = study.runs[study.baseline]
    base = [f"{np.mean([run.pass_at(k)[0] for run in first]):.3f}" for k in ks]
    rows.append(["base policy", "", "", *base, ""])
    for arm, mine in study.runs.items():
        if not study.reaches(arm, budget):
            rows.append([TITLES[arm], "not as far", *[""] * (len(ks) + 2)])
            continue
        steps = [run.step_at(budget.axis, budget.amount) for run in mine]
        prompts = np.mean(
            [run.column("num_prompts")[:s].sum() for run, s in zip(mine, steps, strict=True)]
        )
        cells = [_with_half(study.level(arm, k, budget)) for k in ks]
        rows.append([TITLES[arm], f"{study.level(arm, 'rollouts', budget).mean:.1f}",
                     f"{prompts:,.0f}", *cells,
                     _with_half(study.level(arm, "entropy", budget))])  # fmt: skip
    header = ["arm", "rollouts/prompt", "prompts", *(f"Pass@{k}" for k in ks), "entropy"]
    return Table(header, rows)


def _with_half(e: Estimate) -> str:
    if math.isinf(e.high):
        return f"{e.mean:.3f}"
    return f"{e.mean:.3f} ±{(e.high - e.low) / 2:.3f}"
