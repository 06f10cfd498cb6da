"""What a grader promises to the rollout loop."""

import dataclasses
import enum
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

# One accepted form, or several of which any one counts.
Gold = str | Sequence[str]


class Verdict(enum.IntEnum):
    """Why a response got its reward.  Only CORRECT pays."""

    CORRECT = 0
    WRONG = 1
    NO_ANSWER = 2  # no balanced \boxed{} at the end, or an empty one
    TOO_BIG = 3  # refused: over a static limit, the work budget or the memory limit
    TIMED_OUT = 4  # a worker spent its CPU limit on it (CPU time, never wall clock)


@dataclasses.dataclass(frozen=True)
class Grade:
    """reward is in [0, 1]; MathGrader gives exactly 0.0 or 1.0."""

    reward: float
    verdict: Verdict


class Grader(Protocol):
    """Streaming (submit, collect) for rollouts without a barrier, or grade() for a batch.

    Grades are a function of (response, gold) alone: not of order, load or number of workers.
    """

    def submit(self, request_id: int, response: str, gold: Gold) -> None:
        """Queues one response; request_id names it in collect()."""
        ...

    def collect(self, *, wait: bool) -> list[tuple[int, Grade]]:
        """Grades finished since the last call; with wait, all that were submitted."""
        ...

    def grade(self, responses: Sequence[str], golds: Sequence[Gold]) -> list[Grade]:
        """Grades a batch, in order."""
        ...

    def counters(self) -> dict[str, int]:
        """Counts since the previous call: reading resets, so a trainer reads once a step."""
        ...

    def close(self) -> None:
        """Ends worker processes.  Ungraded responses are dropped."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def as_forms(gold: Gold) -> tuple[str, ...]:
    """The accepted forms of a gold as a tuple.  A wrong type is the data's fault: say so."""
    forms = (gold,) if isinstance(gold, str) else tuple(gold)
    if not forms or not all(isinstance(form, str) and form.strip() for form in forms):
        raise ValueError(f"gold must be a non-empty string or a list of them, got {gold!r:.200}")
    return forms
