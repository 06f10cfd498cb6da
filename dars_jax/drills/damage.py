"""Damages what a run has left, in every file and at random: is all of it noticed, or harmless?

    python -m dars_jax.drills.damage
    python -m dars_jax.drills.damage --cases 1000 --seed 1

A small run is killed behind the update of its fourth step: it leaves two checkpoints, and the
journal of a step that no checkpoint has.  On copies of its directory a bit is flipped in each file
of the newest checkpoint and of the journal; then files of all kinds are damaged at random.  After
each the directory is opened as the trainer opens it.  Good are

    refused    the damage is named, and what is damaged not used
    harmless   what is read is what was written, bit for bit

`unnoticed` counts numbers of metrics.jsonl and texts of config.json that changed into others, and
that nothing promises to notice.  All else is wrong: another state, rollout, grade or figure, or an
error that no command tells in one line.  Prints a JSON line for each kind, and exits with 1 if
anything was wrong.  Needs a checkout, for launch/.
"""

import argparse
import collections
import dataclasses
import functools
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dars_jax.commands import startup
from dars_jax.drills import crash
from dars_jax.evaluation.scores import Report
from dars_jax.records import checkpoint, journal, metrics
from dars_jax.rewards import Grade
from dars_jax.setup import build
from dars_jax.training import loop

SETTINGS = crash.SETTINGS | {
    "rollout.num_prompts": 16, "data.test": "tfds:countdown:test[:16]",
    "checkpoint.every": 1,
}  # fmt: skip
KEEP = 2
KILL = crash.Kill(0, point="before_publication", count=4)
GROUPS = ("checkpoints", "journal", "metrics.jsonl", "config.json", "eval")
FIRST = "eval/step_000000.json"

