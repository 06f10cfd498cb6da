"""What a grader promises to the rollout loop."""

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

# One accepted form, or several of which any one counts.
Gold = str | Sequence[str]


class Verdict(enum.IntEnum):
    """Why a response got its reward.  CORRECT is what counts as right, in counts and Pass@k."""

    CORRECT = 0
    WRONG = 1
    NO_ANSWER = 2  # no balanced \boxed{} at the end, or an empty one
    TOO_BIG = 3  # refused: over a static limit, the work budget or the memory limit
    TIMED_OUT = 4  # a worker spent its CPU limit on it (CPU time, never wall clock)
    LEFT_OUT = 5  # a function of the user's gave no reward: the rollout takes no part
    FAILED = 6  # it raised, or returned what is no reward: no part either, and an error


OUTSIDE = (Verdict.LEFT_OUT, Verdict.FAILED)  # what is in no group and no mean


class GradingError(RuntimeError):
    """A reward function failed; the message names it, the row and what it did."""


@dataclasses.dataclass(frozen=True)
class Grade:
    """reward is in [0, 1], of a sum any number; MathGrader gives 0.0 or 1.0.  It is 0.0 OUTSIDE."""

    reward: float
    verdict: Verdict
    parts: tuple[float, ...] = ()  # of a sum: the rewards that it adds up, before their weights


@dataclasses.dataclass(frozen=True)
class Context:
    """What a reward function may ask for besides response and answer.  None is not known."""

    uid: int | None = None  # number of the problem's row, from 0; for messages
    prompt: str | None = None  # the problem, before any chat template
    row: Mapping[str, Any] | None = None  # the other columns of the problem's row, JSON-friendly
    tokens: Sequence[int] | None = None  # of the completion, its EOS included
    finished: bool | None = None  # ended by itself, not by the length limit


class Grader(Protocol):
    """Streaming (submit, collect) for rollouts without a barrier, or grade() for a batch.

    Grades are a function of (response, gold) alone: not of order, load or number of workers.
    """

    parts: tuple[str, ...] = ()  # names of the rewards that it adds up; () if it is one

    def submit(
        self, request_id: int, response: str, gold: Gold, context: Context | None = None
    ) -> None:
        """Queues one response; request_id names it in collect()."""
        ...

    def collect(self, *, wait: bool, timeout_s: float | None = None) -> list[tuple[int, Grade]]:
        """Grades finished since the last call; with wait, all that were submitted.

        With timeout_s it comes back after so many seconds, though there is more.
        """
        ...

    def grade(
        self,
        responses: Sequence[str],
        golds: Sequence[Gold],
        contexts: Sequence[Context] | None = None,
    ) -> list[Grade]:
        """Grades a batch, in order.

        Raises:
          GradingError: a reward function failed more often than is allowed.
        """
        ...

    def complaints(self) -> list[str]:
        """What was wrong with the first FAILED of the last calls: reading resets."""
        ...

    def counters(self) -> dict[str, int]:
        """Counts since the previous call: reading resets, so a trainer reads once a step."""
        ...

    def close(self) -> None:
        """Ends worker processes.  Ungraded responses are dropped."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def as_forms(gold: Gold) -> tuple[str, ...]:
    """The accepted forms of a gold as a tuple.  A wrong type is the data's fault: say so."""
    forms = (gold,) if isinstance(gold, str) else tuple(gold)
    if not forms or not all(isinstance(form, str) and form.strip() for form in forms):
        raise ValueError(f"gold must be a non-empty string or a list of them, got {gold!r:.200}")
    return forms
