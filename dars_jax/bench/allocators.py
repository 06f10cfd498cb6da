"""Allocators side by side: what each does with one budget, and how long it takes to decide."""

import argparse
import dataclasses
import functools
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dars_jax import objective
from dars_jax.allocator import ALLOCATORS, allocate, expected, pull
from dars_jax.bench.work import show, timed

BINS = 5  # of accuracy, of equal width
_POINTS = 200  # of accuracy, where the distribution is a formula


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """How many prompts of which accuracy there are, and how long their answers."""

    accuracy: np.ndarray  # float64[prompts]
    share: np.ndarray  # float64[prompts], sums to 1
    right_tokens: np.ndarray | None  # float64[prompts], mean length of a right answer
    wrong_tokens: np.ndarray | None


def difficulty(source: str) -> Difficulty:
    """`beta:a,b`, or the answers that an evaluation left: JSON lines with uid, reward, length."""
    if source.startswith("beta:"):
        a, b = (float(x) for x in source.removeprefix("beta:").split(","))
        fine = (np.arange(100 * _POINTS) + 0.5) / (100 * _POINTS)
        density = (fine ** (a - 1) * (1 - fine) ** (b - 1)).reshape(_POINTS, 100).sum(1)
        middle = (np.arange(_POINTS) + 0.5) / _POINTS
        return Difficulty(middle, density / density.sum(), None, None)
    answers: defaultdict[Any, list[tuple[float, int]]] = defaultdict(list)
    with Path(source).open() as file:
        for line in map(json.loads, file):
            answers[line["uid"]].append((line["reward"], line["length"]))
    tables = [np.array(mine, float) for mine in answers.values()]
    of = [(t[:, 0].mean(), _mean(t, t[:, 0] > 0.5), _mean(t, t[:, 0] <= 0.5)) for t in tables]
    accuracy, right, wrong = np.array(of).T
    return Difficulty(accuracy, np.full(len(accuracy), 1 / len(accuracy)), right, wrong)


def _mean(table: np.ndarray, which: np.ndarray) -> float:
    """Mean length of some answers to a problem, or of all where there are none of these."""
    return float(table[which if which.any() else slice(None), 1].mean())


def compare(
    name: str, d: Difficulty, *, num_pre: int, n_max: int, budget: float, num_stages: int = 2
) -> dict[str, Any]:
    """What an allocator does with `budget` further rollouts per prompt, in closed form.

    A prompt is one that was drawn first: dynamic sampling spends the budget on others of the same
    kind, num_pre rollouts each, and what they bring is counted for the first.
    """
    replaces = name == "dapo"
    stages = 0 if replaces else num_stages - 1
    groups = expected.final_groups(
        name, d.accuracy, d.share, num_pre=num_pre, n_max=n_max,
        budgets=(budget / max(stages, 1),) * stages,
    )  # fmt: skip
    times = 1 + budget / num_pre if replaces else 1.0
    loud = np.asarray(objective.cumulative_advantage(groups.correct, groups.sampled))
    mean_pull = groups.mean(loud) * d.share
    bins = np.minimum((d.accuracy * BINS).astype(int), BINS - 1)
    rollouts = times * float(groups.rollouts @ d.share)
    useful = times * float(groups.useful @ d.share)
    tokens = None
    if d.right_tokens is not None and d.wrong_tokens is not None:
        right, wrong = groups.mean(groups.correct), groups.mean(groups.sampled - groups.correct)
        tokens = times * float((right * d.right_tokens + wrong * d.wrong_tokens) @ d.share)
    return {
        "what": "allocator",
        "name": name,
        "rollouts_per_prompt": rollouts,
        "useful_groups": useful / times,
        "useful_per_1000_rollouts": 1000 * useful / rollouts,
        "rescued_prompts": float(groups.rescued @ d.share),
        "pull_by_accuracy": (np.bincount(bins, mean_pull, BINS) / mean_pull.sum()).tolist(),
        "tokens_per_prompt": tokens,
    }


def compare_splits(
    target: str, d: Difficulty, sampling: float, *, rollouts: float, n_max: int
) -> dict[str, Any]:
    """Noise over signal of the whole gradient, where accuracies are known, at equal rollouts.

    A policy with one logit per prompt, all pushed alike.  Groups have N f^s rollouts, at least 2
    and at most n_max, with the N that costs `rollouts` per prompt; the weight supplies the rest of
    the target, so the direction of the expected gradient is nearly the same for every split.
    """
    inner = (d.accuracy > 0) & (d.accuracy < 1)
    p, share = d.accuracy[inner], d.share[inner] / d.share[inner].sum()
    factor = np.asarray(pull.split(target, p, 1, sampling=1.0)[0], np.float64)
    low, high = 0.0, float(n_max) / factor.min() ** sampling
    for _ in range(60):
        middle = (low + high) / 2
        n = np.clip(middle * factor**sampling, 2, n_max)
        low, high = (middle, high) if n @ share < rollouts else (low, middle)
    weight = factor / n
    mean, variance = (np.asarray(x, np.float64) for x in pull.gradient_moments(p, n, weight))
    return {
        "what": "split",
        "target": target,
        "sampling": sampling,
        "rollouts_per_prompt": float(n @ share),
        "largest_group": float(n.max()),
        "noise_over_signal": float(np.sqrt(variance @ share) / (mean @ share)),
    }


