"""The pictures of a study.  Each takes runs and gives a PNG; intervals are 95 %."""

import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dars_jax.evaluation.scores import powers_up_to
from dars_jax.study import loudness as loud
from dars_jax.study.compare import Budget, Study
from dars_jax.study.resampling import Estimate, estimate
from dars_jax.study.runs import Run

logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it reports its font cache
POINTS = 25  # of a curve over the steps


class Picture:
    """A figure with panels in rows, and the PNG it becomes.  Needs no display."""

    def __init__(self, columns: int = 1, rows: int = 1, size: tuple[float, float] = (5.2, 4.0)):
        width, height = size
        self._figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        panels = self._figure.subplots(rows, columns, squeeze=False)
        self.axes: list[Axes] = list(panels.ravel())

    def colorbar(self, image: Any, axes: Axes, label: str) -> None:
        """The scale of an image."""
        self._figure.colorbar(image, ax=axes, label=label)

    def png(self) -> bytes:
        """The whole picture."""
        file = io.BytesIO()
        self._figure.savefig(file, format="png", dpi=110)
        return file.getvalue()


def color_of(index: int) -> Any:
    """Arms keep their colour in every picture: ten strong ones, then ten pale ones."""
    return matplotlib.colormaps["tab20"](2 * (index % 10) + (index // 10) % 2)


def finish(axes: Axes, xlabel: str, ylabel: str, title: str = "") -> None:
    """Labels of a panel, with their units, and a grid."""
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.grid(alpha=0.3)


def legend(axes: Axes, *, beside: bool = False) -> None:
    """Beside the panel where its curves leave no room."""
    if beside:
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1))
    else:
        axes.legend(fontsize=7, framealpha=0.8)


def training_path(
    study: Study, titles: Mapping[str, str], k: int, panels: Mapping[str, Sequence[str]]
) -> bytes:
    """Pass@1 against Pass@k along training; crosses are the intervals of the end.

    Args:
      panels: arms by the title of their panel.
    """
    picture = Picture(len(panels), size=(7, 5.6))
    for axes, (title, arms) in zip(picture.axes, panels.items(), strict=True):
        axes.sharex(picture.axes[0])
        axes.sharey(picture.axes[0])
        _paths(axes, study, titles, k, arms)
        axes.plot([], [], "k*", ms=12, label="base policy")
        finish(axes, f"Pass@{k}, percent of held-out problems", "Pass@1, percent", title)
        legend(axes)
    return picture.png()


def _paths(
    axes: Axes, study: Study, titles: Mapping[str, str], k: int, arms: Sequence[str]
) -> None:
    for i, (arm, mine) in enumerate(study.runs.items()):
        if arm not in arms:
            continue
        x, y = (100 * _over_seeds(mine, j).mean((0, 2)) for j in (k, 1))
        axes.plot(x, y, color=color_of(i), marker="o", ms=2, lw=1.5, label=titles[arm])
        ends = [estimate(_over_seeds(mine, j)[:, -1]) for j in (k, 1)]
        axes.errorbar(x[-1:], y[-1:], xerr=_arms(ends[:1], 100), yerr=_arms(ends[1:], 100),
                      color=color_of(i), marker="s", ms=5, lw=1, capsize=2)  # fmt: skip
        axes.plot(x[:1], y[:1], "k*", ms=12)