Reader = Callable[[Path, int], list[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Left:
    """What the run has left, as it was written."""

    states: dict[int, list[np.ndarray]]  # of each checkpoint
    identities: dict[str, dict]  # of each step's journal
    rollouts: dict[str, dict[int, tuple]]  # of each step's journal: request -> its bits
    grades: dict[str, dict[int, Grade]]
    lines: list[bytes]  # of metrics.jsonl
    settings: dict
    report: Report


def leave(workdir: Path, read: Reader) -> Left:
    """Reads the undamaged directory."""
    steps = checkpoint.finished(workdir / "checkpoints")
    identities, rollouts, grades = {}, {}, {}
    for directory in sorted((workdir / "journal").glob("step_*")):
        segments = [journal.decode(file.read_bytes()) for file in sorted(directory.iterdir())]
        found = [c for _, completions, _ in segments for c in completions]
        identities[directory.name] = segments[0][0]
        rollouts[directory.name] = {c[0]: _bits(c[1], c[2], c[3]) for c in found}
        grades[directory.name] = {r: g for _, _, graded in segments for r, g in graded}
    return Left(
        {step: read(workdir, step) for step in steps}, identities, rollouts, grades,
        (workdir / "metrics.jsonl").read_bytes().splitlines(keepends=True),
        startup.stored_settings(workdir / "config.json"), loop.read_report(workdir / FIRST),
    )  # fmt: skip


def _bits(stage: int, tokens: np.ndarray, logprob: np.ndarray) -> tuple:
    return stage, tokens.tobytes(), logprob.tobytes()


# Opening, as the trainer does --------------------------------------------------------------------


def judge(workdir: Path, left: Left, read: Reader, seed: int) -> tuple[str, str]:
    """Opens a damaged directory -> (refused, harmless, unnoticed or wrong; what was said)."""
    said: list[str] = []
    try:
        kind = _start(workdir, left, read, said.append)
    except (ValueError, OSError) as error:  # what cli.one_line_errors turns into a line
        named = str(workdir) in str(error)
        return ("refused" if named else "wrong"), f"{type(error).__name__}: {error}"
    except Exception as error:
        return "wrong", f"{type(error).__name__}: {error}"
    try:
        kind = _run(workdir, left, seed, said.append) or kind
    except Exception as error:  # a run that has begun would end with a traceback
        return "wrong", f"{type(error).__name__}: {error}"
    return ("refused" if said and kind != "wrong" else kind), "; ".join(said)


def _start(workdir: Path, left: Left, read: Reader, log: Callable[[str], None]) -> str:
    """What comes before the first step: harmless, unnoticed or wrong."""
    stored = workdir / "config.json"
    settings = startup.stored_settings(stored) if stored.exists() else left.settings
    checkpoint.recover(workdir / "checkpoints", workdir / "damaged", log)
    newest = max(checkpoint.finished(workdir / "checkpoints"), default=0)
    state = read(workdir, newest) if newest else []
    if newest and [x.tobytes() for x in state] != [x.tobytes() for x in left.states[newest]]:
        return "wrong"
    metrics.MetricsLog(workdir, newest, None, log).close()
    lines = (workdir / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    same = settings == left.settings and lines == left.lines[:newest]
    return "harmless" if same else "unnoticed"


def _run(workdir: Path, left: Left, seed: int, log: Callable[[str], None]) -> str:
    """What steps and evaluations read: wrong, or "" if it is as it was, or not used."""
    for name, identity in left.identities.items():
        opened = journal.StepJournal(workdir / "journal" / name, identity, log)
        opened.close()
        for request, stage in opened.held.items():
            found, grade = opened.completion(request), opened.grade(request)
            if found is None or _bits(stage, *found) != left.rollouts[name].get(request):
                return "wrong"
            if grade not in (None, left.grades[name].get(request)):
                return "wrong"
    summary = workdir / FIRST
    if summary.exists() and summary.with_suffix(".jsonl").exists():  # else it is made again
        if problem := loop.stored_problem(summary, seed):
            log(problem)
        elif loop.read_report(summary) != left.report:
            return "wrong"
    return ""


# Damage ------------------------------------------------------------------------------------------


def files(workdir: Path, group: str) -> list[Path]:
    """Those of a group, in the order of their names."""
    top = workdir / group
    return sorted(p for p in (top, *top.rglob("*")) if p.is_file())


def flip(path: Path, rng: random.Random) -> None:
    """Another bit, anywhere."""
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _overwrite(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content))
    length = min(rng.randint(1, 4096), len(content) - start)
    content[start : start + length] = rng.randbytes(length)
    path.write_bytes(content)


def _truncate(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def _append(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randint(1, 4096)))


def _swap(one: Path, other: Path) -> None:
    """Files or directories change their places."""
    between = one.with_name("between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


def _swap_beside(path: Path, rng: random.Random) -> None:
    others = [p for p in path.parent.rglob("*") if p.is_file() and p != path]
    if others:
        _swap(path, rng.choice(sorted(others)))


KINDS: dict[str, Callable[[Path, random.Random], object]] = {
    "flip": flip,
    "overwrite": _overwrite,
    "truncate": _truncate,
    "delete": lambda path, _: path.unlink(),
    "append": _append,
    "empty": lambda path, _: path.write_bytes(b""),
    "swap with a file beside": _swap_beside,
}
OF_STEPS = ("swap with the step before", "swap two steps")


def damage(workdir: Path, kind: str, group: str, rng: random.Random) -> str:
    """Damages a file of a group -> which."""
    steps = checkpoint.finished(workdir / "checkpoints")
    older, newer = (workdir / "checkpoints" / str(step) for step in steps[-2:])
    if kind == "swap two steps":
        _swap(older, newer)
        return "checkpoints"
    if kind == "swap with the step before":
        names = [p.relative_to(newer) for p in files(workdir, f"checkpoints/{newer.name}")]
        both = [name for name in names if (older / name).exists()]
        name = rng.choice(both)
        _swap(newer / name, older / name)
        return f"checkpoints/{newer.name}/{name}"
    path = rng.choice([p for p in files(workdir, group) if p.stat().st_size])
    KINDS[kind](path, rng)
    return str(path.relative_to(workdir))


def _flip_named(workdir: Path, name: str, rng: random.Random) -> str:
    flip(workdir / name, rng)
    return name


def drill(directory: Path, cases: int, seed: int) -> int:
    """Runs the drill in a directory; returns how often it was not as it must be."""
    begin = time.perf_counter()
    rng, whole = random.Random(seed), directory / "run"
    if crash.train(whole, 1, KEEP, KILL, SETTINGS):
        raise RuntimeError("the run was not killed")
    config = crash.configuration(SETTINGS)
    plan = build.make_plan(config)
    read = crash.reader(plan, config)
    left = leave(whole, read)
    started = time.perf_counter() - begin
    print(json.dumps({"checkpoints": list(left.states), "seconds": round(started, 1),
                      "rollouts": {k: len(v) for k, v in left.rollouts.items()}}),
          flush=True)  # fmt: skip
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)

    def case(kind: str, act: Callable[[Path], str]) -> None:
        workdir = directory / "copy"
        shutil.copytree(whole, workdir)
        where = act(workdir)
        verdict, said = judge(workdir, left, read, config.seed)
        shutil.rmtree(workdir)
        counts[kind][verdict] += 1
        if verdict == "wrong":
            print(json.dumps({"wrong": where, "kind": kind, "said": said}), flush=True)

    newest = f"checkpoints/{max(left.states)}"
    for group in (newest, "journal"):
        for path in [p for p in files(whole, group) if p.stat().st_size]:
            name = str(path.relative_to(whole))
            case(f"a bit of each file of {group.partition('/')[0]}",
                 functools.partial(_flip_named, name=name, rng=rng))  # fmt: skip
    every = [(kind, group) for kind in KINDS for group in (*GROUPS, newest, newest)]
    every += [(kind, newest) for kind in OF_STEPS for _ in range(2)]
    for _ in range(cases):
        kind, group = rng.choice(every)
        case(kind, functools.partial(damage, kind=kind, group=group, rng=rng))
    total: collections.Counter[str] = collections.Counter()
    for kind, found in counts.items():
        total += found
        print(json.dumps({"kind": kind, "cases": found.total()} | _row(found)), flush=True)
    seconds = round(time.perf_counter() - begin, 1)
    print(json.dumps({"cases": total.total(), **_row(total), "seconds": seconds}), flush=True)
    return total["wrong"]


def _row(found: collections.Counter[str]) -> dict[str, int]:
    return {name: found[name] for name in ("refused", "harmless", "unnoticed", "wrong")}


def main() -> int:
    """Parses the command line and runs the drill; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dars_jax.drills.damage", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--cases", type=int, default=200, help="at random (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the damage")
    args = parser.parse_args()
    if args.cases < 0:
        parser.error(f"--cases must be at least 0, got {args.cases}")
    startup.settle()
    with tempfile.TemporaryDirectory(prefix="damage_drill_") as directory:
        return int(drill(Path(directory), args.cases, args.seed) > 0)


if __name__ == "__main__":
    sys.exit(main())
