"""Answers of a policy to held-out prompts: sampled, graded, kept.  scores.py says what they mean.

An answer depends on (seed, noise, row of its prompt, sample) and the weights only, so that an
evaluation that was stopped continues with the prompts that are missing.  Several processes
sample and grade together, and the first writes.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO
from zlib import crc32

import numpy as np

from dars_jax import distributed
from dars_jax.data import prompts
from dars_jax.evaluation import scores
from dars_jax.evaluation.benchmarks import Benchmark
from dars_jax.evaluation.scores import Answers, Report
from dars_jax.policy import decoder
from dars_jax.records.storage import writing
from dars_jax.rewards import OUTSIDE, Grader, GradingError, Verdict
from dars_jax.rollout import exchange, stages
from dars_jax.setup import build
from dars_jax.types import Rollouts

EVALUATION_STEP = -1  # as the step of the random keys: the same noise at every evaluation
WAVES = 8  # fillings of the decode slots between two writes: what a stopped evaluation can lose

_BLOCK = 4096  # answers whose tokens travel to the first process at a time

# progress(answers done, answers in all, work); work is another number whenever there is progress
Progress = Callable[[int, int, int], None]


def evaluate(
    parts: build.Parts,
    params: decoder.Params,
    grader: Grader,
    *,
    output: Path | None,
    progress: Progress = lambda *_: None,
) -> Report:
    """Samples n answers to every test prompt from published params.

    Args:
      output: JSON lines of every answer; written beside and renamed, so it is whole if it exists.

    Raises:
      StorageError: it cannot be written.
    """
    rows, n = parts.test.rows, parts.plan.evaluation.n_max
    chunk = max(parts.plan.requests // n, 1) * parts.plan.num_replicas
    partial = Path(os.devnull)
    if not distributed.is_first():
        output = None
    if output is not None:
        with writing(output):
            output.parent.mkdir(parents=True, exist_ok=True)
        partial = output.with_suffix(".partial")
    pieces = []
    with writing(output or partial), partial.open("w") as file:
        for first, rollouts in _sample(parts, params, grader, parts.test, 0, chunk,
                                       EVALUATION_STEP, progress):  # fmt: skip
            _write(file, parts, rows[first:], None, rollouts, grader.parts)
            pieces.append(_answers(rollouts, grader.parts))
    if output is not None:
        with writing(output):
            partial.replace(output)
    return scores.report(scores.join(pieces), parts.plan.config.seed)


def noise_of(name: str) -> int:
    """A benchmark's own noise, whichever others are evaluated with it; below EVALUATION_STEP."""
    return EVALUATION_STEP - 1 - crc32(name.encode()) % 2**30


def answer(
    parts: build.Parts,
    params: decoder.Params,
    grader: Grader,
    benchmark: Benchmark,
    output: Path,
    *,
    noise: int,
    progress: Progress = lambda *_: None,
) -> Answers:
    """Samples n answers to every problem, unless `output` has them, and reads them back.

    Answers are appended to `output` with the ending .partial, a chunk of problems at a time; the
    next call continues after the last whole chunk, and the file is the same, byte for byte.  What
    is there must come from the same settings.

    Args:
      output: JSON lines {id, uid, problem, answer, sample, response, reward, verdict, length
        (tokens), truncated}, of a sum also rewards {name: reward}, by problem, then by sample.
      noise: in place of the step in the random keys; negative, as training counts from 0.

    Raises:
      StorageError: `output` cannot be written.
    """
    plan, examples, n = parts.plan, benchmark.examples, parts.plan.evaluation.n_max
    if not distributed.of_first(output.exists()):
        writes, done = distributed.is_first(), 0
        partial = output.with_suffix(".partial") if writes else Path(os.devnull)
        per_replica = min(plan.requests, WAVES * plan.slots) // n
        chunk = max(per_replica, 1) * plan.num_replicas
        if writes:
            with writing(output):
                output.parent.mkdir(parents=True, exist_ok=True)
                with partial.open("ab") as file:
                    done = keep_whole(file, chunk * n)
        done = chunk * distributed.of_first(done)
        with writing(output), partial.open("a") as file:
            for first, rollouts in _sample(
                parts, params, grader, examples, done, chunk, noise, progress
            ):
                _write(file, parts, examples.rows[first:], benchmark.ids[first:], rollouts,
                       grader.parts)  # fmt: skip
        if writes:
            with writing(output):
                partial.replace(output)
        distributed.barrier()
    return read(output, len(examples.rows), n)


def keep_whole(file: IO[bytes], lines: int) -> int:
    """Cuts a file opened for appending after its last whole chunk of `lines`; number of chunks."""
    kept = end = 0
    with open(file.name, "rb") as stored:
        for count, line in enumerate(stored, 1):
            end += len(line)
            if count % lines == 0 and line.endswith(b"\n"):
                kept, whole = count // lines, end
    file.truncate(whole if kept else 0)
    return kept


