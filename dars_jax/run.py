"""What the launch scripts do, as functions a notebook can call."""

import json
import logging
import os
import sys
import time
from pathlib import Path

import jax

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # tensorflow comes along with jetstream and clu

from dars_jax import build, cli, metrics, trainer
from dars_jax import evaluate as evaluate_lib
from dars_jax.checkpoint import Checkpoints
from dars_jax.config import ConfigDict, cache_dir, flatten


def _prepare(config: ConfigDict) -> tuple[build.Parts, metrics.Console]:
    logging.getLogger("absl").setLevel(logging.WARNING)  # orbax and clu report every file
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
    console = metrics.Console(config.train.num_steps)
    with cli.one_line_errors():
        plan = build.make_plan(config)
        device = jax.devices()[0]
        console.log(
            f"{jax.device_count()} x {device.device_kind}, mesh data {plan.mesh_shape[0]} x fsdp "
            f"{plan.mesh_shape[1]} x tensor {plan.mesh_shape[2]}; policy of "
            f"{plan.model.num_params():,} parameters"
        )
        return build.make_parts(plan, console.log), console


def train(config: ConfigDict, workdir: Path) -> int:
    """Trains, prints a summary on standard output, returns the exit code."""
    begin = time.monotonic()
    parts, console = _prepare(config)
    (workdir / "config.json").write_text(json.dumps(flatten(config), indent=2) + "\n")
    try:
        before, after = trainer.Trainer(parts, workdir, console).run()
    except trainer.Stopped as stopped:
        console.log(f"{stopped}; the same command continues from there")
        return stopped.exit_code
    print(f"{config.train.num_steps} steps in {(time.monotonic() - begin) / 60:.1f} min")
    print(f"files: {workdir}/metrics.jsonl, {workdir}/eval/, {workdir}/tensorboard/, "
          f"{workdir}/checkpoints/")  # fmt: skip
    n = after.num_samples
    print(f"{after.num_problems} held-out prompts, {n} answers each (95 % interval):")
    for k, value in after.pass_at.items():
        low, high = after.pass_interval[k]
        print(f"  Pass@{k:<4} {before.pass_at[k]:.3f} -> {value:.3f}  ({low:.3f} to {high:.3f})")
    print(f"Pass@1 before {before.avg:.3f}, after {after.avg:.3f}")
    return 0


def evaluate(config: ConfigDict, workdir: Path) -> int:
    """Evaluates the newest checkpoint, prints the figures, returns the exit code."""
    parts, console = _prepare(config)
    state, step = build.initial_state(parts), 0
    checkpoints = Checkpoints(
        workdir / "checkpoints", flatten(config), parts.plan.config.checkpoint.keep
    )
    if (latest := checkpoints.latest()) is not None:
        with cli.one_line_errors():
            state, step = checkpoints.restore(latest, state, parts.shardings), latest
    output = workdir / "eval" / f"step_{step:06d}.jsonl"
    with build.make_grader(parts.plan) as grader:
        report = evaluate_lib.evaluate(
            parts, parts.engine.load_params(state.params), grader, output=output,
            progress=lambda done, total: console.phase(
                max(step - 1, 0), f"evaluation  answers {done:,}/{total:,}"),
        )  # fmt: skip
    json.dump({"step": step, **report.to_json(), "answers": str(output)}, sys.stdout, indent=2)
    print()
    return 0
