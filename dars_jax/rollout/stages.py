"""The rollouts of a step: sample, grade, allocate, sample more where it pays.

scheduler.py decides, the engine samples, the grader judges; this is the loop around them.
"""

import collections
import dataclasses
import time
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from dars_jax import distributed
from dars_jax.engine.session import NonFiniteError, Request, Session
from dars_jax.rewards import OUTSIDE, Context, Grade, Grader, GradingError, Verdict
from dars_jax.rollout import exchange
from dars_jax.rollout.scheduler import RolloutConfig, Scheduler
from dars_jax.types import Prompts, Ragged, Rollouts


@dataclasses.dataclass(frozen=True)
class RolloutStats:
    """What the rollouts of a step cost.  Seconds are wall-clock of the host."""

    decode_steps: int
    busy_slots: int  # summed over decode steps
    slot_steps: int  # slots there were, likewise
    prefill_seconds: float
    decode_seconds: float  # dispatching and waiting for the device
    grade_seconds: float  # submitting and collecting; grading itself overlaps with decoding
    allocate_seconds: float
    journal_seconds: float  # handing over what is to be noted
    recovered: int = 0  # rollouts that the journal held


class Journal:
    """What is known of a step already, and where news of it goes.  This one keeps nothing.

    A request is prompt * n_max + sample.  records/journal.py has one on disk.
    """

    held: Mapping[int, int] = types.MappingProxyType({})  # request -> stage, in all processes

    def completion(self, request: int) -> tuple[np.ndarray, np.ndarray] | None:
        """(tokens int32[n], logprob float32[n]) of a held one; None if another process has them."""
        return None

    def grade(self, request: int) -> Grade | None:
        """That of a completion which this process has; None if there is none yet."""
        return None

    def sampled(self, completions: list[tuple[int, int, np.ndarray, np.ndarray]]) -> None:
        """(request, stage, tokens, logprob) of completions that are new."""

    def graded(self, grades: list[tuple[int, Grade]]) -> None:
        """(request, grade) of grades that are new."""


_PATIENCE_S = 1.0  # for graders, before a look at whether the run is asked to stop

# progress(rollouts done, rollouts planned so far, tokens, largest stage begun, work); work grows
# with everything that is decoded or graded
ProgressFn = Callable[[int, int, int, int, int], None]