def _drawn(points: Sequence[Estimate]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means, lower and upper ends in the order of the points; no end where there is no interval."""
    middle = np.array([e.mean for e in points])
    low, high = np.array([[e.low, e.high] for e in points]).T
    return middle, np.where(np.isinf(low), middle, low), np.where(np.isinf(high), middle, high)


def _arms(points: Sequence[Estimate], scale: float = 1.0) -> np.ndarray:
    """Lengths of error bars, float64[2, points]."""
    middle, low, high = _drawn(points)
    return scale * np.array([middle - low, high - middle])


def _over_seeds(mine: Sequence[Run], k: int) -> np.ndarray:
    """Pass@k float64[seeds, V, P], of the evaluations that all seeds have."""
    fewest = min(len(run.evaluated) for run in mine)
    return np.array([run.pass_at(k)[:fewest] for run in mine])


def pass_at_k(
    study: Study, titles: Mapping[str, str], budgets: Sequence[Budget], bands: Sequence[str]
) -> bytes:
    """Pass@k against k, a panel for each budget; intervals of the arms in `bands`."""
    first = next(iter(study.runs.values()))
    ks = powers_up_to(first[0].num_samples)
    picture = Picture(len(budgets), size=(6, 4.6))
    for axes, budget in zip(picture.axes, budgets, strict=True):
        base = [100 * np.mean([run.pass_at(k)[0] for run in first]) for k in ks]
        axes.plot(ks, base, color="black", ls="--", lw=2, label="base policy")
        for i, arm in enumerate(study.runs):
            if not study.reaches(arm, budget):
                continue
            levels = [study.level(arm, k, budget) for k in ks]
            thick = arm in bands
            axes.plot(ks, [100 * e.mean for e in levels], color=color_of(i), marker="o", ms=2,
                      lw=2.2 if thick else 1, label=titles[arm])  # fmt: skip
            if thick:
                axes.fill_between(ks, [100 * e.low for e in levels],
                                  [100 * e.high for e in levels], color=color_of(i),
                                  alpha=0.15, lw=0)  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks(ks, [str(k) for k in ks])
        finish(axes, "k, answers per problem", "Pass@k, percent", f"after {budget}")
    legend(picture.axes[-1], beside=True)
    return picture.png()


def differences(
    study: Study, titles: Mapping[str, str], budgets: Sequence[Budget], ks: Sequence[int]
) -> bytes:
    """Pass@k less the baseline's, paired, with intervals: a panel for each budget and k."""
    others = list(study.runs)[1:][::-1]
    picture = Picture(len(budgets), len(ks), size=(4.6, 0.9 + 0.28 * len(others)))
    panels = iter(picture.axes)
    for k in ks:
        for budget in budgets:
            axes = next(panels)
            axes.axvline(0, color="black", lw=1)
            for row, arm in enumerate(others):
                if not study.reaches(arm, budget):
                    continue
                e = study.difference(arm, study.baseline, k, budget)
                axes.errorbar(100 * e.mean, row, color=color_of(list(study.runs).index(arm)),
                              xerr=_arms([e], 100), marker="o", ms=4, capsize=2)  # fmt: skip
            axes.set_yticks(range(len(others)), [titles[arm] for arm in others], fontsize=7)
            axes.set_ylim(-0.7, len(others) - 0.3)
            finish(axes, f"Pass@{k} less {titles[study.baseline]}'s, points",
                    "", f"at {budget}")  # fmt: skip
    return picture.png()


def against_cost(study: Study, titles: Mapping[str, str], axis: str, ks: Sequence[int]) -> bytes:
    """Pass@k against what was spent, a panel for each k; bands are intervals."""
    picture = Picture(len(ks), size=(6, 4.6))
    for axes, k in zip(picture.axes, ks, strict=True):
        for i, (arm, mine) in enumerate(study.runs.items()):
            values = _over_seeds(mine, k)
            spent = np.mean([run.spent(axis)[: values.shape[1]] for run in mine], axis=0)
            _band(axes, spent / 1000, values.transpose(1, 0, 2) * 100, i, titles[arm])
        finish(axes, f"thousand {axis}", f"Pass@{k}, percent")
    legend(picture.axes[-1], beside=True)
    return picture.png()


def _band(axes: Axes, x: np.ndarray, values: np.ndarray, index: int, label: str) -> None:
    """A curve over x float[V] of values float[V,seeds,problems], with its intervals."""
    middle, low, high = _drawn([estimate(v) for v in values])
    axes.plot(x, middle, color=color_of(index), lw=1.5, label=label)
    axes.fill_between(x, low, high, color=color_of(index), alpha=0.12, lw=0)


def _mean(values: np.ndarray) -> float:
    """Of the steps that have the metric: one without a signal has no entropy."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else np.nan


CURVES = {
    "entropy": "entropy, nats per token",
    "response_length": "response length, tokens",
    "grad_norm": "norm of the gradient",
}


def training_curves(study: Study, titles: Mapping[str, str]) -> bytes:
    """Entropy, response length and gradient norm against prompts; bands are the range of seeds."""
    picture = Picture(len(CURVES), size=(5, 4.2))
    for axes, (name, label) in zip(picture.axes, CURVES.items(), strict=True):
        for i, (arm, mine) in enumerate(study.runs.items()):
            fewest = min(len(run.steps) for run in mine)
            pieces = np.array_split(np.arange(fewest), min(POINTS, fewest))
            prompts = np.cumsum(mine[0].column("num_prompts"))
            x = np.array([prompts[piece].mean() for piece in pieces]) / 1000
            columns = [run.column(name) for run in mine]
            values = np.array([[_mean(c[piece]) for c in columns] for piece in pieces])
            axes.plot(x, values.mean(1), color=color_of(i), lw=1.5, label=titles[arm])
            axes.fill_between(x, values.min(1), values.max(1), color=color_of(i), alpha=0.12, lw=0)
        finish(axes, "thousand prompts", label)
    legend(picture.axes[-1], beside=True)
    return picture.png()


def steps(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """One run so far: what is solved, what is sampled, and the entropy.

    Args:
      lines: of metrics.jsonl.
    """
    picture = Picture(3, size=(4.2, 3.2))
    panels = (("share of prompts", ("pass_at_1", "solved_none", "solved_all")),
              ("rollouts of a prompt", ("rollouts_per_prompt",)),
              ("entropy, nats per token", ("entropy",)))  # fmt: skip
    for axes, (label, names) in zip(picture.axes, panels, strict=True):
        for i, name in enumerate(names):
            values = [line.get(name) for line in lines]
            axes.plot([line["step"] for line in lines],
                      [np.nan if v is None else v for v in values],
                      color=color_of(i), marker="." if len(lines) < POINTS else "",
                      label=name)  # fmt: skip
        finish(axes, "step", label)
    legend(picture.axes[0])
    return picture.png()


def loudness(accuracy: np.ndarray) -> bytes:
    """Sum of |A| of a prompt, and share of all of it, by accuracy of the base policy."""
    picture = Picture(2, size=(5.6, 4.2))
    each, share = picture.axes
    for i, method in enumerate(loud.METHODS):
        x, points, shares = zip(*loud.by_accuracy(accuracy, method), strict=True)
        each.errorbar(x, _drawn(points)[0], yerr=_arms(points), color=color_of(i), marker="o",
                      ms=3, capsize=2, label=method.title)  # fmt: skip
        width = 0.8 / len(loud.METHODS)
        share.bar(np.arange(len(x)) + i * width - 0.4 + width / 2, 100 * np.array(shares), width,
                  color=color_of(i), label=method.title)  # fmt: skip
        share.set_xticks(range(len(x)), [f"{v:.2f}" for v in x])
    finish(each, "accuracy of the base policy on the prompt", "sum of |advantage| of a prompt")
    finish(share, "accuracy of the base policy, mean of the bin",
            "share of all |advantage|, percent")  # fmt: skip
    legend(share)
    return picture.png()


def top_ups(study: Study, titles: Mapping[str, str]) -> bytes:
    """How many rollouts prompts got, over all steps, and prompts rescued by top-ups."""
    arms = [arm for arm, mine in study.runs.items()
            if mine[0].settings["rollout.schedule"] != "none"]  # fmt: skip
    picture = Picture(2, size=(6, 4.2))
    sizes, rescued = picture.axes
    for i, arm in enumerate(study.runs):
        if arm not in arms:
            continue
        run = study.runs[arm][0]
        counts = total_top_ups(run)
        share = 100 * np.array(list(counts.values())) / sum(counts.values())
        sizes.plot([run.settings["rollout.n_pre"] + n for n in counts], share,
                   color=color_of(i), marker="o", ls=":", lw=1, label=titles[arm])  # fmt: skip
        per = [1000 * r.column("rescued_prompts").sum() / r.column("num_prompts").sum()
               for r in study.runs[arm]]  # fmt: skip
        e = estimate(np.array(per)[:, None])
        rescued.barh(titles[arm], e.mean, color=color_of(i),
                     xerr=_arms([e]), capsize=2)  # fmt: skip
    finish(sizes, "rollouts of a prompt", "percent of prompts, all steps of the first seed")
    finish(rescued, "prompts per 1,000 without a success among N but with one after", "")
    if arms:
        legend(sizes)
    return picture.png()


def total_top_ups(run: Run) -> dict[int, int]:
    """Prompts by number of top-ups, over all steps."""
    total: dict[int, int] = {}
    for line in run.steps:
        for n, count in line["top_up_histogram"].items():
            total[int(n)] = total.get(int(n), 0) + count
    return dict(sorted(total.items()))


def bases(
    studies: Mapping[int, Study],
    titles: Mapping[str, str],
    budget: Budget,
    ks: Sequence[int],
) -> bytes:
    """Gain in Pass@k against the base's Pass@k, for base policies of several strengths."""
    picture = Picture(len(ks), size=(5.2, 4.2))
    arms = dict.fromkeys(arm for study in studies.values() for arm in study.runs)
    for axes, k in zip(picture.axes, ks, strict=True):
        axes.axhline(0, color="black", lw=1)
        for i, arm in enumerate(arms):
            points = []
            for steps, study in studies.items():
                if arm not in study.runs:
                    continue
                before = np.mean([run.pass_at(k)[0] for run in study.runs[arm]])
                points.append((100 * before, study.gain(arm, k, budget), steps))
            gains = [e for _, e, _ in points]
            axes.errorbar([x for x, *_ in points], 100 * _drawn(gains)[0], yerr=_arms(gains, 100),
                          color=color_of(i), marker="o", ms=4, capsize=2,
                          label=titles[arm])  # fmt: skip
            if i == 0:
                for at, _, steps in points:
                    axes.annotate(str(steps), (at, 0), fontsize=7, xytext=(0, 4),
                                  textcoords="offset points", ha="center")  # fmt: skip
        finish(axes, f"Pass@{k} of the base policy, percent", f"gain in Pass@{k}, points",
                "numbers: supervised steps of the base")  # fmt: skip
    legend(picture.axes[0])
    return picture.png()


def by_step(run: Run) -> bytes:
    """How hard prompts were and how many top-ups they got, step by step, as shares of the batch."""
    kinds = [("correct_histogram", "correct among the first N rollouts"),
             ("top_up_histogram", "top-ups of a prompt")]  # fmt: skip
    picture = Picture(2, size=(6, 4.2))
    for axes, (name, label) in zip(picture.axes, kinds, strict=True):
        finish(axes, "step", label)
        lines = [line[name] for line in run.steps if name in line]
        if not lines:
            axes.text(0.5, 0.5, "not recorded when this run was made", ha="center",
                      transform=axes.transAxes)  # fmt: skip
            continue
        values = sorted({int(v) for line in lines for v in line})
        share = np.array([[line.get(str(v), 0) for line in lines] for v in values], float)
        share /= share.sum(0)
        image = axes.imshow(100 * share, aspect="auto", origin="lower", cmap="viridis",
                            interpolation="nearest",
                            extent=(0.5, len(lines) + 0.5, -0.5, len(values) - 0.5))  # fmt: skip
        axes.set_yticks(range(len(values)), [str(v) for v in values])
        axes.grid(False)
        picture.colorbar(image, axes, "percent of prompts")
    return picture.png()
