"""A run that hangs ends, wherever it hangs, and says where."""

import dataclasses
import signal
import subprocess
import sys
import threading

import ml_collections
import processes
import pytest
from small_runs import but, make_config

from dars_jax.commands import cli
from dars_jax.records import checkpoint, metrics
from dars_jax.rewards.function_grader import FunctionGrader
from dars_jax.setup import build, plan
from dars_jax.training import loop
from dars_jax.training.watchdog import Watchdog

LONGEST = 300  # seconds a process may take, on a machine with other work


class Ended(BaseException):
    """In place of the end of the process."""


class Clock:
    """Stands still, but for what hangs."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture(scope="module")
def parts(even_parts):
    return but(even_parts, checkpoint__every=1, train__num_steps=3)


class Hanging:
    """Hangs in a call at a station: hours go by, and the watchdog ends the run."""

    def __init__(self, function, watchdog, ended, station, count):
        self._function, self._watchdog, self._ended = function, watchdog, ended
        self._station, self._left = station, count

    def __call__(self, *args, **kwargs):
        self._left -= self._watchdog._last[0][0] == self._station
        if self._left == 0:
            self._watchdog._clock.now += 1e6
            assert self._ended.wait(30)
            raise Ended
        return self._function(*args, **kwargs)


# what hangs: station, in which call there, step that is named, checkpoints that are left
PLACES = {
    "engine": ("rollouts", 2, 1, []),
    "grader": ("rollouts", 2, 1, []),
    "update": ("update", 2, 2, [1]),
    "publish": ("publish", 2, 2, [1]),
    "metrics": ("records", 2, 2, [1]),
    "save": ("checkpoint", 2, 2, [1]),
    "answers": ("evaluation", 1, 0, []),
}


@pytest.mark.parametrize("place", PLACES)
def test_wherever_a_run_hangs_it_ends_and_names_the_station(
    place, parts, tmp_path, monkeypatch, capfd
):
    station, count, step, left = PLACES[place]
    ended, file = threading.Event(), tmp_path / "stalled.txt"
    watchdog = Watchdog(1.0, file, ended.set, Clock())
    owner, name = {
        "engine": (loop.stages.Session, "finish"),
        "grader": (FunctionGrader, "collect"),
        "update": (type(parts), "update"),
        "publish": (type(parts.engine), "load_params"),
        "metrics": (metrics.MetricsLog, "write"),
        "save": (checkpoint.Checkpoints, "wait"),
        "answers": (loop.answering, "_write"),
    }[place]
    hanging = Hanging(getattr(owner, name, parts.update), watchdog, ended, station, count)
    if place == "update":
        parts = dataclasses.replace(parts, update=hanging)
    else:
        monkeypatch.setattr(owner, name, lambda *args, **kwargs: hanging(*args, **kwargs))
    monkeypatch.setenv("ANSWERS", str(tmp_path))
    with build.make_grader(parts.plan) as grader, watchdog.watching():
        run = loop.Trainer(parts, grader, tmp_path, metrics.Console(3), None, watchdog)
        with pytest.raises(Ended):
            run.run()
    run._checkpoints.close()
    told = file.read_text()
    assert f"no progress for 1,000,000 s at station {station!r} of step {step}," in told
    assert "in __call__" in told and "test_watchdog.py" in told  # where it hangs
    assert "error: no progress" in capfd.readouterr().err
    assert checkpoint.finished(tmp_path / "checkpoints") == left


def test_signs_of_the_same_work_are_no_progress_and_slow_stations_may_stay_slow():
    clock, ends = Clock(), threading.Semaphore(0)
    watchdog = Watchdog(10.0, None, ends.release, clock)

    def after(seconds):
        clock.now += seconds
        (station, *_), since = watchdog._last
        return clock.now - since > watchdog._allowed(station)

    watchdog.at("update", 1)
    assert not after(29) and after(2)  # the first time programs are compiled
    watchdog.at("publish", 1)
    assert not after(1)
    watchdog.at("update", 2)
    assert not after(90) and after(5)  # three times the 31 s that it took
    watchdog.at("publish", 2)
    assert not after(9) and after(2)
    watchdog.at("publish", 2)  # nothing new
    assert after(0)
    watchdog.at("publish", 3)
    assert not after(0)


def test_without_a_limit_nothing_watches():
    before = threading.active_count()
    with Watchdog(0, None, lambda: None).watching():
        assert threading.active_count() == before


def test_a_limit_below_0_is_refused():
    config = make_config({}, watchdog__minutes=-1.0)
    with pytest.raises(ValueError, match=r"watchdog\.minutes must be 0 or more, got -1.0"):
        plan.validate(ml_collections.ConfigDict(config), 1)


# Processes that really end -----------------------------------------------------------------------

HANGS_WHILE_IT_SAVES = """
import runpy, sys, time
from dars_jax.records import checkpoint, manifest
from dars_jax.training import watchdog
write, wait, waits, hours = manifest.write, checkpoint.Checkpoints.wait, 0, 0
def hang(directory, step, version):
    if step == 2:
        time.sleep(1e6)
    write(directory, step, version)
