"""Whole steps of the embedded policy, against prompts and against processes.

    python -m dars_jax.bench.scale_runs HOST:PORT PROCESSES INDEX WORKDIR PROMPTS STEPS

is one of several processes that share the 8 devices of a run; `bench scale --what hosts` starts
them.  The policy's learning rate is next to nothing, so that all steps have like work.
"""

import collections
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dars_jax import distributed
from dars_jax.bench.work import show, simulated
from dars_jax.commands import startup
from dars_jax.config import ConfigDict
from dars_jax.records import metrics
from dars_jax.setup import arms, build
from dars_jax.training import loop

HOST_DEVICES = 8  # of all processes together
HOST_PROMPTS = 256
IN_ROLLOUTS = ("prefill", "decode", "grade", "allocate", "journal")
AFTER = ("assemble", "update", "publish")


def config(prompts: int, steps: int) -> ConfigDict:
    """DARS-B on the embedded task with the paper's slots: 8 to 32 answers of at most 8 tokens."""
    c = arms.dars_b("countdown-3072")
    c.update_from_flattened_dict({
        "rollout.num_prompts": prompts, "train.num_steps": steps, "checkpoint.every": steps,
        "optimizer.learning_rate": 1e-12, "eval.num_samples": 1,
    })  # fmt: skip
    return c


def exchanged() -> collections.Counter[str]:
    """From now on counts what this process exchanges with others.

    Before each exchange all meet, so that waiting for the slowest is not taken for it.
    """
    gather, deliver = distributed.gather, distributed.deliver
    total = collections.Counter[str]()

    def counted(exchange: Callable[..., Any], x: Any, size: int) -> Any:
        begin = time.perf_counter()
        gather(np.int32(0))
        met, inner = time.perf_counter(), total["waiting_s"] + total["exchange_s"]
        got = exchange(x)  # which may exchange sizes first, and count that
        inner = total["waiting_s"] + total["exchange_s"] - inner
        total["waiting_s"] += met - begin  # type: ignore[assignment]
        total["exchange_s"] += time.perf_counter() - met - inner  # type: ignore[assignment]
        total["sent"] += size
        total["received"] += sum(part.nbytes for part in got) - size
        total["exchanges"] += 1
        return got

    def to_all(x: np.ndarray | np.int32) -> np.ndarray:
        return counted(gather, x, np.asarray(x).nbytes)

    def to_each(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
        own = parts[jax.process_index()].nbytes
        got = counted(deliver, parts, own)
        total["sent"] += sum(part.nbytes for part in parts) - 2 * own  # what is one's own stays
        return got

    distributed.gather, distributed.deliver = to_all, to_each
    return total


class _Ends(metrics.Console):
    """Notes when a step ends, and what was counted by then."""

    def __init__(self, steps: int, counted: Mapping[str, float]):
        super().__init__(steps)
        self._counted = counted
        self.notes: list[dict[str, float]] = []

    def step_done(self, step: int, message: str) -> None:
        super().step_done(step, message)
        clocks = {"clock": time.perf_counter(), "cpu": time.process_time()}
        self.notes.append({**clocks, **self._counted})

    def between(self) -> list[dict[str, float]]:
        """What was added in each step after the first, which compiles."""
        return [{k: x - before.get(k, 0) for k, x in after.items()}
                for before, after in zip(self.notes, self.notes[1:], strict=False)]  # fmt: skip


def train(
    settings: ConfigDict, workdir: Path, address: distributed.Address | None = None
) -> list[dict[str, Any]]:
    """Runs all steps -> of each after the first its metrics, and what `_Ends` has noted."""
    with startup.together(address, workdir):
        counted = exchanged() if address else collections.Counter[str]()
        parts, _ = startup.prepare(settings)
        ends = _Ends(settings.train.num_steps, counted)
        with build.make_grader(parts.plan) as grader:
            loop.Trainer(parts, grader, workdir, ends).run()
        lines = (workdir / "metrics.jsonl").read_text().splitlines()[1:]
        return [json.loads(line) | note for line, note in zip(lines, ends.between(), strict=True)]


def calmest(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The shortest step, which others disturbed least; of one step, parts add up to the whole."""
    return min(rows, key=lambda row: row["clock"])


def step_line(row: Mapping[str, Any]) -> dict[str, Any]:
    """Milliseconds per prompt of every part of a step; all of them are the whole."""
    prompts = row["num_prompts"]
    seconds = {name: row[f"seconds_{name}"] for name in (*IN_ROLLOUTS, *AFTER)}
    seconds["other_rollout"] = row["seconds_rollout"] - sum(seconds[k] for k in IN_ROLLOUTS)
    seconds["other"] = row["clock"] - sum(seconds.values())
    return {
        "rollouts": row["num_rollouts"], "tokens": row["tokens"],
        "decode_steps": row["decode_steps"], "seconds": row["clock"],
        "ms_per_prompt": 1e3 * row["clock"] / prompts,
        "cpu_seconds": row["cpu"],
        **{f"{name}_ms_per_prompt": 1e3 * s / prompts for name, s in seconds.items()},
    }  # fmt: skip


def step(prompts: int, repeats: int) -> dict[str, Any]:
    """A step in one process on one device."""
    with tempfile.TemporaryDirectory() as directory:
        rows = train(config(prompts, 1 + repeats), Path(directory))
    # of the last step of an epoch fewer prompts may be left
    return step_line(calmest([row for row in rows if row["num_prompts"] == prompts]))


def hosts(processes: int, repeats: int, prompts: int = HOST_PROMPTS) -> dict[str, Any]:
    """A step in several processes on this machine, with the devices shared out.

    Raises:
      RuntimeError: one of them failed.
    """
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = simulated(HOST_DEVICES // processes) | {"NPROC": "16"}
    with tempfile.TemporaryDirectory() as directory:
        words = [f"localhost:{port}", processes]
        group = [
            subprocess.Popen(
                [sys.executable, "-m", "dars_jax.bench.scale_runs",
                 *map(str, [*words, i, directory, prompts, 1 + repeats])],
                env=environment, text=True, stdout=subprocess.PIPE,
                stderr=None if i == 0 else subprocess.DEVNULL,
            )
            for i in range(processes)
        ]  # fmt: skip
        said = [process.communicate()[0] for process in group]
    if any(process.returncode for process in group):
        codes = [process.returncode for process in group]
        raise RuntimeError(f"{processes} processes ended with exit codes {codes}")
    return json.loads(said[0].splitlines()[-1])


def host_line(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What process 0 says of the steps."""
    row = calmest(rows)
    gathers = {k: row.get(k, 0) for k in ("exchanges", "sent", "received")}
    waits = {k: min(r.get(k, 0.0) for r in rows) for k in ("exchange_s", "waiting_s")}
    return {
        "rollouts": row["num_rollouts"], "tokens": row["tokens"], "seconds": row["clock"],
        "rollout_s": row["seconds_rollout"], "update_s": row["seconds_update"], **waits,
        "exchanges": gathers["exchanges"], "sent_bytes": gathers["sent"],
        "received_bytes": gathers["received"],
    }  # fmt: skip


def main(coordinator: str, processes: str, index: str, *rest: str) -> None:
    """One of the processes."""
    workdir, prompts, steps = Path(rest[0]), int(rest[1]), int(rest[2])
    address = (coordinator, int(processes), int(index)) if int(processes) > 1 else None
    rows = train(config(prompts, steps), workdir, address)
    if index == "0":
        show(host_line(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
