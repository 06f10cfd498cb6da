"""Rollouts of a step that has not ended, on disk, so that none is paid for twice.

    WORKDIR/journal/step_000012/host0003_000007

is a segment: what one process sampled and graded since its segment before.  It is written once,
synced and renamed, and never touched again.  Object stores cannot append, and a batch of records
costs one file, one checksum and one sync in this way, all in a thread of their own.  While it
samples, the loop hands over references and waits for no disk.

A step's journal goes when a checkpoint that includes the step is whole.  A run that is killed finds
those of the steps since then.  Their segments are used if the weights, the settings and the prompts
are those that were there when they were written, and if their checksums are right.

A segment is CRC-32 of what follows (4 bytes, little endian), a line of JSON (the identity of the
step, and counts), then int32: request, stage and length of each completion, their tokens, the bits
of their log-probs; request, verdict and bits of the reward of each grade, the bits of its parts.  A
request is prompt * n_max + sample, the prompt counted within the step.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dars_jax import config as config_lib
from dars_jax import distributed
from dars_jax.rewards import Grade, Verdict
from dars_jax.rollout import stages
from dars_jax.types import Prompts

FORMAT = 1
SHARE = 0.01  # of a step's time, between two segments: what a kill costs, and how many there are
MOST = 2**26  # numbers of 4 bytes that may wait for the disk
_PARTIAL = ".partial"

Completion = tuple[int, int, np.ndarray, np.ndarray]  # request, stage, int32[n], float32[n]


class DamagedError(ValueError):
    """The file is not a segment as it was written."""


def encode(
    identity: dict[str, Any], completions: Sequence[Completion], grades: Sequence[tuple[int, Grade]]
) -> bytes:
    """A segment; see the head of this file.  All grades have as many parts."""
    request, stage, tokens, logprob = zip(*completions, strict=True) if completions else [()] * 4
    graded, grade = zip(*grades, strict=True) if grades else [()] * 2
    parts = [g.parts for g in grade]
    header = {"format": FORMAT, "completions": len(request), "grades": len(graded),
              "parts": len(parts[0]) if parts else 0, **identity}  # fmt: skip
    numbers = [request, stage, [len(ids) for ids in tokens], _joined(tokens, np.int32),
               _joined(logprob, np.float32).view(np.int32), graded, [g.verdict for g in grade],
               np.array([g.reward for g in grade], np.float32).view(np.int32),
               np.array(parts, np.float32).reshape(-1).view(np.int32)]  # fmt: skip
    body = np.concatenate([np.asarray(x, np.int32) for x in numbers])
    content = json.dumps(header).encode() + b"\n" + body.astype("<i4").tobytes()
    return struct.pack("<I", zlib.crc32(content)) + content


def _joined(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(arrays, dtype=dtype) if arrays else np.zeros(0, dtype)


def decode(content: bytes) -> tuple[dict[str, Any], list[Completion], list[tuple[int, Grade]]]:
    """What `encode` was given; rewards and parts rounded to float32.

    Raises:
      DamagedError: it was given something else.
    """
    if len(content) < 4 or struct.unpack("<I", content[:4])[0] != zlib.crc32(content[4:]):
        raise DamagedError("its checksum is not that of its contents")
    line, _, numbers = content[4:].partition(b"\n")
    header = json.loads(line)
    if header.pop("format") != FORMAT:
        raise DamagedError("it has another format")
    n, m, parts = (header.pop(name) for name in ("completions", "grades", "parts"))
    body = np.frombuffer(numbers, "<i4").astype(np.int32)
    request, stage, length = body[: 3 * n].reshape(3, n)
    tokens, logprob, grades = np.split(body[3 * n :], np.cumsum([length.sum(), length.sum()]))
    ends = np.cumsum(length)[:-1]
    rows = zip(request.tolist(), stage.tolist(), np.split(tokens, ends),
               np.split(logprob.view(np.float32), ends), strict=True)  # fmt: skip
    completions = list(rows) if n else []
    about, verdict, reward = grades[: 3 * m].reshape(3, m)
    part = grades[3 * m :].view(np.float32).reshape(m, parts)
    columns = (x.tolist() for x in (about, verdict, reward.view(np.float32), part))
    graded = [(r, Grade(x, Verdict(v), tuple(p))) for r, v, x, p in zip(*columns, strict=True)]
    return header, completions, graded


# The identity of what was sampled ----------------------------------------------------------------


@jax.jit
def _sum(leaf: jax.Array) -> jax.Array:
    """uint32[], another one if any element changes.

    In whole numbers, so that neither mesh nor order of addition matters.
    """
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
    place = jnp.zeros(leaf.shape, jnp.uint32)
    for axis, size in enumerate(leaf.shape):
        place *= jnp.uint32(size)
        place += jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)


def checksum(params: Any) -> int:
    """32 bits of the weights, the same on any mesh; a program for each shape, not for the tree."""
    total = 0
    for part in jax.device_get([_sum(leaf) for leaf in jax.tree.leaves(params)]):
        total = (total * 1_000_003 + int(part)) % 2**32
    return total


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def identity_of(config: dict, step: int, params: Any, prompts: Prompts) -> dict[str, Any]:
    """All that decides a step's rollouts, in a form that JSON can hold.

    Args:
      config: flattened.  What may change in a resumed run is left out.
      params: as published to the engine.
    """
    left_out = {*config_lib.FREE_KEYS, *config_lib.CONTENTS}  # these are in weights and prompts
    settings = {k: v for k, v in config_lib.as_of_today(config).items() if k not in left_out}
    files = re.findall(r"([^\s*]+\.py):", settings["reward.name"])
    rows = [[ids.tolist() for ids in prompts.tokens], prompts.uid.tolist(), prompts.answer]
    return {
        "step": step,
        "weights": f"{checksum(params):08x}",
        "settings": _digest(settings),  # the seed is one of them
        "prompts": _digest(rows),
        "reward": _digest([Path(file).read_text(errors="replace") for file in files]),
        "device": jax.devices()[0].device_kind,
    }


# Writing and reading -----------------------------------------------------------------------------


def write(path: Path, content: bytes) -> None:
    """A file, whole and synced or not there at all."""
    partial = path.with_name(path.name + _PARTIAL)
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


class StepJournal(stages.Journal):
    """The journal of the step at work: what an earlier run left, and what this one adds."""

    def __init__(self, directory: Path, identity: dict[str, Any], log: Callable[[str], None]):
        """Reads what is there.  All processes call it together."""
        self._directory, self._identity, self._log = directory, identity, log
        self._completions: dict[int, Completion] = {}
        self._grades: dict[int, Grade] = {}
        self._number = 0  # of the next segment of this process
        self._read()
        self.held = self._agree()
        self._sampled: list[Completion] = []
        self._graded: list[tuple[int, Grade]] = []
        self._waiting = 0  # numbers in these
        self._lost = 0  # completions
        self._made = False  # the directory
        self._news, self._ending = threading.Condition(), threading.Event()
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    def completion(self, request: int) -> tuple[np.ndarray, np.ndarray] | None:
        """(tokens int32[n], logprob float32[n]) of a held one; None if another process has them."""
        found = self._completions.get(request)
        return None if found is None else found[2:]

    def grade(self, request: int) -> Grade | None:
        """That of a completion which this process has; None if there is none yet."""
        return self._grades.get(request)

    def sampled(self, completions: list[Completion]) -> None:
        """Notes completions; returns at once."""
        size = sum(2 * len(c[2]) for c in completions)
        with self._news:
            if self._waiting + size > MOST:
                self._lost += len(completions)
                return
            self._waiting += size
            self._sampled += completions
            self._news.notify()

    def graded(self, grades: list[tuple[int, Grade]]) -> None:
        """Notes grades; returns at once.  On a reward that failed, a later run may do better."""
        failed = Verdict.FAILED
        kept = [x for x in grades if x[1].verdict != failed]  # makes no objects to be collected
        with self._news:
            self._graded += kept
            self._news.notify()

    def end(self) -> threading.Thread:
        """The thread that writes what is left, and then ends."""
        self._ending.set()
        with self._news:
            self._news.notify()
        return self._thread

    def close(self) -> None:
        """Returns when all is on disk."""
        self.end().join()

    def _write(self) -> None:
        begin, told = time.monotonic(), False
        with contextlib.suppress(OSError):  # the first segment will say so
            self._directory.mkdir(parents=True, exist_ok=True)
            self._made = True
        while True:
            with self._news:
                self._news.wait_for(lambda: self._sampled or self._graded or self._ending.is_set())
                completions, self._sampled = self._sampled, []
                grades, self._graded = self._graded, []
                self._waiting = 0
            if not completions and not grades:
                return
            problem = self._segment(completions, grades)
            if (problem or self._lost) and not told:
                told = True
                reason = problem or "the disk is too slow"
                self._log(f"WARNING: {self._directory} cannot keep everything ({reason}): a run "
                          "that is killed now samples some rollouts again")  # fmt: skip
            self._ending.wait(SHARE * (time.monotonic() - begin))

    def _segment(self, completions: list[Completion], grades: list[tuple[int, Grade]]) -> str:
        """What went wrong, if anything did."""
        name = f"host{jax.process_index():04d}_{self._number:06d}"
        try:
            write(self._directory / name, encode(self._identity, completions, grades))
        except OSError as error:
            dropped = self._made and not self._directory.exists()  # nobody needs it any more
            return "" if dropped else error.strerror or str(error)
        self._number += 1
        return ""

    def _read(self) -> None:
        """Takes the segments of this process's share of hosts; removes what cannot be used."""
        found = sorted(p.name for p in self._directory.glob("host????_??????"))
        (names, *_) = distributed.gather_json(found)  # a shared disk may list files late
        bad: dict[str, str] = {}
        for name in names:
            host, number = int(name[4:8]), int(name[9:])
            if host == jax.process_index():
                self._number = number + 1
            if host % jax.process_count() != jax.process_index():
                continue
            try:
                identity, completions, grades = decode((self._directory / name).read_bytes())
            except (OSError, DamagedError) as error:
                bad[name] = str(error)
                continue
            other = [key for key, value in self._identity.items() if identity.get(key) != value]
            if other:
                bad[name] = f"it is of other {' and '.join(other)}"
                continue
            for completion in completions:
                self._completions.setdefault(completion[0], completion)
            self._grades |= dict(grades)
        for name, reason in [x for part in distributed.gather_json(bad) for x in part.items()]:
            self._log(f"WARNING: {self._directory}/{name} is not used but removed: {reason}")
            if distributed.is_first():
                (self._directory / name).unlink(missing_ok=True)

    def _agree(self) -> dict[int, int]:
        """{request: stage} of all processes; what several have is the first one's."""
        mine = [[request, c[1]] for request, c in self._completions.items()]
        held: dict[int, int] = {}
        numbers = np.array(mine, np.int32).reshape(-1)
        for process, theirs in enumerate(distributed.gather_ragged(numbers)):
            for request, stage in theirs.reshape(-1, 2).tolist():
                if request in held and process == jax.process_index():
                    del self._completions[request]
                held.setdefault(request, stage)
        # what was graded and is lost may be sampled with another ending
        self._grades = {r: g for r, g in self._grades.items() if r in self._completions}
        return held