def bench_allocators(args: argparse.Namespace) -> None:
    """Every allocator, then every split of a target pull, at one budget."""
    d = difficulty(args.difficulty)
    sizes = {"num_pre": args.n_pre, "n_max": args.n_max}
    rows = [
        compare(name, d, budget=args.budget, num_stages=args.stages, **sizes) for name in ALLOCATORS
    ]
    splits = [
        compare_splits(target, d, s, rollouts=args.n_pre + args.budget, n_max=args.n_max)
        for target in ("maxrl", "et", "grpo_std")
        for s in (0.0, 0.5, 1.0)
    ]
    if args.markdown:
        print(_table(rows))
        print()
        print(_split_table(splits))
    else:
        for row in [*rows, *splits]:
            show(row)


def _table(rows: list[dict[str, Any]]) -> str:
    edges = " ".join(f"{100 * i // BINS}–{100 * (i + 1) // BINS}" for i in range(BINS))
    known = rows[0]["tokens_per_prompt"] is not None
    lines = [
        "| allocator | rollouts / prompt | useful groups | useful / 1,000 rollouts | rescued "
        f"| share of pull at accuracy {edges} % |" + " tokens / prompt |" * known,
        "|---|---|---|---|---|---|" + "---|" * known,
    ]
    for r in rows:
        share = " ".join(f"{100 * x:.0f}" for x in r["pull_by_accuracy"])
        tokens = f" {r['tokens_per_prompt']:.0f} |" if known else ""
        lines.append(
            f"| `{r['name']}` | {r['rollouts_per_prompt']:.1f} | {100 * r['useful_groups']:.1f} % "
            f"| {r['useful_per_1000_rollouts']:.1f} | {100 * r['rescued_prompts']:.1f} % "
            f"| {share} |{tokens}"
        )
    return "\n".join(lines)


def _split_table(splits: list[dict[str, Any]]) -> str:
    lines = [
        "| target | split s | rollouts / prompt | largest group | noise / signal |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| `{r['target']}` | {r['sampling']} | {r['rollouts_per_prompt']:.1f} "
        f"| {r['largest_group']:.1f} | {r['noise_over_signal']:.2f} |"
        for r in splits
    ]
    return "\n".join(lines)


# How long a decision takes.


def by_loop(correct: list[int], sampled: int, n_max: int) -> list[int]:
    """DARS-HW prompt by prompt in Python, as trainers do that handle one prompt at a time."""
    more = []
    for k in correct:
        accuracy = max(k, 0.5) / sampled
        total = sampled * (1 - accuracy) / (2 * accuracy * (1 - accuracy)) if 2 * k < sampled else 0
        more.append(max(min(math.ceil(total), n_max) - sampled, 0))
    return more


def by_numpy(correct: np.ndarray, sampled: int, n_max: int) -> np.ndarray:
    """The same over an array."""
    total = -(-(sampled**2) // np.maximum(2 * correct, 1))
    more = np.maximum(np.minimum(total, n_max) - sampled, 0)
    return np.where(2 * correct < sampled, more, 0)


def _decided(run: Callable[[jax.Array], jax.Array], counts: jax.Array) -> None:
    run(counts).block_until_ready()


def decisions(prompts: int) -> dict[tuple[str, str], Callable[[], Any]]:
    """(allocator, how it is run) -> a call that decides on the top-ups of so many prompts.

    Counts are already where they are needed.  The first is a loop, the second numpy.
    """
    counts = np.random.default_rng(0).integers(0, 9, prompts).astype(np.int32)
    on_device, as_list = jax.device_put(counts), counts.tolist()
    ways: dict[tuple[str, str], Callable[[], Any]] = {
        ("hw", "python loop"): lambda: by_loop(as_list, 8, 64),
        ("hw", "numpy"): lambda: by_numpy(counts, 8, 64),
    }
    for name in ("hw", *ALLOCATORS):
        budget = 8 * prompts if ("hw", "jitted") in ways else None
        run = jax.jit(functools.partial(allocate, name, num_sampled=8, n_max=64, budget=budget))
        way = "jitted" if budget is None else "jitted, within a budget"
        ways[name, way] = functools.partial(_decided, run, on_device)
    return ways


def bench_allocate(args: argparse.Namespace) -> None:
    """Top-ups for 3,072 and a million prompts."""
    for prompts in (3072, 10**6):
        for (name, way), run in decisions(prompts).items():
            first = timed(run)
            seconds = [timed(run) for _ in range(max(args.repeats, 5))]
            show({
                "what": "allocate", "allocator": name, "how": way, "prompts": prompts,
                "first_s": round(first, 3), "seconds_median": statistics.median(seconds),
            })  # fmt: skip