class _Clock:
    """Adds up the seconds of named phases."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = collections.defaultdict(float)

    def charge(self, phase: str, since: float) -> float:
        now = time.perf_counter()
        self.seconds[phase] += now - since
        return now


def collect(
    prompts: Prompts,
    session: Session,
    grader: Grader,
    decode_text: Callable[[np.ndarray], str],
    eos_ids: tuple[int, ...],
    config: RolloutConfig,
    *,
    seed: int,
    step: int,
    progress: ProgressFn = lambda *_: None,
    journal: Journal | None = None,
) -> tuple[Rollouts, RolloutStats]:
    """Runs all stages for the prompts of one step.

    While the device decodes, the host decodes text and grades what the last dispatch finished.
    With several processes each does so for its own replicas; the counts are added up, so that all
    decide alike, and in the end all know of all rollouts, each with the tokens of its own.

    Args:
      decode_text: completion tokens int32[n] -> text to grade.
      step: part of every random key; evaluation uses negative numbers.
      journal: what it holds is not sampled again, and not graded again if it has the grade.

    Raises:
      GradingError: the reward failed on more than config.max_errors answers; in all processes.
      NonFiniteError: the policy gave a log-prob that is no number; in all processes.
    """
    scheduler = Scheduler(
        prompts, config, session.num_replicas, session.config.prefixes, session.config.requests
    )
    store = _Store(prompts, config, eos_ids, len(grader.parts))
    clock = _Clock()
    journal = journal or Journal()
    tokens = finished = judged = failed = recovered = 0
    decode_steps = busy = capacity = 0
    fresh: dict[tuple[int, int], Any] = {}  # completions the grader has not seen
    unfilled: dict[int, None] = {}  # prompts that have a prefix row and are not prefilled
    while True:
        t = time.perf_counter()
        unfilled |= dict.fromkeys(scheduler.admit())
        asked = scheduler.requests(seed, step)
        requests, known = _apart(asked, scheduler, journal, config.n_max)
        wanted = {(r.replica, r.prefix) for r in requests}
        filled = [p for p in unfilled if scheduler.prefix(p)[:2] in wanted]
        if filled:
            session.prefill([scheduler.prefix(p) for p in filled])
        for p in filled:
            del unfilled[p]
        session.enqueue(requests, config.sampling)
        t = clock.charge("prefill", t)
        session.start(config.steps_per_dispatch)
        t = clock.charge("decode", t)
        answers = {scheduler.locate(*where): answer for where, answer in fresh.items()}
        journal.sampled([(p * config.n_max + sample, int(scheduler.stage[p]), *answer)
                         for (p, sample), answer in answers.items()])  # fmt: skip
        t = clock.charge("journal", t)
        answers |= known
        store.add(list(answers), scheduler.stage, list(answers.values()))
        recalled = []
        for (p, sample), (ids, _) in answers.items():
            request = p * config.n_max + sample
            if (p, sample) in known and (grade := journal.grade(request)) is not None:
                recalled.append((request, grade))
                continue
            grader.submit(request, decode_text(ids), prompts.answer[p],
                          _context(prompts, p, ids, eos_ids))  # fmt: skip
        fresh = {}
        graded = grader.collect(wait=False)
        t = clock.charge("grade", t)
        outcome = session.finish()
        decode_steps += outcome.steps
        busy += outcome.busy
        capacity += outcome.capacity
        fresh = session.drain(outcome.finished, outcome.most)
        broken = {scheduler.locate(*where)[0] for where, (_, logprob) in fresh.items()
                  if not np.isfinite(logprob).all()}  # fmt: skip
        t = clock.charge("decode", t)
        if outcome.idle and not outcome.completed:
            graded += grader.collect(wait=True, timeout_s=_PATIENCE_S)
        journal.graded(graded)
        graded += recalled
        store.grade(graded)
        counts = _count(graded, len(prompts), config.n_max, broken)
        counts = distributed.gather(counts).sum(0, dtype=np.int32)
        if counts[:, 4].any():
            raise NonFiniteError(_told(prompts, int(counts[:, 4].argmax()), step))
        scheduler.graded(counts[:, :2], counts[:, 2])
        judged += int(counts[:, 0].sum())
        failed += int(counts[:, 3].sum())
        if failed > config.max_errors:
            raise GradingError("; ".join(grader.complaints()) or "the reward of another process")
        recovered += len(asked) - len(requests)
        finished += outcome.completed
        tokens += outcome.tokens
        t = clock.charge("grade", t)
        scheduler.allocate()
        clock.charge("allocate", t)
        stage = int(scheduler.stage.max(initial=0))
        progress(finished + recovered, scheduler.planned, tokens, stage, busy + judged)
        if scheduler.done and not outcome.completed:
            break
    s = clock.seconds
    stats = RolloutStats(decode_steps, busy, capacity, s["prefill"], s["decode"], s["grade"],
                         s["allocate"], s["journal"], recovered)  # fmt: skip
    return exchange.gather(store.rollouts()), stats


def judged(rollouts: Rollouts) -> Rollouts:
    """Those that have a reward.

    Raises:
      GradingError: none has.
    """
    inside = ~np.isin(rollouts.verdict, OUTSIDE)
    if inside.all():
        return rollouts
    if not inside.any():
        raise GradingError(f"the reward left out all of {len(rollouts):,} answers")
    return rollouts.take(inside)


def _apart(
    asked: list[Request], scheduler: Scheduler, journal: Journal, n_max: int
) -> tuple[list[Request], dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]]:
    """(those to be sampled, {(prompt, sample): answer} of those that this process has)."""
    if not journal.held:
        return asked, {}
    missing, known = [], {}
    for request in asked:
        p, sample = scheduler.locate(request.replica, request.row)
        number = p * n_max + sample
        if journal.held.get(number) != scheduler.stage[p]:
            missing.append(request)
        elif (answer := journal.completion(number)) is not None:
            known[p, sample] = answer
    return missing, known


def _context(prompts: Prompts, p: int, ids: np.ndarray, eos_ids: tuple[int, ...]) -> Context:
    """What a reward may ask for besides the text."""
    text = prompts.text[p] if prompts.text else None
    row = prompts.row[p] if prompts.row else None
    return Context(int(prompts.uid[p]), text, row, ids.tolist(), int(ids[-1]) in eos_ids)


def _told(prompts: Prompts, p: int, step: int) -> str:
    text = f", {' '.join(prompts.text[p].split())[:60]!r}" if prompts.text else ""
    where = f"step {step + 1}" if step >= 0 else "evaluation"
    return (
        f"{where}: the policy's log-probs for the prompt of row {prompts.uid[p] + 1}{text} are "
        "not finite: its weights, or policy.dtype, cannot hold what it computes; answers would "
        "mean nothing"
    )


def _count(
    graded: list[tuple[int, Grade]], num_prompts: int, n_max: int, broken: Collection[int]
) -> np.ndarray:
    """Grades of requests -> int32[P,5]: how many of each prompt, right, without reward, failed;

    and whether it is in `broken`.
    """
    prompt = np.array([request // n_max for request, _ in graded], np.intp)
    verdict = np.array([grade.verdict for _, grade in graded], np.int8)
    masks = (verdict >= 0, verdict == Verdict.CORRECT, np.isin(verdict, OUTSIDE),
             verdict == Verdict.FAILED)  # fmt: skip
    columns = [np.bincount(prompt[m], minlength=num_prompts) for m in masks]
    columns.append(np.isin(np.arange(num_prompts), list(broken)).astype(np.intp))
    return np.stack(columns, 1).astype(np.int32)


class _Store:
    """Completions by (prompt, sample), in whatever order they arrive."""

    def __init__(
        self, prompts: Prompts, config: RolloutConfig, eos_ids: tuple[int, ...], num_parts: int
    ):
        shape = (len(prompts), config.n_max)
        self._eos = np.asarray(eos_ids)
        self._answers: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
        self._length, self._stage = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        self._truncated, self._held = np.zeros(shape, bool), np.zeros(shape, bool)
        self._reward, self._verdict = np.zeros(shape, np.float32), np.zeros(shape, np.int8)
        self._parts = np.zeros((*shape, num_parts), np.float32)

    def add(
        self,
        requests: list[tuple[int, int]],
        stage: np.ndarray,
        completions: list[tuple[np.ndarray, np.ndarray]],
    ) -> None:
        """Completions of requests (p, sample), where prompt p is in stage[p]."""
        if not requests:
            return
        self._answers |= zip(requests, completions, strict=True)
        p, sample = np.transpose(requests)
        last = [ids[-1] for ids, _ in completions]
        self._length[p, sample] = [len(ids) for ids, _ in completions]
        self._stage[p, sample] = stage[p]
        self._truncated[p, sample] = ~np.isin(last, self._eos)
        self._held[p, sample] = True

    def grade(self, graded: list[tuple[int, Grade]]) -> None:
        """Grades of requests, numbered p * n_max + sample."""
        at = [request for request, _ in graded]
        self._reward.reshape(-1)[at] = [grade.reward for _, grade in graded]
        self._verdict.reshape(-1)[at] = [int(grade.verdict) for _, grade in graded]
        if graded and self._parts.size:
            self._parts.reshape(-1, self._parts.shape[2])[at] = [grade.parts for _, grade in graded]

    def rollouts(self) -> Rollouts:
        """Rows of all that was added, in canonical order."""
        prompt, sample = (x.astype(np.int32) for x in np.nonzero(self._held))
        take = lambda x: x[prompt, sample]  # noqa: E731
        where = zip(prompt.tolist(), sample.tolist(), strict=True)
        answers = [self._answers[request] for request in where]
        return Rollouts(
            prompt=prompt, sample=sample, stage=take(self._stage),
            tokens=Ragged.join([ids for ids, _ in answers], np.int32),
            logprob=Ragged.join([values for _, values in answers], np.float32),
            length=take(self._length), truncated=take(self._truncated), reward=take(self._reward),
            verdict=take(self._verdict), parts=take(self._parts),
        )  # fmt: skip