class Journals:
    """Those of a working directory."""

    def __init__(self, directory: Path, config: dict, log: Callable[[str], None]):
        """`config` is flattened; without its checkpoint.journal nothing is written or read."""
        self._directory, self._config, self._log = directory, config, log
        self._open: StepJournal | None = None
        self._background: list[threading.Thread] = []  # that end by themselves

    def open(self, step: int, params: Any, prompts: Prompts) -> stages.Journal:
        """That of a step.  All processes call it together.

        What is left of the step before is written beside it; of one before that, first.
        """
        self._wait()
        self._end()
        if not self._config["checkpoint.journal"]:
            return stages.Journal()
        identity = identity_of(self._config, step, params, prompts)
        self._open = StepJournal(self._of(step), identity, self._log)
        if self._open.held:
            self._log(f"step {step + 1} has {len(self._open.held):,} rollouts in its journal")
        return self._open

    def close(self) -> None:
        """Returns when all that was noted is on disk, and all that was dropped is not."""
        self._end()
        self._wait()

    def _end(self) -> None:
        if self._open is not None:
            self._background.append(self._open.end())
            self._open = None

    def _wait(self) -> None:
        while self._background:
            self._background.pop().join()

    def forget(self, step: int) -> None:
        """Removes what a step has noted: it is to be sampled again."""
        self.close()
        distributed.barrier()  # all have closed theirs
        if distributed.is_first():
            shutil.rmtree(self._of(step), ignore_errors=True)

    def drop(self, before: int) -> None:
        """Removes the journals of the steps from 0 to before - 1: a checkpoint includes them.

        Returns at once: on an object store it takes its time.
        """
        old = [path for step, path in _steps(self._directory) if step < before]
        if old and distributed.is_first():
            thread = threading.Thread(target=_remove, args=(old,), name="journal", daemon=True)
            thread.start()
            self._background.append(thread)

    def _of(self, step: int) -> Path:
        return self._directory / f"step_{step:06d}"


def _remove(directories: list[Path]) -> None:
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def _steps(directory: Path) -> Iterator[tuple[int, Path]]:
    for path in directory.glob("step_*"):
        if (number := path.name.removeprefix("step_")).isdigit():
            yield int(number), path
