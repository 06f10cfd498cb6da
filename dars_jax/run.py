"""What the launch scripts do, as functions a notebook can call."""

import contextlib
import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # tensorflow comes along with jetstream and clu

from dars_jax import (
    benchmarks,
    build,
    checkpoint,
    cli,
    distributed,
    evaluation_report,
    metrics,
    model,
    sharding,
    trainer,
    update,
    warmup,
    weights,
)
from dars_jax import config as config_lib
from dars_jax import evaluate as evaluate_lib
from dars_jax.benchmarks import Benchmark
from dars_jax.checkpoint import Checkpoints, SaveError
from dars_jax.config import ConfigDict, cache_dir, flatten
from dars_jax.plan import Plan
from dars_jax.progress import Progress
from dars_jax.types import TrainState


def settle() -> None:
    """Quiet logs, and programs that are compiled once for all processes."""
    logging.getLogger("absl").setLevel(logging.WARNING)  # orbax and clu report every file
    logging.getLogger("jax").setLevel(logging.WARNING)  # and jax how processes meet
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))


@contextlib.contextmanager
def _together(processes: distributed.Address | None, workdir: Path) -> Iterator[None]:
    """Runs the body in company of the other processes, if there are any."""
    settle()
    with cli.one_line_errors():
        distributed.join(processes)
    with distributed.leaving():
        with cli.one_line_errors():
            distributed.check_shared(workdir)
        yield


@contextlib.contextmanager
def _alone(workdir: Path) -> Iterator[None]:
    """Lets one trainer into a working directory; the lock goes with its process, however it ends.

    Raises:
      ValueError: another one is there.
    """
    if not distributed.is_first():
        yield
        return
    with open(workdir / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another trainer is at work in --workdir {workdir}: wait, or take another"
            ) from None
        yield


def _prepare(config: ConfigDict) -> tuple[build.Parts, metrics.Console]:
    console = metrics.Console(config.train.num_steps)
    with cli.one_line_errors():
        plan = build.make_plan(config)
        device = jax.devices()[0]
        processes = jax.process_count()
        several = f" in {processes} processes" if processes > 1 else ""
        data, fsdp, tensor = plan.mesh_shape
        console.log(
            f"{jax.device_count()} x {device.device_kind}{several}, mesh data {data} x fsdp {fsdp} "
            f"x tensor {tensor}; policy of "
            f"{plan.model.num_params():,} parameters"
        )
        return build.make_parts(plan, console.log), console


def train(config: ConfigDict, workdir: Path, processes: distributed.Address | None = None) -> int:
    """Trains, prints a summary on standard output, returns the exit code."""
    with _together(processes, workdir), contextlib.ExitStack() as stack:
        with cli.one_line_errors():
            stack.enter_context(_alone(workdir))
        return _train(config, workdir)


def _train(config: ConfigDict, workdir: Path) -> int:
    begin = time.monotonic()
    parts, console = _prepare(config)
    with cli.one_line_errors():
        grader = build.make_grader(parts.plan)
    try:
        with grader:
            with cli.one_line_errors():
                run = trainer.Trainer(parts, grader, workdir, console)
            if distributed.is_first():
                settings = json.dumps(flatten(config), indent=2)
                (workdir / "config.json").write_text(settings + "\n")
            before, after = run.run()
    except FloatingPointError as error:
        cli.fail(str(error), cli.EXIT_DIVERGED)
    except SaveError as error:
        cli.fail(str(error), cli.EXIT_NOT_SAVED)
    except trainer.Stopped as stopped:
        console.log(f"{stopped}; the same command continues from there")
        return stopped.exit_code
    if not distributed.is_first():
        return 0
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


def evaluate(
    config: ConfigDict,
    workdir: Path,
    files: list[Path],
    output: Path | None,
    processes: distributed.Address | None = None,
) -> int:
    """Evaluates the newest checkpoint, or the initial policy, and prints the table.

    What was answered before into the same directory is kept, so that a stopped evaluation
    continues, and benchmarks can be added.

    Args:
      files: benchmarks; none means the test prompts of the configuration.
      output: directory; None is WORKDIR/eval/step_NNNNNN_nN.

    Returns:
      The exit code.
    """
    with _together(processes, workdir):
        return _evaluate(config, workdir, files, output)


def _evaluate(config: ConfigDict, workdir: Path, files: list[Path], output: Path | None) -> int:
    parts, console = _prepare(_asking(config, files) if files else config)
    c = parts.plan.config
    with cli.one_line_errors():
        asked = _benchmarks(parts, files, console.log)
        step = newest(workdir)
        output = output or workdir / "eval" / f"step_{step or 0:06d}_n{c.eval.num_samples}"
        _claim(output, _settings(config, step), asked)
        params = build.initial_params(parts) if step is None else restore(
            parts.plan, workdir, config, step, parts.optimizer, parts.shardings
        ).params  # fmt: skip
    answers = []
    with build.make_grader(parts.plan) as grader:
        params = parts.engine.load_params(params)
        for benchmark in asked:
            file = output / "answers" / f"{benchmark.name}.jsonl"
            own = benchmark.name == benchmarks.name_of(config.data.test)  # as training samples it
            noise = evaluate_lib.EVALUATION_STEP if own else evaluate_lib.noise_of(benchmark.name)
            progress = Progress(f"{benchmark.name}  answers")
            show = progress if distributed.is_first() else lambda *_: None
            answers.append(
                evaluate_lib.answer(
                    parts, params, grader, benchmark, file, noise=noise, progress=show
                )
            )
            progress.close()
    if not distributed.is_first():
        return 0
    name = Path(c.policy.path).name if c.policy.path else "the embedded policy"
    protocol = {
        "answers per problem": c.eval.num_samples, "temperature": c.eval.temperature,
        "top-p": c.eval.top_p, "longest answer in tokens": c.rollout.max_tokens, "seed": c.seed,
    }  # fmt: skip
    evaluation = evaluation_report.summarize(
        f"{name} after {step} steps" if step else f"{name} before training",
        protocol,
        asked,
        answers,
        c.seed,
    )
    evaluation_report.write(output, evaluation)
    print(evaluation_report.to_markdown(evaluation))
    console.log(f"files: {output}/report.json, report.md, pass_at_k.png, answers/")
    return 0