def hours_later(self):
    global waits, hours
    waits += 1
    if waits == 3:  # with the third state, for the save of the second
        hours = 2
    wait(self)
manifest.write, checkpoint.Checkpoints.wait = hang, hours_later
watchdog.Watchdog.__init__.__defaults__ = (lambda: time.monotonic() + 3600 * hours,)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_process_that_hangs_in_a_save_ends_with_a_code_of_its_own_and_its_state_whole(
    parts, prompt_files, tmp_path
):
    settings = prompt_files | {
        "policy.path": parts.plan.config.policy.path, "train.num_steps": 3,
        "watchdog.minutes": 1,  # so that it looks every 3 seconds
    }  # fmt: skip
    workdir, notes = tmp_path / "run", tmp_path / "notes"
    notes.mkdir()
    (command,) = processes.commands(1, workdir, settings)
    with processes.group([["-c", HANGS_WHILE_IT_SAVES, *command]], notes=notes) as (process,):
        _, error = process.communicate(timeout=LONGEST)
    assert process.returncode == cli.EXIT_STALLED == 8, error
    told = (workdir / "stalled.txt").read_text()
    for text in (error, told):
        assert "at station 'checkpoint' of step 3, where watchdog.minutes = 1" in text
        assert "in hang" in text and "Current thread" in text
    said = []
    checkpoint.recover(workdir / "checkpoints", workdir / "damaged", said.append)
    assert checkpoint.finished(workdir / "checkpoints") == [1]
    assert "the checkpoint of step 2 is not used" in said[0]
    assert [row["step"] for row in processes.rows(workdir)] == [1, 2, 3]


MEET = """
import os, pathlib, sys, time
from dars_jax import distributed
from dars_jax.training.watchdog import Watchdog
import numpy as np
me = int(sys.argv[2])
distributed.join((f"localhost:{sys.argv[1]}", 2, me))
file = pathlib.Path(sys.argv[3]) / f"stalled_{me}.txt"
watchdog = Watchdog(2.0, file, lambda: os._exit(8))
with watchdog.watching():
    for step in range(9):
        watchdog.at("rollouts", step)
        distributed.gather(np.int32(0))
        while step == 8 and me == 1:
            time.sleep(1)
    distributed.barrier()
"""


def test_a_process_that_hangs_takes_the_others_along_which_say_that_they_waited(tmp_path):
    port = processes.free_port()
    with processes.group([["-c", MEET, port, i, tmp_path] for i in range(2)]) as group:
        errors = [process.communicate(timeout=60)[1] for process in group]
    # whose time is up first takes the connection along; at the same moment both end by themselves
    assert 8 in [process.returncode for process in group]
    assert all(process.returncode not in (0, None) for process in group), errors
    told = {i: (tmp_path / f"stalled_{i}.txt") for i in range(2)}
    assert any(file.exists() for file in told.values())
    if told[0].exists():
        assert "waiting for the other processes" in told[0].read_text()
    if told[1].exists():
        assert "waiting for the other" not in told[1].read_text()


HOLDS_THE_INTERPRETER = """
import ctypes, os
from dars_jax.training import watchdog
watchdog._GRACE_S = 1.0
with watchdog.Watchdog(0.2, None, lambda: os._exit(8)).watching():
    import time
    time.sleep(0.3)
    ctypes.PyDLL(None).sleep(100)
"""


def test_native_code_that_holds_the_interpreter_is_ended_by_pythons_own_watchdog():
    done = subprocess.run([sys.executable, "-c", HOLDS_THE_INTERPRETER], capture_output=True,
                          text=True, check=False, timeout=60)  # fmt: skip
    assert done.returncode == 1 != -signal.SIGALRM
    assert "Timeout" in done.stderr and "line 8" in done.stderr
