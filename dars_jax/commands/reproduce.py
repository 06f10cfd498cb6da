"""The paper in small, as a command: many runs of the embedded policy, and a report on them.

Every run is `launch/tpu_run.py` in a process of its own, so that it can be repeated by hand.  Runs
go side by side, one thread each: the embedded policy is too small to keep two busy (two runs on two
cores take 1.2 times as long as one alone), and how XLA splits its sums over threads decides the
last bits, so one thread makes them the same on any number of cores.
"""

import contextlib
import dataclasses
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dars_jax.commands import cli
from dars_jax.config import ConfigDict, differences, flatten
from dars_jax.records import storage
from dars_jax.records.progress import Progress
from dars_jax.study import page, paper, runs
from dars_jax.study.arms import STANDARD, Trial, Variant, trials
from dars_jax.study.compare import Study
from dars_jax.study.reproduction import Reproduction

POLL_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class Options:
    """What is to be run, and how."""

    workdir: Path
    seeds: int
    arms: tuple[str, ...]
    prompts: int
    also: Mapping[str, int]  # seeds of which part of arms.ALSO
    axis: str
    jobs: int
    command: str  # as the report says it

    def trials(self) -> list[Trial]:
        """All runs, in the order in which they begin."""
        return trials(self.arms, self.seeds, self.prompts, self.also)


@dataclasses.dataclass(frozen=True, eq=False)
class _Job:
    """A run that is to be done: where, and by which command."""

    trial: Trial
    directory: Path
    config: ConfigDict
    command: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.trial.directory.replace("/seed_", " seed ")

    def done_prompts(self) -> int:
        """Prompts that have been trained on so far."""
        file = self.directory / "metrics.jsonl"
        lines = file.read_bytes().count(b"\n") if file.exists() else 0
        return lines * self.config.rollout.num_prompts

    def finished(self) -> bool:
        """Whether the run is there, with the settings it would have now.

        Raises:
          ValueError: it is there with others.
        """
        stored = self.directory / "config.json"
        if not stored.exists():
            return False
        old, new = json.loads(stored.read_text()), flatten(self.config)
        if changed := differences(old, new):
            raise ValueError(
                f"{self.directory} holds a run of other settings ({'; '.join(changed)}): remove "
                "it, or take another --workdir"
            )
        last = self.config.train.num_steps
        return (self.directory / "eval" / f"step_{last:06d}.json").exists()


def reproduce(root: Path, options: Options) -> int:
    """Does the runs that are missing and writes the report; returns the exit code.

    Args:
      root: of the checkout, with configs/ and launch/.
    """
    with cli.one_line_errors(), contextlib.ExitStack() as stack:
        stack.enter_context(cli.alone(options.workdir, "reproduction"))
        jobs = [_job(root, options.workdir, trial) for trial in options.trials()]
        failed = _run_all(jobs, options)
        if failed:
            cli.fail(f"{len(failed)} of {len(jobs)} runs failed, first {failed[0]}; "
                     "the same command tries them again", 1)  # fmt: skip
        for file in write_report(options):
            print(file)
    return 0


def _job(root: Path, workdir: Path, trial: Trial) -> _Job:
    file, _, argument = trial.arm.config.partition(":")
    config = runpy.run_path(str(root / "configs" / file))["get_config"](argument)
    overrides = trial.overrides(config)
    config.update_from_flattened_dict(overrides)
    directory = workdir / trial.directory
    command = (
        sys.executable, str(root / "launch" / "tpu_run.py"),
        "--config", str(root / "configs" / trial.arm.config), "--workdir", str(directory),
        *(f"--config.{key}={value}" for key, value in overrides.items()),
    )  # fmt: skip
    return _Job(trial, directory, config, command)


def _environment(workdir: Path) -> dict[str, str]:
    """One thread on the CPU, and base policies that were taught by one thread too."""
    kept = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    cache = str((workdir / "cache").resolve())
    return kept | {"JAX_PLATFORMS": "cpu", "NPROC": "1", "DARS_JAX_CACHE": cache}


def _run_all(jobs: Sequence[_Job], options: Options) -> list[str]:
    """Runs what is not there yet -> what failed."""
    waiting = [job for job in jobs if not job.finished()]
    progress, failed = Progress("reproduce, prompts"), []
    if waiting:
        progress.log(f"{len(jobs) - len(waiting)} of {len(jobs)} runs are there; "
                     f"{options.jobs} at a time")  # fmt: skip
    total, environment = len(waiting), _environment(options.workdir)
    planned = {job: job.trial.prompts for job in waiting}
    ended = 0
    with _children() as running:
        while waiting or running:
            while waiting and len(running) < options.jobs:
                job = waiting.pop(0)
                running.append(_Child(job, _start(job, environment), time.monotonic()))
            time.sleep(POLL_SECONDS)
            for child in [c for c in running if c.process.poll() is not None]:
                running.remove(child)
                ended += 1
                said = _settle(child)
                if child.process.returncode:
                    failed.append(said)
                progress.log(f"[{ended}/{total}] {said}")
            progress(sum(min(job.done_prompts(), n) for job, n in planned.items()),
                     sum(planned.values()))  # fmt: skip
    progress.close()
    return failed


@dataclasses.dataclass(frozen=True)
class _Child:
    job: _Job
    process: subprocess.Popen[bytes]
    since: float


def _start(job: _Job, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    job.directory.mkdir(parents=True, exist_ok=True)
    with open(job.directory / "log.txt", "ab") as log:
        # a session of its own: Ctrl-C reaches this process, which asks the runs to save
        return subprocess.Popen(job.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                env=environment, start_new_session=True)  # fmt: skip


@contextlib.contextmanager
def _children() -> Iterator[list[_Child]]:
    """Runs under way; when this process is stopped they save, and end."""
    running: list[_Child] = []
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield running
    finally:
        signal.signal(signal.SIGTERM, before)
        for child in running:
            child.process.terminate()
        for child in running:
            child.process.wait()
        if running:
            print("stopped, every run saved; the same command continues", file=sys.stderr)


def _settle(child: _Child) -> str:
    """Makes a finished run small; one line on how it ended."""
    job = child.job
    if child.process.returncode:
        lines = (job.directory / "log.txt").read_text(errors="replace").splitlines()
        return f"{job.name}: exit code {child.process.returncode}, {lines[-1] if lines else ''}"
    run = runs.compact(job.directory)
    ks = (1, run.num_samples)
    gains = "  ".join(
        f"Pass@{k} {before:.3f} -> {after:.3f}"
        for k, (before, after) in ((k, run.pass_at(k)[[0, -1]].mean(1)) for k in ks)
    )
    return f"{job.name}: {gains}  {time.monotonic() - child.since:.0f} s"


def write_report(options: Options) -> list[Path]:
    """report.md with its pictures, report.html and report.json in WORKDIR/report."""
    found: dict[Variant, dict[str, list[runs.Run]]] = {}
    for trial in options.trials():
        arms = found.setdefault(trial.variant, {})
        arms.setdefault(trial.arm.name, []).append(runs.compact(options.workdir / trial.directory))
    studies = {variant: Study({name: tuple(mine) for name, mine in arms.items()})
               for variant, arms in found.items()}  # fmt: skip
    main = studies.pop(STANDARD)
    reproduction = Reproduction(main, studies, options.axis, options.command)
    directory = options.workdir / "report"
    written = page.write(directory, "report", paper.blocks(reproduction))
    content: dict[str, Any] = paper.to_json(reproduction)
    storage.replace(directory / "report.json", (json.dumps(content) + "\n").encode())
    return [*written, directory / "report.json"]