def export(
    config: ConfigDict, workdir: Path, out: Path, *, step: int | None, dtype: str | None
) -> int:
    """Writes a checkpoint as a Hugging Face directory; returns the exit code.

    Args:
      step: None is the newest.
      dtype: "float32" or "bfloat16"; None is bfloat16, but float32 for the embedded policy, which
        is small and computes in it.
    """
    settle()
    path = config.policy.path
    dtype = dtype or ("bfloat16" if path else "float32")
    with cli.one_line_errors():
        plan = build.make_plan(config)
        steps = checkpoint.finished(workdir / "checkpoints")
        if not steps:
            raise ValueError(
                f"no checkpoint in {workdir}/checkpoints: is this the run's --workdir?"
            )
        if step is not None and step not in steps:
            raise ValueError(
                f"no checkpoint of step {step}: there are {', '.join(map(str, steps))}"
            )
        step = steps[-1] if step is None else step
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f"--out {out} exists and is not an empty directory")
        mesh = sharding.make_mesh(*plan.mesh_shape)
        optimizer = update.make_optimizer(plan.optimizer)
        shardings = update.state_shardings(plan.model, optimizer, mesh)
        state = restore(plan, workdir, config, step, optimizer, shardings)
        source = path or warmup.base_policy(cache_dir(), plan.model, print, warmup.WarmupConfig())
        weights.save_params(out, state.params, plan.model, source=source, dtype=jnp.dtype(dtype))
    size = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    print(f"{out}: step {step}, {plan.model.num_params():,} parameters in {dtype}, "
          f"{size / 1e6:,.1f} MB")  # fmt: skip
    return 0


def _asking(config: ConfigDict, files: list[Path]) -> ConfigDict:
    """The configuration that reads benchmark files, and needs no training data."""
    config = config.copy_and_resolve_references()  # ConfigDict(config) would share its sections
    config.data.train = config.data.test = str(files[0])
    config.data.prompt_field, config.data.answer_field = "problem", "answer"
    config.data.skip_bad_rows = False
    return config


def _benchmarks(
    parts: build.Parts, files: list[Path], log: Callable[[str], None]
) -> list[Benchmark]:
    c = parts.plan.config.data
    data_dir = c.dir or str(cache_dir() / "tfds")
    if not files:
        return [benchmarks.identify(c.test, parts.test, data_dir)]
    return [
        benchmarks.identify(
            str(file),
            build.load_examples(parts.plan, str(file), "--benchmarks", parts.tokenizer, log),
            None,
        )
        for file in files
    ]


def _settings(config: ConfigDict, step: int | None) -> dict[str, Any]:
    """What decides the answers."""
    flat = flatten(config)
    sampling = ("eval.num_samples", "eval.temperature", "eval.top_p")
    kept = {k: v for k, v in flat.items() if k in sampling or k not in config_lib.FREE_KEYS}
    return {"step": step or 0, **kept}


def _claim(output: Path, settings: dict[str, Any], asked: list[Benchmark]) -> None:
    """Notes in the directory what its answers come from.

    Raises:
      ValueError: it has answers of other settings, or to another version of a benchmark.
    """
    path = output / "settings.json"
    found = {"settings": settings, "benchmarks": {}}
    if path.exists():
        found = json.loads(path.read_text())
    old, known = found["settings"], found["benchmarks"]
    changed = [
        f"{key}: {old.get(key)!r} before, {settings.get(key)!r} now"
        for key in sorted(old.keys() | settings.keys())
        if old.get(key) != settings.get(key)
    ]
    mine = {benchmark.name: benchmark.fingerprint() for benchmark in asked}
    changed += [
        f"{name}: other problems" for name in mine if known.get(name, mine[name]) != mine[name]
    ]
    if changed:
        raise ValueError(
            f"{output} has the answers of another evaluation: {'; '.join(changed)}. "
            "Take another --output"
        )
    if not distributed.is_first():
        return
    output.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(found | {"benchmarks": known | mine}, indent=2) + "\n")
    partial.replace(path)


def newest(workdir: Path) -> int | None:
    """Step of the newest finished checkpoint."""
    return max(checkpoint.finished(workdir / "checkpoints"), default=None)


def restore(
    plan: Plan,
    workdir: Path,
    config: ConfigDict,
    step: int,
    optimizer: Any,
    shardings: TrainState,
) -> TrainState:
    """The state of a checkpoint; only shapes are made before it is read.

    Raises:
      ValueError: its files are not those that were saved; see also Checkpoints.restore.
    """
    directory = workdir / "checkpoints"
    if damage := checkpoint.problem(directory, step):
        raise ValueError(f"{damage}: move the checkpoint of step {step} away to use the one before")
    params = model.abstract_params(plan.model)
    like = TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32),
        params=params,
        opt_state=jax.eval_shape(optimizer.init, params),
    )
    checkpoints = Checkpoints(directory, flatten(config), plan.config.checkpoint.keep)
    state = checkpoints.restore(step, like, shardings)
    checkpoints.close()
    return state
