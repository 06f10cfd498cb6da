"""A weighted sum of rewards: `math + 0.2 * ./style.py:brief`."""

import collections
import math
import re
import time
from collections.abc import Sequence

from dars_jax.rewards import function_grader
from dars_jax.rewards.grader import OUTSIDE, Context, Gold, Grade, Grader, Verdict

_SIGN = re.compile(r"\s+([+-])\s+")
_TERM = re.compile(r"(?:([\d.]+(?:e-?\d+)?)\s*\*\s*)?(\S(?:.*\S)?)")


class SumGrader(Grader):
    """Adds up rewards.  The first decides whether an answer is correct, the others only pay.

    An answer that one of them leaves out is left out; one on which one of them fails has failed.
    """

    def __init__(self, weights: Sequence[float], names: Sequence[str], graders: Sequence[Grader]):
        """As many of each, at least one.

        Args:
          names: of the rewards, all different; their order is that of Grade.parts.
        """
        self.parts = tuple(names)
        self._weights, self._graders = tuple(weights), tuple(graders)
        self._partial: dict[int, dict[int, Grade]] = {}  # request -> grader's number -> grade
        self._counters: collections.Counter[str] = collections.Counter()

    def submit(
        self, request_id: int, response: str, gold: Gold, context: Context | None = None
    ) -> None:
        """Queues one response with every grader."""
        self._partial[request_id] = {}
        for grader in self._graders:
            grader.submit(request_id, response, gold, context)

    def collect(self, *, wait: bool, timeout_s: float | None = None) -> list[tuple[int, Grade]]:
        """Grades that all have given; with wait, of all that were submitted."""
        begin = time.monotonic()
        finished = []
        for number, grader in enumerate(self._graders):
            left = timeout_s
            if timeout_s is not None:
                left = max(0.0, begin + timeout_s - time.monotonic())
            for request_id, grade in grader.collect(wait=wait, timeout_s=left):
                grades = self._partial[request_id]
                grades[number] = grade
                if len(grades) == len(self._graders):
                    ordered = [grades[i] for i in range(len(grades))]
                    finished.append((request_id, self._add(ordered)))
                    del self._partial[request_id]
        return finished

    def grade(
        self,
        responses: Sequence[str],
        golds: Sequence[Gold],
        contexts: Sequence[Context] | None = None,
    ) -> list[Grade]:
        """Grades a batch, in order.

        Raises:
          GradingError: one of the rewards failed more often than is allowed.
        """
        columns = [grader.grade(responses, golds, contexts) for grader in self._graders]
        return [self._add(grades) for grades in zip(*columns, strict=True)]

    def complaints(self) -> list[str]:
        """Those of all."""
        return [text for grader in self._graders for text in grader.complaints()]

    def counters(self) -> dict[str, int]:
        """Sums per verdict since the previous call: reading resets."""
        counts = {v.name.lower(): self._counters[v.name.lower()] for v in Verdict}
        self._counters.clear()
        return counts

    def close(self) -> None:
        """Ends all workers."""
        for grader in self._graders:
            grader.close()

    def _add(self, grades: Sequence[Grade]) -> Grade:
        outside = [grade.verdict for grade in grades if grade.verdict in OUTSIDE]
        verdict = max(outside, default=grades[0].verdict)  # FAILED before LEFT_OUT
        self._counters[verdict.name.lower()] += 1
        parts = tuple(grade.reward for grade in grades)
        if outside:
            return Grade(0.0, verdict, parts)
        total = sum(w * x for w, x in zip(self._weights, parts, strict=True))
        return Grade(total, verdict, parts)


def load_grader(
    name: str,
    *,
    num_workers: int = 2,
    cpu_limit_s: float = 1.0,
    timeout_s: float = 10.0,
    memory_gib: float = 4.0,
    correct_at: float = function_grader.CORRECT_AT,
    max_errors: int = 0,
    in_process: bool = False,
) -> Grader:
    """The grader of a reward, or of a sum of rewards.

    A reward is `math`, `math_verify`, `package.module:function` or `file.py:function`.  A sum is
    `math + 0.2 * ./style.py:brief - 0.1 * mine:length`, with spaces around + and -.

    Args:
      num_workers: processes of each, started when there is work.
      cpu_limit_s: CPU-seconds of one answer, `math` and `math_verify`.
      timeout_s, memory_gib: CPU-seconds of one answer and memory of a worker, functions.
      correct_at, max_errors: see FunctionGrader.
      in_process: call functions here, without limits.

    Raises:
      ValueError: there is no such reward, or a setting out of range.
    """
    terms = _terms(name)
    graders = [
        function_grader.load_one(
            term, num_workers=num_workers, cpu_limit_s=cpu_limit_s, timeout_s=timeout_s,
            memory_gib=memory_gib, correct_at=correct_at, max_errors=max_errors,
            in_process=in_process,
        )
        for _, term in terms
    ]  # fmt: skip
    weights, names = [weight for weight, _ in terms], [term for _, term in terms]
    return graders[0] if weights == [1.0] else SumGrader(weights, names, graders)


def _terms(text: str) -> list[tuple[float, str]]:
    """(weight, name) of each."""
    first, *rest = _SIGN.split(text.strip())
    terms: list[tuple[float, str]] = []
    for sign, term in [("+", first), *zip(rest[::2], rest[1::2], strict=True)]:
        match = _TERM.fullmatch(term)
        try:
            weight, name = float(match[1] or 1), match[2]  # type: ignore[index]
        except (TypeError, ValueError):
            raise ValueError(
                f'reward {text!r}: {term!r} is no reward; write "math + 0.2 * ./file.py:function"'
            ) from None
        if weight == 0 or math.isinf(weight) or name in (other for _, other in terms):
            twice = weight != 0 and math.isfinite(weight)
            what = "stands twice" if twice else f"has the weight {weight:g}"
            raise ValueError(f"reward {text!r}: {name!r} {what}")
        terms.append((weight if sign == "+" else -weight, name))
    return terms
