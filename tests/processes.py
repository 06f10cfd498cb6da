"""Runs of launch/tpu_run.py in several processes on this machine; the policy compiles fast."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import runpy
import signal
import socket
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp

from dars_jax.policy import decoder, weights
from dars_jax.tasks import countdown

TESTS = pathlib.Path(__file__).resolve().parent
SETTINGS = {
    "reward.name": "processes:even", "reward.in_process": True,
    "rollout.num_prompts": 10, "rollout.n_max": 16,
    "rollout.slots": 8, "rollout.prefixes": 2, "rollout.prefill_batch": 2,
    "learner.micro_batch_rows": 8, "eval.num_samples": 4, "eval.every": 1, "checkpoint.every": 1,
    "checkpoint.keep": 9,
}  # fmt: skip


def even(response, gold):
    """A reward that a policy without training earns now and then, more on some prompts.

    Leaves a note of every answer, in a file per process.
    """
    with open(pathlib.Path(os.environ["ANSWERS"]) / str(os.getpid()), "a") as file:
        file.write(json.dumps([gold, response]) + "\n")
    return sum(map(ord, response)) % (2 + int(gold.split()[0]) % 3) == 0


def write_policy(directory, **sizes):
    """One narrow layer with random weights."""
    sizes = {"num_layers": 1, "d_model": 32, "d_ff": 32} | sizes
    config = dataclasses.replace(decoder.ARCHITECTURES["countdown"], **sizes)
    params = jax.jit(functools.partial(decoder.init_params, config))(jax.random.key(0))
    weights.save_params(directory, params, config, source=None, dtype=jnp.float32)
    countdown.train_tokenizer(directory / "tokenizer.model")
    return directory


def write_problems(path, problems):
    """A file of prompts with their answers."""
    lines = [{"problem": p, "answer": countdown.answer_of(p)} for p in problems]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def config(settings):
    """The configuration that `commands` describes."""
    made = runpy.run_path(str(TESTS.parent / "configs" / "dars_hw.py"))["get_config"]("")
    made.update_from_flattened_dict(SETTINGS | settings)
    return made


@contextlib.contextmanager
def alarm(seconds, group):
    """Kills the group if the block, which may read from it, takes longer."""
    timer = threading.Timer(seconds, lambda: [process.kill() for process in group])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def answers(directory):
    """What each process graded, in its order."""
    return [file.read_text().splitlines() for file in directory.iterdir()]


@contextlib.contextmanager
def group(commands, devices=1, notes=""):
    """Processes with `devices` simulated devices each, none of which outlives the block."""
    environment = dict(
        os.environ, NPROC="16", ANSWERS=str(notes), PYTHONPATH=f"{TESTS.parent}{os.pathsep}{TESTS}",
        XLA_FLAGS=f"--xla_force_host_platform_device_count={devices} "
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    )  # fmt: skip
    started = [
        subprocess.Popen([sys.executable, *map(str, command)], text=True, cwd=TESTS.parent,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
                         start_new_session=True)
        for command in commands
    ]  # fmt: skip
    try:
        yield started
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def commands(count, workdir, settings):
    """The training command, once per process."""
    common = ["launch/tpu_run.py", "--config", "configs/dars_hw.py", "--workdir", workdir]
    common += [f"--config.{key}={value}" for key, value in (SETTINGS | settings).items()]
    if count == 1:
        return [common]
    meeting = ["--coordinator", f"localhost:{free_port()}", "--num_processes", count]
    return [[*common, *meeting, "--process_id", i] for i in range(count)]


def rows(workdir):
    """Metrics of a run."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
