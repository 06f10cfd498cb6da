"""Kills a small run again and again and damages its checkpoints: does it end with the same bits?

    python -m dars_jax.drills.crash --kills 50
    python -m dars_jax.drills.crash --kills 10 --processes 2

A run of the embedded policy that nobody disturbs comes first.  Others get kill -9, half of them at
random times, half at the points that drills/doomed.py names, and are started again; of several
processes one is killed.  In every fourth run a bit is flipped in the newest of two or more
checkpoints after each kill.  Every other run keeps only one.  No kill may take a checkpoint that
stood, and each run must end with the weights, optimizer state, metrics and answers of the first; of
steps with rollouts out of a journal, the metrics in records.metrics.WORK may differ.  In runs whose
checkpoints are whole, at most 2 % of the rollouts may be sampled twice.  Prints a JSON line for
every kill, for every run and for all together, and exits with 1 if it was otherwise.  Needs a
checkout, for launch/.
"""

import argparse
import collections
import contextlib
import dataclasses
import json
import math
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from dars_jax.commands import startup
from dars_jax.config import ConfigDict
from dars_jax.drills.doomed import POINTS
from dars_jax.learner import update
from dars_jax.policy import sharding
from dars_jax.records import checkpoint, metrics
from dars_jax.setup import build, saved_state
from dars_jax.setup.plan import Plan

