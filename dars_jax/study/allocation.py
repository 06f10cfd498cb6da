"""Pictures of allocators: what they ask for, whom they let be heard, and at which price in noise.

All in closed form, for prompts whose accuracy p is known; nothing is sampled.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dars_jax.allocator.expected import final_groups
from dars_jax.study import loudness
from dars_jax.study.figures import Picture, color_of, finish, legend

ACCURACY = np.linspace(0.005, 0.995, 100)  # p of the curves
_BINS = ("0–20 %", "20–40 %", "40–60 %", "60–80 %", "80–100 %")


def rollouts(
    schedules: Sequence[str], *, num_pre: int = 8, n_max: int = 64, budget: float | None = None
) -> bytes:
    """Expected rollouts of a prompt after one stage of top-ups, by its accuracy.

    Args:
      schedules: names in ALLOCATORS.
      num_pre: N.
      n_max: cap on a group.
      budget: top-ups per prompt, shared among prompts of all accuracies alike; None is what
        prompts ask for.
    """
    everyone = np.full(len(ACCURACY), 1 / len(ACCURACY))
    picture = Picture(size=(7.5, 4.5))
    (axes,) = picture.axes
    for i, name in enumerate(schedules):
        groups = final_groups(name, ACCURACY, everyone, num_pre=num_pre, n_max=n_max,
                              budgets=(budget,))  # fmt: skip
        axes.plot(100 * ACCURACY, groups.rollouts, color=color_of(i), label=name)
    asked = "as prompts ask" if budget is None else f"{budget:g} more per prompt to share"
    finish(axes, "accuracy of the prompt, percent", "expected rollouts of the prompt",
           f"N = {num_pre}, at most {n_max}, {asked}")  # fmt: skip
    legend(axes, beside=True)
    return picture.png()


def pulls(methods: Sequence[loudness.Method] = loudness.METHODS) -> bytes:
    """Sum of |advantage| of a group by the accuracy of its prompt: before and after top-ups.

    Left by how much, right as a share of all, for prompts of all accuracies alike.
    """
    picture = Picture(2, size=(6, 4.2))
    much, share = picture.axes
    for i, method in enumerate(methods):
        values = loudness.pull(ACCURACY, method)
        much.plot(100 * ACCURACY, values, color=color_of(i), label=method.title)
        share.plot(100 * ACCURACY, 100 * np.cumsum(values) / values.sum(), color=color_of(i))
    finish(much, "accuracy of the prompt, percent", "sum of |advantage| of its group")
    finish(share, "accuracy of the prompt, percent", "percent of all pull, up to this accuracy")
    legend(much)
    return picture.png()


def before_and_after(method: loudness.Method) -> bytes:
    """The same for one method: the first N rollouts alone, and with its top-ups and weights."""
    alone = dataclasses.replace(method, title=f"first {method.n_pre} rollouts", schedule="none",
                                advantage="mean")  # fmt: skip
    return pulls((alone, method))


def at_one_budget(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Allocators at equal rollouts: useful groups, rescued prompts, whom they hear.

    Args:
      rows: what `dars_jax.bench.allocators.compare` gives for each.
    """
    names = [row["name"] for row in rows]
    picture = Picture(3, size=(4.5, 0.32 * len(rows) + 1.4))
    useful, rescued, heard = picture.axes
    for axes, key in ((useful, "useful_groups"), (rescued, "rescued_prompts")):
        axes.barh(names, [100 * row[key] for row in rows], color=color_of(0))
        axes.invert_yaxis()
    finish(useful, "groups with right and wrong rollouts, percent", "")
    finish(rescued, "prompts rescued, percent", "")
    left = np.zeros(len(rows))
    for i, title in enumerate(_BINS):
        part = np.array([100 * row["pull_by_accuracy"][i] for row in rows])
        heard.barh(names, part, left=left, color=color_of(i), label=title)
        left += part
    heard.invert_yaxis()
    finish(heard, "percent of all pull, by accuracy of the prompt", "")
    legend(heard, beside=True)
    return picture.png()


def noise(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Noise of the gradient by how much of a pull is bought by rollouts, at equal rollouts.

    Args:
      rows: what `dars_jax.bench.allocators.compare_splits` gives for each target and split.
    """
    picture = Picture(size=(6, 4.2))
    (axes,) = picture.axes
    for i, target in enumerate(dict.fromkeys(row["target"] for row in rows)):
        mine = [row for row in rows if row["target"] == target]
        axes.plot([100 * row["sampling"] for row in mine],
                  [row["noise_over_signal"] for row in mine],
                  color=color_of(i), marker="o", label=target)  # fmt: skip
    finish(axes, "percent of the pull bought by rollouts, the rest by weights",
           "noise of a prompt's gradient over its signal")  # fmt: skip
    legend(axes)
    return picture.png()