def _sample(
    parts: build.Parts,
    params: decoder.Params,
    grader: Grader,
    examples: prompts.Examples,
    first: int,
    chunk: int,
    noise: int,
    progress: Progress,
) -> Iterator[tuple[int, Rollouts]]:
    """(first row, its and the next rows' n answers each), from row `first` on, `chunk` at a time.

    The rollouts' `prompt` counts from the first row of their chunk.
    """
    plan, config = parts.plan, parts.plan.evaluation
    count, n = len(examples.rows), config.n_max
    for start in range(first, count, chunk):
        session = parts.engine.open_session(params, plan.config.rollout.prefill_batch)
        rollouts, _ = stages.collect(
            build.take(examples, np.arange(start, min(start + chunk, count))), session, grader,
            parts.tokenizer.decode, parts.tokenizer.eos_ids, config, seed=plan.config.seed,
            step=noise,
            progress=lambda done, *others, base=start: progress(
                base * n + done, count * n, others[-1]
            ),
        )  # fmt: skip
        del session  # its caches make room for the next one's
        yield start, rollouts


def _answers(everything: Rollouts, names: tuple[str, ...]) -> Answers:
    r = stages.judged(everything)
    problems = int(everything.prompt.max()) + 1
    _need_all(r.prompt, problems)
    return Answers(
        num_problems=problems,
        problem=r.prompt.astype(np.int64),
        reward=r.reward.astype(np.float64),
        correct=r.verdict == Verdict.CORRECT,
        length=r.length.astype(np.int64),
        truncated=r.truncated,
        parts=dict(zip(names, r.parts.astype(np.float64).T, strict=True)),
    )


def _need_all(problem: np.ndarray, problems: int) -> None:
    """Pass@k of a problem whose answers have no reward is not known."""
    missing = problems - len(np.unique(problem))
    if missing:
        raise GradingError(
            f"the reward left out all answers to {missing} of {problems} problems: leave such rows "
            "out of the data, or judge one answer at least"
        )


def _write(
    file: IO[str],
    parts: build.Parts,
    rows: tuple[prompts.Example, ...],
    ids: tuple[str, ...] | None,
    r: Rollouts,
    names: tuple[str, ...],
) -> None:
    """Appends the answers to the first of `rows`; on disk before this returns.

    All processes call it together, and the first writes.
    """
    for at in range(0, len(r), _BLOCK):
        some = r.take(np.arange(at, min(at + _BLOCK, len(r))))
        some = exchange.send(some, np.zeros(len(some), np.int32))
        if distributed.is_first():
            _write_lines(file, parts, rows, ids, some, names)
    if not distributed.is_first():
        return
    file.flush()
    if file.name != os.devnull:
        os.fsync(file.fileno())


def _write_lines(
    file: IO[str],
    parts: build.Parts,
    rows: tuple[prompts.Example, ...],
    ids: tuple[str, ...] | None,
    r: Rollouts,
    names: tuple[str, ...],
) -> None:
    for i in range(len(r)):
        p = r.prompt[i]
        line = {} if ids is None else {"id": ids[p]}
        line |= {
            "uid": rows[p].uid,
            "problem": rows[p].prompt,
            "answer": list(rows[p].answer),
            "sample": int(r.sample[i]),
            "response": parts.tokenizer.decode(r.tokens[i]),
            "reward": float(r.reward[i]),
            **({"rewards": dict(zip(names, r.parts[i].tolist(), strict=True))} if names else {}),
            "verdict": Verdict(r.verdict[i]).name.lower(),
            "length": int(r.length[i]),
            "truncated": bool(r.truncated[i]),
        }
        file.write(json.dumps(line) + "\n")


def read(path: Path, problems: int, n: int | None = None) -> Answers:
    """Graded answers of a finished file, n to each of `problems`, less those without a reward.

    Args:
      n: None takes as many as there are.

    Raises:
      ValueError: it holds another number of them.
      GradingError: all answers to a problem are without a reward.
    """
    reward, verdict, length, truncated = [], [], [], []
    parts: dict[str, list[float]] = {}
    with path.open() as file:
        for text in file:
            line = json.loads(text)
            reward.append(line["reward"])
            verdict.append(Verdict[line["verdict"].upper()])
            length.append(line["length"])
            truncated.append(line["truncated"])
            for name, value in line.get("rewards", {}).items():
                parts.setdefault(name, []).append(value)
    if n is None:
        n = len(reward) // problems
    if len(reward) != problems * n:
        raise ValueError(f"{path} has {len(reward):,} answers, expected {problems:,} x {n}")
    inside = ~np.isin(verdict, OUTSIDE)
    problem = np.repeat(np.arange(problems), n)[inside]
    _need_all(problem, problems)
    return Answers(
        num_problems=problems,
        problem=problem,
        reward=np.array(reward, np.float64)[inside],
        correct=(np.array(verdict) == Verdict.CORRECT)[inside],
        length=np.array(length, np.int64)[inside],
        truncated=np.array(truncated, bool)[inside],
        parts={name: np.array(values)[inside] for name, values in parts.items()},
    )
