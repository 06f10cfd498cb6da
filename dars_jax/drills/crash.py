"""Kills a small run again and again and damages its checkpoints: does it end with the same bits?

    python -m dars_jax.drills.crash --kills 20

A run of the embedded policy that nobody disturbs comes first.  Others get kill -9 at random times
and are started again, and after every third kill a bit is flipped in the newest of two or more
checkpoints.  Every other run keeps only one.  No kill may take a checkpoint that stood, and each
run must end with the weights, optimizer state, metrics and answers of the first.  Prints a JSON
line for every kill and every run, and exits with 1 if it was otherwise.  Needs a checkout, for
launch/.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from dars_jax.commands import startup
from dars_jax.learner import update
from dars_jax.policy import sharding
from dars_jax.records import checkpoint
from dars_jax.setup import build, saved_state

REPO = Path(__file__).resolve().parents[2]
STEPS = 8
SETTINGS = {
    "train.num_steps": STEPS, "rollout.num_prompts": 12, "rollout.slots": 64,
    "learner.micro_batch_rows": 8, "eval.num_samples": 2, "checkpoint.every": 1,
}  # fmt: skip
KEEP = (3, 1)  # checkpoint.keep of one run and the next


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run leaves that must not depend on its history."""

    rows: list[dict]  # of metrics.jsonl, times left out
    answers: dict[str, bytes]
    state: list[np.ndarray]

    def differences(self, other: "Outcome") -> list[str]:
        """Names of what is not the same."""
        same = {
            "metrics": self.rows == other.rows,
            "answers": self.answers == other.answers,
            "state": all(
                np.array_equal(x, y) for x, y in zip(self.state, other.state, strict=True)
            ),
        }
        return [name for name, equal in same.items() if not equal]


def _command(workdir: Path, keep: int) -> list[str]:
    settings = SETTINGS | {"checkpoint.keep": keep}
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    script, config = REPO / "launch" / "tpu_run.py", REPO / "configs" / "dars_b.py"
    return [sys.executable, str(script), "--config", str(config), "--workdir", str(workdir), *flags]


@dataclasses.dataclass(frozen=True)
class Kill:
    """When a run is killed."""

    seconds: float
    in_steps: bool  # counted from the end of the first step that it takes, not from its start


def _moment(rng: random.Random, seconds: float) -> Kill:
    """Half of the kills meet a run that is starting or anywhere, half one that steps and saves."""
    in_steps = rng.random() < 0.5
    return Kill(seconds * (rng.uniform(0, 0.3) if in_steps else rng.uniform(0.3, 1)), in_steps)


def _train(workdir: Path, keep: int = KEEP[0], kill: Kill | None = None) -> bool:
    """Runs the trainer; whether it came to its end before it was killed."""
    path = workdir.with_suffix(".log")
    with open(path, "a") as log:
        before = log.tell()
        process = subprocess.Popen(
            _command(workdir, keep), stdout=log, stderr=log, start_new_session=True
        )
    while kill and kill.in_steps and process.poll() is None:
        if "  reward " in path.read_text()[before:]:
            break
        time.sleep(0.02)
    with contextlib.suppress(subprocess.TimeoutExpired):
        if process.wait(kill.seconds if kill else None):
            raise RuntimeError(f"the trainer failed: {path.read_text()[-3000:]}")
        return True
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return False


def outcome(workdir: Path) -> Outcome:
    """Reads what a finished run has left."""
    config = runpy.run_path(str(REPO / "configs" / "dars_b.py"))["get_config"]("")
    config.update_from_flattened_dict(SETTINGS)
    plan = build.make_plan(config)
    optimizer = update.make_optimizer(plan.optimizer)
    mesh = sharding.make_mesh(*plan.mesh_shape)
    shardings = update.state_shardings(plan.model, optimizer, mesh)
    source = build.policy_directory(plan, print)
    state = saved_state.restore(plan, workdir, config, STEPS, source, optimizer, shardings)
    timed = lambda key: key.startswith("seconds") or key.endswith("_per_s")  # noqa: E731
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [{k: v for k, v in json.loads(line).items() if not timed(k)} for line in lines]
    answers = {file.name: file.read_bytes() for file in (workdir / "eval").glob("*.jsonl")}
    return Outcome(rows, answers, jax.tree.leaves(jax.device_get(state)))


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


def drill(directory: Path, kills: int, seed: int) -> int:
    """Runs the drill in a directory; returns how often it was not as it must be."""
    rng = random.Random(seed)
    _train(directory / "undisturbed")  # also prepares data and compiled programs
    wanted = outcome(directory / "undisturbed")
    begin = time.perf_counter()
    _train(directory / "timed")
    seconds = time.perf_counter() - begin
    done = failed = number = 0
    while done < kills:
        number += 1
        workdir, mine, flips, newest = directory / f"run_{number}", 0, 0, 0
        keep = KEEP[number % len(KEEP)]
        while not _train(workdir, keep, _moment(rng, seconds) if done < kills else None):
            done, mine = done + 1, mine + 1
            steps = checkpoint.finished(workdir / "checkpoints")
            lost = max(steps, default=0) < newest  # a kill must not take what was there
            failed += lost
            damaged = damage(workdir, rng) if done % 3 == 0 else ""
            flips += bool(damaged)
            newest = max(steps, default=0) if not damaged else steps[-2]
            print(json.dumps({"kill": done, "keep": keep, "finished": steps, "damaged": damaged,
                              "lost": lost}), flush=True)  # fmt: skip
        different = outcome(workdir).differences(wanted)
        failed += bool(different)
        print(json.dumps({"run": number, "kills": mine, "damaged": flips, "different": different}),
              flush=True)  # fmt: skip
    return failed


def main() -> int:
    """Parses the command line and runs the drill; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dars_jax.drills.crash", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--kills", type=int, default=20, help="of all runs together (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the times and the bits")
    args = parser.parse_args()
    if args.kills < 1:
        parser.error(f"--kills must be at least 1, got {args.kills}")
    startup.settle()
    with tempfile.TemporaryDirectory(prefix="crash_drill_") as directory:
        return int(drill(Path(directory), args.kills, args.seed) > 0)


if __name__ == "__main__":
    sys.exit(main())
