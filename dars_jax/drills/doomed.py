"""The trainer, but it kills itself at a named point.  For drills/crash.py, which starts it:

    KILL_AT=mid_update:3 NOTES=FILE python -m dars_jax.drills.doomed FLAGS OF launch/tpu_run.py

ends with SIGKILL in the third update.  Without KILL_AT it lives.  Every rollout of training that is
sampled leaves a line in NOTES before anything else is done with it.  The trainer knows nothing of
this: its functions are wrapped from here.
"""

import functools
import os
import random
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dars_jax.engine.jetstream_engine import PolicyEngine
from dars_jax.learner import update
from dars_jax.records import checkpoint, journal
from dars_jax.rewards import FunctionGrader
from dars_jax.rollout import stages
from dars_jax.rollout.scheduler import Scheduler

TRAINER = Path(__file__).resolve().parents[2] / "launch" / "tpu_run.py"
# Point -> about how often a run of drills/crash.py comes by.
POINTS = {
    "before_allocation": 40,  # stage 1 of some prompts is graded
    "after_allocation": 40,
    "between_verdicts": 2000,
    "mid_update": 8,
    "before_publication": 8,
    "mid_save": 4,
    "before_manifest": 4,
    "mid_journal": 40,
}

_training = False  # not evaluating


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # it comes at once, but to another thread perhaps


class _Countdown:
    """True at call number `left`."""

    def __init__(self, left: int):
        self._left = left

    def __call__(self) -> bool:
        self._left -= 1
        return self._left == 0


def _wrap(owner: Any, name: str, make: Callable[[Callable], Callable]) -> None:
    """Puts make(function) in place of a function."""
    old = getattr(owner, name)
    setattr(owner, name, functools.wraps(old)(make(old)))


def _note(path: str) -> None:
    """Notes what is sampled, and whether it is for training."""

    def sampled(old: Callable) -> Callable:
        def noting(self: journal.StepJournal, completions: list) -> None:
            step = self._identity["step"]
            with open(path, "a") as file:
                file.write("".join(f"{step} {c[0]}\n" for c in completions))
            old(self, completions)

        return noting

    def collect(old: Callable) -> Callable:
        def knowing(*args: Any, step: int, **kwargs: Any) -> Any:
            global _training
            _training = step >= 0
            return old(*args, step=step, **kwargs)

        return knowing

    _wrap(journal.StepJournal, "sampled", sampled)
    _wrap(stages, "collect", collect)


def _doom(point: str, count: int) -> None:
    """Sees to it that the process dies when it comes by the point for the count-th time."""
    due = _Countdown(count)

    def before(old: Callable) -> Callable:
        def dying(*args: Any, **kwargs: Any) -> Any:
            if _training and due():
                _die()
            return old(*args, **kwargs)

        return dying

    def around_allocation(old: Callable) -> Callable:
        def dying(self: Scheduler) -> None:
            at_point = _training and self._undecided.any() and due()
            if at_point and point == "before_allocation":
                _die()
            old(self)
            if at_point:
                _die()

        return dying

    def in_update(make_update: Callable) -> Callable:
        def making(*args: Any) -> Callable:
            run = make_update(*args)

            def dying(*args: Any) -> Any:
                out = run(*args)  # returns while the device is at work
                if due():
                    time.sleep(random.random() * 0.05)
                    _die()
                return out

            return dying

        return making

    def in_save(old: Callable) -> Callable:
        def dying(*args: Any) -> Any:
            if due():
                threading.Timer(random.random() * 0.3, _die).start()
            return old(*args)

        return dying

    def in_segment(old: Callable) -> Callable:
        def dying(path: Path, content: bytes) -> None:
            if due():
                path.with_name(path.name + ".partial").write_bytes(content[: len(content) // 2])
                _die()
            old(path, content)

        return dying

    _wrap(*{
        "before_allocation": (Scheduler, "allocate", around_allocation),
        "after_allocation": (Scheduler, "allocate", around_allocation),
        "between_verdicts": (FunctionGrader, "submit", before),
        "mid_update": (update, "make_update", in_update),
        "before_publication": (PolicyEngine, "load_params", before),
        "mid_save": (checkpoint.Checkpoints, "save", in_save),
        "before_manifest": (checkpoint.manifest, "write", before),
        "mid_journal": (journal, "write", in_segment),
    }[point])  # fmt: skip


def main() -> None:
    """Runs the trainer with this process's flags."""
    _note(os.environ["NOTES"])
    if doom := os.environ.get("KILL_AT"):
        point, count = doom.split(":")
        _doom(point, int(count))
    sys.argv[0] = str(TRAINER)
    runpy.run_path(str(TRAINER), run_name="__main__")


if __name__ == "__main__":
    main()
