"""Training as a command; what launch/tpu_run.py does, as a function a notebook can call."""

import contextlib
import json
import os
import time
from pathlib import Path

import jax

from dars_jax import distributed
from dars_jax.commands import cli, startup
from dars_jax.config import ConfigDict, flatten
from dars_jax.evaluation import answering, report, scores
from dars_jax.evaluation.scores import Report
from dars_jax.records import metrics, storage
from dars_jax.records.checkpoint import SaveError
from dars_jax.records.tracker import Tracker, tracking
from dars_jax.setup import build, saved_state
from dars_jax.training import loop
from dars_jax.training.watchdog import Watchdog

SHOWN = (1, 8, 32, 128)  # k of the summary


def train(config: ConfigDict, workdir: Path, processes: distributed.Address | None = None) -> int:
    """Trains, prints a summary on standard output, returns the exit code."""
    with startup.together(processes, workdir), contextlib.ExitStack() as stack:
        watchdog = _watchdog(config, workdir)
        stack.enter_context(watchdog.watching())
        with cli.one_line_errors():
            if distributed.is_first():
                stack.enter_context(cli.alone(workdir, "trainer"))
            config = startup.pinned(config, workdir)
            plan = build.make_plan(config)  # a mistake in it should not begin a run at W&B
            if plan.misfit:
                raise ValueError(plan.misfit)
            log = metrics.Console(0).log
            tracker = stack.enter_context(tracking(config, workdir, log))
        return _train(config, workdir, tracker, watchdog)


def _watchdog(config: ConfigDict, workdir: Path) -> Watchdog:
    """That of this process, which it ends without clearing up."""
    others = f"_{jax.process_index()}" if jax.process_count() > 1 else ""
    return Watchdog(
        60 * config.watchdog.minutes,
        workdir / f"stalled{others}.txt",
        lambda: os._exit(cli.EXIT_STALLED),
    )


def _train(config: ConfigDict, workdir: Path, tracker: Tracker | None, watchdog: Watchdog) -> int:
    begin = time.monotonic()
    parts, console = startup.prepare(config)
    with cli.one_line_errors():
        grader = build.make_grader(parts.plan)
    try:
        with grader, startup.answer_errors():
            with cli.one_line_errors():
                run = loop.Trainer(parts, grader, workdir, console, tracker, watchdog)
            if distributed.is_first():
                settings = json.dumps(flatten(config), indent=2)
                storage.replace(workdir / "config.json", settings + "\n")
            before, after = run.run()
    except FloatingPointError as error:
        cli.fail(str(error), cli.EXIT_DIVERGED)
    except loop.StrangeWeightsError as error:
        cli.fail(str(error), cli.EXIT_STRANGE_WEIGHTS)
    except SaveError as error:
        cli.fail(str(error), cli.EXIT_NOT_SAVED)
    except loop.Stopped as stopped:
        console.log(f"{stopped}; the same command continues from there")
        return stopped.exit_code
    if not distributed.is_first():
        return 0
    watchdog.at("summary", config.train.num_steps)
    print(f"{config.train.num_steps} steps in {(time.monotonic() - begin) / 60:.1f} min")
    print(f"files: {workdir}/metrics.jsonl, {workdir}/eval/, {workdir}/tensorboard/, "
          f"{workdir}/checkpoints/")  # fmt: skip
    _summarize(config, workdir, before, after)
    return 0


def _summarize(config: ConfigDict, workdir: Path, before: Report, after: Report) -> None:
    """Prints what training has changed in Pass@k, and draws it."""
    steps = saved_state.newest(workdir)  # more than were asked for, if it had them already
    n = min(before.num_samples, after.num_samples)
    reports = {"before": before, f"after {steps} steps": after}
    picture = workdir / "pass_at_k.png"
    report.plot(picture, reports, f"{after.num_problems} held-out problems", bands=list(reports))
    old, new = (
        answering.read(workdir / "eval" / f"step_{step:06d}.jsonl", r.num_problems)
        for step, r in ((0, before), (steps, after))
    )
    print(f"picture: {picture}")
    print(f"{after.num_problems} held-out prompts, {after.num_samples} answers each; gains with "
          "95 % intervals, every prompt compared with itself:")  # fmt: skip
    for k in sorted({k for k in SHOWN if k <= n} | {n}):
        g = scores.gain(old, new, k, config.seed)
        low, high = g.interval
        print(f"  Pass@{k:<4} {g.before:.3f} -> {g.after:.3f}  {g.after - g.before:+.3f}  "
              f"({low:+.3f} to {high:+.3f})")  # fmt: skip
    print(f"Pass@1 before {before.pass_at[1]:.3f}, after {after.pass_at[1]:.3f}")