REPO = Path(__file__).resolve().parents[2]
STEPS = 8
SETTINGS = {
    "train.num_steps": STEPS, "rollout.num_prompts": 96, "rollout.slots": 64,
    "rollout.steps_per_dispatch": 2, "learner.micro_batch_rows": 8, "eval.num_samples": 2,
    "checkpoint.every": 2,
}  # fmt: skip
KEEP = (3, 1)  # checkpoint.keep of one run and the next
MOST_AGAIN = 0.02  # of the rollouts, sampled twice


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run leaves that must not depend on its history."""

    rows: list[dict]  # of metrics.jsonl, times left out
    answers: dict[str, bytes]
    state: list[np.ndarray]

    def differences(self, other: "Outcome") -> list[str]:
        """Names of what is not the same."""
        recovered = {r["step"] for r in (*self.rows, *other.rows) if "rollouts_recovered" in r}
        plain = lambda rows: [  # noqa: E731
            {k: v for k, v in r.items() if r["step"] not in recovered or k not in metrics.WORK}
            for r in rows
        ]
        same = {
            "metrics": plain(self.rows) == plain(other.rows),
            "answers": self.answers == other.answers,
            "state": all(
                np.array_equal(x, y) for x, y in zip(self.state, other.state, strict=True)
            ),
        }
        return [name for name, equal in same.items() if not equal]


@dataclasses.dataclass(frozen=True)
class Kill:
    """How a run is to end."""

    process: int
    seconds: float | None = None  # after the start, or after the first step that the run takes,
    in_steps: bool = False  # if this is set; or
    point: str = ""  # of drills/doomed.py,
    count: int = 0  # when the process comes by for so many times

    @classmethod
    def draw(cls, rng: random.Random, number: int, processes: int, seconds: float) -> "Kill":
        """By turns at a random time, of a run that takes so many seconds, and at the next point."""
        process = rng.randrange(processes)
        if number % 2:
            in_steps = rng.random() < 0.5
            share = rng.uniform(0, 0.3) if in_steps else rng.uniform(0.3, 1)
            return cls(process, round(share * seconds, 3), in_steps)
        point = list(POINTS)[number // 2 % len(POINTS)]
        return cls(process, point=point, count=rng.randint(1, POINTS[point] // 2))


def _commands(workdir: Path, count: int, settings: dict) -> list[list[str]]:
    """One for each of `count` processes of a run."""
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    config = str(REPO / "configs" / "dars_b.py")
    command = [sys.executable, "-m", "dars_jax.drills.doomed", "--config", config,
               "--workdir", str(workdir), *flags]  # fmt: skip
    if count == 1:
        return [command]
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        meeting = [f"--coordinator=localhost:{probe.getsockname()[1]}", f"--num_processes={count}"]
    return [[*command, *meeting, f"--process_id={i}"] for i in range(count)]


def train(
    workdir: Path,
    count: int,
    keep: int = KEEP[0],
    kill: Kill | None = None,
    settings: dict = SETTINGS,
) -> bool:
    """Runs the trainer in `count` processes; whether it came to its end."""
    group, settings = [], settings | {"checkpoint.keep": keep}
    path = workdir.with_suffix(".log")
    with open(path, "a") as log:
        before = log.tell()
        for i, command in enumerate(_commands(workdir, count, settings)):
            env = os.environ | {"NOTES": str(workdir.with_suffix(f".notes{i}"))}
            env |= {"NPROC": "16"} if count > 1 else {}
            if kill and kill.point and kill.process == i:
                env |= {"KILL_AT": f"{kill.point}:{kill.count}"}
            group.append(subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=REPO,
                                          start_new_session=True))  # fmt: skip
    watched = group[kill.process if kill else 0]
    limit = math.inf if kill is None or kill.seconds is None else kill.seconds
    while kill and kill.in_steps and watched.poll() is None:
        if "  reward " in path.read_text()[before:]:
            break
        time.sleep(0.02)
    begin = time.monotonic()
    while watched.poll() is None and time.monotonic() - begin < limit:
        time.sleep(0.02)
    killed = watched.returncode in (None, -signal.SIGKILL)
    for process in group:
        if killed:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if not killed and any(process.returncode for process in group):
        raise RuntimeError(f"the trainer failed: {path.read_text()[-3000:]}")
    return not killed


def _sampled(workdir: Path) -> collections.Counter[str]:
    """How often each rollout of training was sampled."""
    counts: collections.Counter[str] = collections.Counter()
    for file in workdir.parent.glob(f"{workdir.name}.notes*"):
        counts.update(file.read_text().splitlines())
    return counts


def reader(plan: Plan, config: ConfigDict) -> Callable[[Path, int], list[np.ndarray]]:
    """A function of a working directory and a step that reads the state of the checkpoint.

    It raises ValueError where the checkpoint is refused.
    """
    optimizer = update.make_optimizer(plan.optimizer)
    mesh = sharding.make_mesh(*plan.mesh_shape)
    shardings = update.state_shardings(plan.model, optimizer, mesh)
    source = build.policy_directory(plan, print)
    return lambda workdir, step: jax.tree.leaves(jax.device_get(
        saved_state.restore(plan, workdir, config, step, source, optimizer, shardings)
    ))  # fmt: skip


def configuration(settings: dict) -> ConfigDict:
    """What the command line of a run with these settings describes."""
    config = runpy.run_path(str(REPO / "configs" / "dars_b.py"))["get_config"]("")
    config.update_from_flattened_dict(settings)
    return config


def outcome(workdir: Path) -> Outcome:
    """Reads what a finished run has left."""
    config = configuration(SETTINGS)
    state = reader(build.make_plan(config), config)(workdir, STEPS)
    timed = lambda key: key.startswith("seconds") or key.endswith("_per_s")  # noqa: E731
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [{k: v for k, v in json.loads(line).items() if not timed(k)} for line in lines]
    answers = {file.name: file.read_bytes() for file in (workdir / "eval").glob("*.jsonl")}
    return Outcome(rows, answers, state)


def damage(workdir: Path, rng: random.Random) -> str:
    """Flips a bit in a file of the newest checkpoint -> its name; "" if it has no predecessor."""
    directory = workdir / "checkpoints"
    steps = checkpoint.finished(directory)
    if len(steps) < 2:
        return ""
    files = [p for p in (directory / str(steps[-1])).rglob("*") if p.is_file() and p.stat().st_size]
    path = rng.choice(sorted(files))
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return str(path.relative_to(workdir))


def drill(directory: Path, kills: int, seed: int, processes: int) -> int:
    """Runs the drill in a directory; returns how often it was not as it must be."""
    rng = random.Random(seed)
    train(directory / "undisturbed", processes)  # also prepares data and compiled programs
    wanted = outcome(directory / "undisturbed")
    begin = time.perf_counter()
    train(directory / "timed", processes)
    seconds = time.perf_counter() - begin
    points: collections.Counter[str] = collections.Counter()
    failed = number = paid = again = 0
    while points.total() < kills:
        number += 1
        workdir, mine, flips, newest = directory / f"run_{number}", 0, 0, 0
        keep = KEEP[number % len(KEEP)]
        while True:
            done = points.total()
            kill = Kill.draw(rng, done, processes, seconds) if done < kills else None
            if train(workdir, processes, keep, kill):
                break
            assert kill is not None
            points[kill.point or "random"] += 1
            mine += 1
            steps = checkpoint.finished(workdir / "checkpoints")
            lost = max(steps, default=0) < newest  # a kill must not take what was there
            failed += lost
            damaged = damage(workdir, rng) if number % 4 == 2 else ""
            flips += bool(damaged)
            newest = max(steps, default=0) if not damaged else steps[-2]
            about = {"keep": keep, "finished": steps, "damaged": damaged, "lost": lost}
            print(json.dumps({"kill": points.total()} | dataclasses.asdict(kill) | about),
                  flush=True)  # fmt: skip
        different = outcome(workdir).differences(wanted)
        failed += bool(different)
        counts = _sampled(workdir)
        twice = counts.total() - len(counts)
        if not flips:
            paid, again = paid + counts.total(), again + twice
        print(json.dumps({"run": number, "kills": mine, "damaged": flips, "rollouts": len(counts),
                          "sampled_twice": twice, "different": different}), flush=True)  # fmt: skip
    share = again / max(paid, 1)
    print(json.dumps({"kills": dict(points), "runs": number, "otherwise": failed,
                      "sampled": paid, "sampled_twice": again, "share": round(share, 5)}),
          flush=True)  # fmt: skip
    return failed + (share > MOST_AGAIN)


def main() -> int:
    """Parses the command line and runs the drill; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dars_jax.drills.crash", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--kills", type=int, default=20, help="of all runs together (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the times and the bits")
    parser.add_argument("--processes", type=int, default=1, help="of every run (default 1)")
    args = parser.parse_args()
    for name in ("kills", "processes"):
        if (value := getattr(args, name)) < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    startup.settle()
    with tempfile.TemporaryDirectory(prefix="crash_drill_") as directory:
        return int(drill(Path(directory), args.kills, args.seed, args.processes) > 0)


if __name__ == "__main__":
    sys.exit(main())
