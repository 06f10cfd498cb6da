"""Numbers of a step, and where they go: JSON lines, TensorBoard, a tracker, the terminal.

Everything that depends on the clock has a name that starts with "seconds" or ends with "_per_s";
all else but WORK is the same in every run of a configuration.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dars_jax import distributed
from dars_jax.records.progress import duration
from dars_jax.records.storage import replace, writing
from dars_jax.records.tracker import Tracker
from dars_jax.rewards import Verdict
from dars_jax.rollout.stages import RolloutStats
from dars_jax.types import Rollouts

# What depends on how much the engine had to do at a time: on when grades arrive from processes of
# their own, and on rollouts out of a journal.  With fewer slots log-probs are rounded otherwise.
WORK = ("decode_steps", "slot_occupancy", "logprob_gap", "logprob_gap_max", "logprob_gap_share",
        "rollouts_recovered")  # fmt: skip

ACCURACY_BINS = 5  # of equal width; a prompt at exactly 0 or 1 carries no advantage


def rollout_metrics(
    rollouts: Rollouts,
    kept: np.ndarray,
    advantage: np.ndarray,
    verdict: np.ndarray,
    parts: tuple[str, ...] = (),
) -> dict[str, Any]:
    """What the rollouts of a step say, before any update.

    Args:
      rollouts: those with a reward.
      kept: bool[P], prompts whose group enters the update.
      advantage: float32[N] of each rollout.
      verdict: int8, of all that were sampled.
      parts: names of the rewards that a sum adds up.
    """
    num_prompts = len(kept)
    correct = rollouts.verdict == Verdict.CORRECT
    sampled = np.bincount(rollouts.prompt, minlength=num_prompts)
    right = np.bincount(rollouts.prompt, correct, minlength=num_prompts)
    first = rollouts.stage == 0
    n_pre = np.bincount(rollouts.prompt[first], minlength=num_prompts)
    k = np.bincount(rollouts.prompt[first], correct[first], minlength=num_prompts)
    accuracy = right / np.maximum(sampled, 1)
    seen = n_pre > 0  # all, unless a reward left out a whole group
    bins = np.minimum((accuracy * ACCURACY_BINS).astype(int), ACCURACY_BINS - 1)
    pull = np.bincount(rollouts.prompt, np.abs(advantage), minlength=num_prompts)
    share = np.bincount(bins, pull, minlength=ACCURACY_BINS) / max(pull.sum(), 1e-9)
    verdicts = np.bincount(verdict, minlength=len(Verdict))
    return {
        "num_prompts": num_prompts,
        "num_rollouts": len(rollouts),
        "reward_mean": float(rollouts.reward.mean()),
        **{
            f"reward/{name}": float(mean)
            for name, mean in zip(parts, rollouts.parts.mean(0), strict=True)
        },
        # of the pre-rollouts: top-ups favour the hard
        "pass_at_1": float((k[seen] / n_pre[seen]).mean()),
        "solved_none": float((k[seen] == 0).mean()),
        "solved_some": float(((k > 0) & (k < n_pre))[seen].mean()),
        "solved_all": float((k == n_pre)[seen].mean()),
        "correct_histogram": _histogram(k),  # of the pre-rollouts
        "rescued_prompts": int(np.sum((k == 0) & (right > 0))),
        "groups_kept": int(kept.sum()),
        "rollouts_per_prompt": len(rollouts) / num_prompts,
        "top_up_histogram": _histogram(sampled - n_pre),
        "advantage_share": [float(s) for s in share],  # of sum |A|, per accuracy bin
        "response_length": float(rollouts.length.mean()),
        "truncated_share": float(rollouts.truncated.mean()),
        "tokens": int(rollouts.length.sum()),
        "verdicts": {v.name.lower(): int(verdicts[v]) for v in Verdict},
    }


def _histogram(values: np.ndarray) -> dict[str, int]:
    """How often each whole number occurs."""
    numbers, counts = np.unique(values, return_counts=True)
    return {str(int(n)): int(c) for n, c in zip(numbers, counts, strict=True)}


def cost_metrics(stats: RolloutStats) -> dict[str, Any]:
    """What the rollouts of a step cost."""
    return {
        "slot_occupancy": stats.busy_slots / max(stats.slot_steps, 1),
        "decode_steps": stats.decode_steps,
        "seconds_prefill": stats.prefill_seconds,
        "seconds_decode": stats.decode_seconds,
        "seconds_grade": stats.grade_seconds,
        "seconds_allocate": stats.allocate_seconds,
        "seconds_journal": stats.journal_seconds,
        **({"rollouts_recovered": stats.recovered} if stats.recovered else {}),
    }


def _kept(path: Path, last_step: int) -> list[tuple[int, bytes]]:
    """(step, line) of the whole lines up to a step.

    Raises:
      ValueError: a line is not as it was written.
    """
    kept = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            step = None
        if type(step) is not int:
            raise ValueError(f"{path}, line {number}, is damaged: it is no object with a step. "
                             "Remove the line, and the same command goes on")  # fmt: skip
        if step <= last_step:
            kept.append((step, line + b"\n"))
    return kept


class MetricsLog:
    """WORKDIR/metrics.jsonl, one object per step, and TensorBoard events beside it.

    The first of several processes writes them; a tracker gets what TensorBoard gets.
    """

    def __init__(
        self,
        workdir: Path,
        last_step: int,
        tracker: Tracker | None = None,
        log: Callable[[str], None] = print,
    ):
        """Drops lines of steps after `last_step`: the run continues from there.

        Args:
          log: is told of steps that have no line any more, or another one.

        Raises:
          ValueError: a line that stood is not one as it was written.
          StorageError: the files cannot be written; so do the methods.
        """
        self._writes = distributed.is_first()
        self._tracker = tracker
        if not self._writes:
            return
        from clu import metric_writers

        self._path = workdir / "metrics.jsonl"
        if last_step or self._path.exists():
            kept = _kept(self._path, last_step) if self._path.exists() else []
            if [step for step, _ in kept] != list(range(1, last_step + 1)):
                log(f"WARNING: {self._path} is damaged: of the {last_step} steps of this run it "
                    f"has lines of {len({step for step, _ in kept})}")  # fmt: skip
            replace(self._path, b"".join(line for _, line in kept))
        with writing(self._path):
            # without a buffer: what a full disk has refused is not written again at the end
            self._file = self._path.open("ab", buffering=0)
        self._events = workdir / "tensorboard"
        with writing(self._events, any_error=True):
            self._board = metric_writers.SummaryWriter(str(self._events))

    def write(self, step: int, values: dict[str, Any]) -> None:
        """One line, on disk before this returns; scalars go to TensorBoard and the tracker too."""
        if not self._writes:
            return
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v
                  for k, v in values.items()}  # fmt: skip
        line = json.dumps({"step": step, **finite}, allow_nan=False) + "\n"
        with writing(self._path):
            rest = memoryview(line.encode())
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        self.scalars(step, {k: v for k, v in values.items() if isinstance(v, int | float)})

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """TensorBoard and the tracker only."""
        if self._writes:
            with writing(self._events, any_error=True):
                self._board.write_scalars(step, values)
            if self._tracker:
                self._tracker.scalars(step, values)

    def close(self) -> None:
        """Flushes both."""
        if self._writes:
            self._file.close()
            with writing(self._events, any_error=True):
                self._board.close()


class Console:
    """One live line on a terminal; a line every few seconds elsewhere.

    The first of several processes speaks.
    """

    def __init__(self, total_steps: int):
        self._total = total_steps
        self._speaks = distributed.is_first()
        self._live = sys.stderr.isatty()
        self._start = self._shown = time.monotonic()
        self._done = 0
        self._width = 0

    def log(self, message: str) -> None:
        """A line that stays."""
        if not self._speaks:
            return
        if self._live and self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            self._width = 0
        print(message, file=sys.stderr, flush=True)

    def phase(self, step: int, what: str) -> None:
        """What is going on now."""
        now = time.monotonic()
        if not self._speaks or now - self._shown < (0.1 if self._live else 5):
            return
        self._shown = now
        message = f"step {step + 1}/{self._total}  {what}{self._left()}"
        if self._live:
            sys.stderr.write("\r" + message.ljust(self._width))
            sys.stderr.flush()
            self._width = len(message)
        else:
            print(message, file=sys.stderr, flush=True)

    def step_done(self, step: int, message: str) -> None:
        """Closes a step with a line that stays."""
        self._done += 1
        self.log(f"step {step + 1}/{self._total}  {message}{self._left(step + 1)}")

    def _left(self, finished: int | None = None) -> str:
        if not self._done or finished is None:
            return ""
        seconds = (time.monotonic() - self._start) / self._done * (self._total - finished)
        return f"  about {duration(seconds)} left" if seconds > 0 else ""
