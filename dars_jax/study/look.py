"""A page about any runs of a user's own: curves, Pass@k, difficulty, top-ups, sample answers."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from dars_jax.study import figures, runs
from dars_jax.study.compare import KS, Budget, Study
from dars_jax.study.page import Block, Figure, Heading, Table, Text, Verbatim
from dars_jax.study.resampling import estimate
from dars_jax.study.runs import Run

SHOWN = 3  # prompts of each class, and answers of each prompt


@dataclasses.dataclass(frozen=True)
class _Answered:
    """A held-out problem with its answers before and after."""

    problem: str
    before: int  # right ones
    after: int
    samples: tuple[dict, ...]  # some answers after


def blocks(workdirs: Mapping[str, Path]) -> list[Block]:
    """The page, for runs by the names that legends give them.

    Raises:
      ValueError: a directory holds no run, or runs were asked different problems.
    """
    found = {name: runs.read(path) for name, path in workdirs.items()}
    shapes = {name: (run.correct.shape[1], run.num_samples) for name, run in found.items()}
    if len(set(shapes.values())) > 1:
        said = ", ".join(f"{name}: {p} x {n}" for name, (p, n) in shapes.items())
        raise ValueError(f"runs with different held-out problems or answers to them: {said}")
    titles = {name: name for name in found}
    study = Study({name: (run,) for name, run in found.items()})
    (problems, n) = next(iter(shapes.values()))
    out: list[Block] = [
        Heading("A look at " + ", ".join(found), 1),
        Text(f"{problems} held-out problems x {n} answers; intervals are 95 %, by bootstrap over "
             "problems."),
        _gains(found),
        *_common(study, titles, n),
    ]  # fmt: skip
    for name, path in workdirs.items():
        out += _single(name, path, found[name])
    return out


def _gains(found: Mapping[str, Run]) -> Table:
    rows = []
    for name, run in found.items():
        ks = sorted({k for k in KS if k <= run.num_samples} | {run.num_samples})
        for k in ks:
            before, after = run.pass_at(k)[[0, -1]]
            gain = estimate((after - before)[None])
            rows.append([name, f"Pass@{k}", f"{before.mean():.3f}", f"{after.mean():.3f}",
                         str(gain)])  # fmt: skip
    return Table(["run", "", "before", "after", "gain, every problem with itself"], rows)


def _common(study: Study, titles: Mapping[str, str], k: int) -> list[Block]:
    last = study.common("prompts", *study.runs)
    return [
        Figure("pass_at_k", figures.pass_at_k(study, titles, [last], list(study.runs)[:3]),
               "Pass@k before (dashed, of the first run) and after, with intervals. A curve that "
               "ends below the dashed one has lost breadth."),
        Figure("training_path", figures.training_path(study, titles, k, {"": list(study.runs)}),
               f"Pass@1 against Pass@{k} at every evaluation; crosses are intervals at the end. "
               "More evaluations (eval.every) make it a path."),
        Figure("against_cost", figures.against_cost(study, titles, "rollouts", (1, k)),
               "The same against rollouts spent."),
        Figure("training_curves", figures.training_curves(study, titles),
               "Entropy, response length and norm of the gradient. Entropy that falls early is "
               "breadth that is gone; a response length near the limit is truncated answers."),
    ]  # fmt: skip


def _single(name: str, workdir: Path, run: Run) -> list[Block]:
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
    total = Budget("prompts", float(run.spent("prompts")[-1]))
    column = run.column
    return [
        Heading(name),
        Text(f"{workdir}: {total}, {column('num_rollouts').sum():,.0f} rollouts, "
             f"{column('tokens').sum():,.0f} tokens, {column('rescued_prompts').sum():,.0f} "
             "prompts rescued by top-ups (no success among the first N rollouts, one after)."),
        Figure(f"by_step_{safe}", figures.by_step(run),
               "Left: how many of the first N rollouts of a prompt were correct, step by step. "
               "Right: the top-ups this brought it. Learning moves the left picture up; a bright "
               "lowest row stays unsolved."),
        *_samples(workdir, run),
    ]  # fmt: skip


def _samples(workdir: Path, run: Run) -> Iterator[Block]:
    """Answers to easy, hard and rescued held-out problems."""
    before, after = run.correct[0], run.correct[-1]
    classes = {
        "solved most often": np.argsort(-after, kind="stable"),
        "hardest of those that are solved at all": np.argsort(
            np.where(after > 0, after, run.num_samples + 1), kind="stable"
        )[: np.sum(after > 0)],
        "rescued: never solved before training, most often after": np.argsort(
            np.where(before == 0, -after, 1), kind="stable"
        )[: np.sum((before == 0) & (after > 0))],
        "lost: solved before training, never after": np.argsort(
            np.where(after == 0, -before, 1), kind="stable"
        )[: np.sum((before > 0) & (after == 0))],
    }
    lines = _lines(workdir, run)
    for title, order in classes.items():
        yield Heading(f"Held-out problems {title}", 3)
        if not len(order):
            yield Text("There is none.")
        for p in order[:SHOWN]:
            mine = lines[p * run.num_samples : (p + 1) * run.num_samples]
            yield Text(f"right before: {before[p]} of {run.num_samples}; after: {after[p]}")
            yield Verbatim("\n".join([str(mine[0]["problem"]), "", *_few(mine)]))


def _few(lines: list[dict]) -> Iterator[str]:
    """The first right and the first wrong answers, each different from the others."""
    for right in (True, False):
        said = dict.fromkeys(x["response"] for x in lines if (x["verdict"] == "correct") == right)
        for response in list(said)[:SHOWN]:
            yield f"{'right' if right else 'wrong'}: {response}"


def _lines(workdir: Path, run: Run) -> list[dict]:
    with runs.answers(workdir, int(run.evaluated[-1])).open() as file:
        return [json.loads(line) for line in file]
